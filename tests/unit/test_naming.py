"""Which calls that change names are asked about: no directory goes where a rule would come to mean another thing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.policy import compile_policy
from pyisolate.policy.broker import Broker
from pyisolate.records import Asked
from pyisolate.sandbox.naming import named_by


def test_a_socket_that_a_rule_names_is_not_put_in_place_with_a_directory() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # /tmp is a guest's own
        _check(Path(place))


def _check(place: Path) -> None:
    (place / "tree").mkdir()
    policy = Policy.preset("compute").with_ask("fs.create", "fs.delete")
    asked = Asked(
        number=1,
        capability=Capability.FS_DELETE,
        target=str(place / "tree"),
        other=str(place / "met"),
        syscall="rename",
    )

    def is_asked(policy: Policy) -> bool:
        return named_by(asked, Broker(compile_policy(policy)), 0o022) is not None

    assert is_asked(policy)
    assert is_asked(policy.allow_connect(f"unix:{place}/meter/socket"))
    assert not is_asked(policy.allow_connect(f"unix:{place}/met/socket"))
    assert not is_asked(policy.deny("net.connect", f"unix:{place}/tree/socket"))
