"""Names that a rule grants and their directory does not: kernels grant names by directories, without a word."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.policy.suggest import apply
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

#: what is done to {folder}, the capability, the name, and what the directory has to grant
CHANGES = {
    "a program makes": ("echo > {folder}/out", "fs.create", "out", ["write", "create"]),
    "python removes": ("import os; os.unlink('{folder}/there')", "fs.delete", "there", ["delete"]),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pyisolate-names-", dir="/var/tmp"))
    made.chmod(0o777)
    (made / "there").touch()
    (made / "there").chmod(0o666)
    (made / "link").symlink_to(made / "there")
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("change", CHANGES)
def test_a_granted_name_that_its_directory_does_not_grant_is_one_event(
    supervisor: pyisolate.Supervisor, folder: Path, change: str
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    source, capability, name, rights = CHANGES[change]
    policy = pyisolate.Policy.preset("shell").allow_read(folder).allow_write(folder / name)

    def run(sandbox: pyisolate.Sandbox) -> bool:
        if "program" in change:
            return sandbox.run(["/usr/bin/bash", "-c", source.format(folder=folder)]).returncode == 0
        try:
            sandbox.exec(source.format(folder=folder))
        except pyisolate.PolicyError:
            return False
        return True

    with supervisor.spawn("names", policy) as sandbox:
        assert not run(sandbox)
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.code, event.count) == (
            capability, str(folder / name), "SCOPE_INSUFFICIENT", 1,
        )  # fmt: skip
        assert event.suggestion == {"fs": [{"path": str(folder), "allow": rights}]}
    with supervisor.spawn("names", apply(policy, event.suggestion)) as sandbox:  # the control
        assert run(sandbox)
        assert [one for one in sandbox.get_denial_events() if one.target.startswith(str(folder))] == []
    assert os.path.exists(folder / name) is (name == "out")


def test_monitor_mode_tells_what_a_program_makes_from_what_it_finds(
    supervisor: pyisolate.Supervisor, folder: Path
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    policy = pyisolate.Policy.preset("shell").allow_read(folder).with_mode("monitor")
    with supervisor.spawn("names", policy) as sandbox:
        assert sandbox.run(["/usr/bin/bash", "-c", f"echo > {folder}/out; echo > {folder}/there"]).returncode == 0
        events = sandbox.get_denial_events()
    seen = [(one.capability, Path(one.target).name) for one in events if one.target.startswith(str(folder))]
    assert seen == [("fs.create", "out"), ("fs.write", "out"), ("fs.write", "there")]
