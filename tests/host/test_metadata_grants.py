"""A grant of `metadata` without writing: the root view mounts the file read-only, and changing it is one refusal."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.policy.suggest import apply
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")


CHANGES = {
    "chmod": "os.chmod(file, 0o600)",
    "utime": "os.utime(file)",
    "chmod, native": "libc.chmod(file.encode(), 0o600)",
    "setxattr, native": "libc.setxattr(file.encode(), b'user.a', b'x', 1, 0)",
}
GUEST = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def change():
    try:
        return ctypes.get_errno() if {change} else 0
    except OSError as error:
        return error.errno
file = {file!r}
change()
"""


@pytest.fixture
def file() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pyisolate-metadata-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = folder / "file"
    made.touch()
    if os.geteuid() == 0:
        os.chown(made, 65534, 65534)  # who a guest of a root host is
    yield made
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", CHANGES)
def test_changing_what_may_not_be_written_is_one_event(
    supervisor: pyisolate.Supervisor, file: Path, change: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    policy = pyisolate.Policy.from_dict(
        {
            "version": 1,
            "name": "metadata",
            "extends": "compute",
            "fs": [{"path": str(file), "allow": ["read", "metadata"]}],
            "import": {"allow": ["*"], "native": ["*"]},
        }
    )
    source = GUEST.format(change=CHANGES[change], file=str(file))
    with supervisor.spawn("metadata", policy) as sandbox:
        assert sandbox.exec(source).value != 0
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.code, event.count) == (
            "fs.metadata", str(file), "SCOPE_INSUFFICIENT", 1,
        )  # fmt: skip
        assert event.kernel_decision == "deny"
        assert event.suggestion == {"fs": [{"path": str(file), "allow": ["write"]}]}
    with supervisor.spawn("metadata", apply(policy, event.suggestion)) as sandbox:  # the control
        assert sandbox.exec(source).value == 0
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("way", ["open({0!r}, 'w').close()", "os.close(libc.open({0!r}.encode(), 0o101, 0o600))"])
def test_a_name_granted_alone_cannot_be_made_and_monitor_mode_says_so(
    supervisor: pyisolate.Supervisor, way: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    with tempfile.TemporaryDirectory(prefix="pyisolate-named-", dir="/var/tmp") as folder:
        os.chmod(folder, 0o777)
        name = f"{folder}/made"
        rule = {"path": name, "allow": ["write", "create"]}
        policy = apply(with_ctypes(), {"fs": [rule]})
        source = "import ctypes, os; libc = ctypes.CDLL(None)\n" + way.format(name)
        found, advice = {}, None
        for mode in ("enforce", "monitor"):
            with supervisor.spawn(mode, policy, mode=mode) as sandbox:
                if mode == "enforce":
                    with pytest.raises(pyisolate.SandboxError):
                        sandbox.exec(source)
                else:
                    sandbox.exec(source)
                (event,) = sandbox.get_denial_events()
            found[mode] = (event.capability, event.target, event.code)
            advice = advice or event.suggestion
        assert found["enforce"] == found["monitor"] == ("fs.create", name, "SCOPE_INSUFFICIENT")
        os.unlink(name)
        assert advice is not None
        with supervisor.spawn("followed", apply(policy, advice)) as sandbox:  # the control
            assert sandbox.exec(source).denials == ()
