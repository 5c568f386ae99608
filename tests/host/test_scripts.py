"""Running a script: what its policy refuses of it is one event, and what its file's own mode refuses is none."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = pytest.mark.usefixtures("kept_supervisor")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pyisolate-scripts-", dir="/var/tmp")).resolve()
    made.chmod(0o755)
    (made / "no program").mkdir()
    for name, mode in (("runs", 0o755), ("plain", 0o644)):
        (made / name).write_text(f"#!{os.path.realpath(sys.executable)} -IS\n")
        (made / name).chmod(mode)
    yield made
    shutil.rmtree(made)


def test_a_script_whose_interpreter_is_not_granted_is_one_event(supervisor: pyisolate.Supervisor, folder: Path) -> None:
    script, interpreter = f"{folder}/runs", os.path.realpath(sys.executable)  # which guests may read, and not run
    policy = Policy.preset("compute").allow_import("subprocess").allow_exec(script)
    with supervisor.spawn("script", policy) as sandbox:
        for way in (f"subprocess.run([{script!r}])", f"os.execv({script!r}, [{script!r}])"):
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(f"import os, subprocess\n{way}")
            (event,) = caught.value.denials
            assert (event.capability, event.target, event.kernel_decision) == ("process.exec", interpreter, "deny")
            assert caught.value.denial_event == event
            assert event.broker_decision == "unavailable"  # it was asked about the script, which is granted
            assert event.suggestion == {"process": [{"exec": interpreter}]}
    with supervisor.spawn("granted", policy.allow_exec(interpreter)) as sandbox:  # the control
        assert sandbox.exec(f"import subprocess; subprocess.run([{script!r}]).returncode").value == 0
        refused = [event for event in sandbox.get_denial_events() if event.capability == "process.exec"]
        assert refused == []  # what an interpreter looks for as it starts is its own affair


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_an_interpreter_by_a_link_that_no_rule_names_is_one_event(
    supervisor: pyisolate.Supervisor, folder: Path, mode: str
) -> None:
    link, shell = folder / "by-link", os.path.realpath("/bin/sh")
    link.symlink_to(shell)
    script = folder / "script"
    script.write_text(f"#!{link}\n")
    script.chmod(0o755)
    policy = Policy.preset("compute").allow_import("subprocess").allow_exec(script).allow_exec(shell).with_mode(mode)
    run = f"import subprocess; subprocess.run([{str(script)!r}]).returncode"
    with supervisor.spawn("script", policy) as sandbox:
        if mode == "monitor":
            assert sandbox.exec(run).value == 0
        else:
            with pytest.raises(pyisolate.PolicyError) as caught:
                sandbox.exec(run)
            assert caught.value.denial_event in sandbox.get_denial_events()
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.code) == ("process.exec", str(link), "SCOPE_INSUFFICIENT")
        assert event.kernel_decision == ("would_deny" if mode == "monitor" else "deny")
        assert event.suggestion == {"process": [{"exec": str(link)}]}
    with supervisor.spawn("granted", policy.allow_exec(link)) as sandbox:  # the control
        assert sandbox.exec(run).value == 0
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_program_by_a_link_of_the_guests_is_advised_by_where_it_leads(
    supervisor: pyisolate.Supervisor, mode: str
) -> None:
    program = os.path.realpath("/usr/bin/env")
    policy = Policy.preset("compute").allow_import("subprocess").allow_exec("/usr/bin/true").with_mode(mode)
    run = f"import os, subprocess; os.symlink({program!r}, 'mine'); subprocess.run(['./mine', 'true']).returncode"
    with supervisor.spawn("link", policy) as sandbox:
        if mode == "monitor":
            sandbox.exec(run)
        else:
            with pytest.raises(pyisolate.PolicyError):
                sandbox.exec(run)
        (event,) = sandbox.get_denial_events()
        assert (event.target, event.suggestion) == (program, {"process": [{"exec": program}]})
    with supervisor.spawn("granted", policy.allow_exec(program)) as sandbox:  # the control
        assert sandbox.exec(run).value == 0
        assert sandbox.get_denial_events() == []


def test_what_a_files_own_mode_refuses_is_no_event(supervisor: pyisolate.Supervisor, folder: Path) -> None:
    policy = Policy.preset("compute").allow_import("subprocess").allow_exec(folder).with_workspace("4MiB")
    with supervisor.spawn("modes", policy) as sandbox:
        sandbox.exec("import os, subprocess; os.mkdir('shut'); open('shut/file', 'w').close(); os.chmod('shut', 0)")
        sandbox.exec("open('file', 'w').close(); os.chmod('file', 0)")
        for way in (
            f"subprocess.run(['{folder}/plain'])",
            f"subprocess.run(['{folder}/no program'])",
            "open('file')",
            "open('file', 'w')",
            "open('shut/file')",
        ):
            with pytest.raises(pyisolate.GuestError, match="PermissionError"):
                sandbox.exec(way)
            assert sandbox.get_denial_events() == [], way
        with pytest.raises(pyisolate.PolicyError):  # the control
            sandbox.exec("subprocess.run(['/usr/bin/env'])")
        assert len(sandbox.get_denial_events()) == 1
