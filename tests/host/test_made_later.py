"""What a rule grants and is made after the sandbox started: its refusal is one event that says so, without advice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy

pytestmark = pytest.mark.usefixtures("kept_supervisor")

RUN = "import subprocess; subprocess.run([{path!r}], check=True)"
#: What is granted of an absent path, and what the guest does there.
CALLS = {
    "run": ("process.exec", RUN),
    "look": ("fs.lookup", "import os; os.stat({path!r})"),
}


@pytest.fixture
def path(place: Path) -> Path:
    return place / "tool"


def make(path: Path) -> None:
    shutil.copy("/usr/bin/true", path)
    path.chmod(0o777)


def granting(path: Path) -> Policy:
    return Policy.preset("compute").allow_exec(path).allow_read(path).allow_write(path).allow_exec("/usr/bin/false")


@pytest.mark.parametrize("call", CALLS)
def test_what_is_granted_and_made_later_is_refused_with_an_event_that_says_so(
    supervisor: pyisolate.Supervisor, path: Path, call: str
) -> None:
    capability, text = CALLS[call]
    code = text.format(path=str(path))
    with supervisor.spawn("early", granting(path)) as sandbox:
        with pytest.raises(pyisolate.GuestError) as absent:
            sandbox.exec(code)
        assert sandbox.get_denial_events() == [], "nothing is there, which is no refusal"
        assert f"the policy grants {path}, which does not exist" in str(absent.value)
        make(path)
        with pytest.raises(pyisolate.SandboxError) as caught:
            sandbox.exec(code)
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.kernel_decision) == (capability, str(path), "deny")
        assert (event.code, event.presented_capability) == ("SCOPE_INSUFFICIENT", f"{capability} {path}")
        assert "was not there when the sandbox started" in event.kernel_reason
        assert event.suggestion is None, "the policy has the rule"
        assert "make it before the sandbox starts" in str(caught.value)
    with supervisor.spawn("late", granting(path)) as sandbox:
        sandbox.exec(code)
        assert sandbox.get_denial_events() == []


def test_what_the_interpreter_opens_says_it_in_its_hint(supervisor: pyisolate.Supervisor, path: Path) -> None:
    """It asks the kernel for what is granted, and hears that nothing is there, as of any file that is not."""
    with supervisor.spawn("reads", granting(path)) as sandbox:
        make(path)
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec(f"open({str(path)!r})")
        assert "which was not there when the sandbox started" in str(caught.value)


def test_what_is_not_granted_and_made_later_is_refused_as_ever(supervisor: pyisolate.Supervisor, path: Path) -> None:
    with supervisor.spawn("not granted", granting(path)) as sandbox:
        other = path.with_name("beside")
        make(other)
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(RUN.format(path=str(other)))
        (event,) = sandbox.get_denial_events()
        assert event.suggestion == {"process": [{"exec": str(other)}]}


def test_a_program_that_is_made_later_in_a_granted_directory_runs(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    """With the C library and its loader, whatever was there when the directory's tables were made."""
    programs = place / "programs"
    programs.mkdir()
    policy = Policy.preset("compute").allow_exec(programs)
    with supervisor.spawn("runs", policy) as sandbox:
        make(programs / "tool")
        sandbox.exec(RUN.format(path=str(programs / "tool")))
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(RUN.format(path="/usr/bin/false"))


def test_a_sandbox_has_what_the_programs_of_a_directory_are_linked_to_by_then(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    programs = place / "programs"
    programs.mkdir()
    policy = Policy.preset("compute").allow_exec(programs)
    code = f"import subprocess; subprocess.run([{str(programs / 'list')!r}, '-d', '.'], check=True, cwd='/')"
    with supervisor.spawn("empty", policy):
        pass
    shutil.copy("/usr/bin/ls", programs / "list")  # with libselinux, which the interpreter does not need
    (programs / "list").chmod(0o755)
    with supervisor.spawn("linked", policy) as sandbox:
        sandbox.exec(code)


def test_a_rule_for_a_file_lets_it_be_made_at_no_time(supervisor: pyisolate.Supervisor, path: Path) -> None:
    """Names are granted by their directory: it is not the time that is in the way."""
    with supervisor.spawn("makes", granting(path)) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(f"open({str(path)!r}, 'x')")
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target) == ("fs.create", str(path))
    assert "when the sandbox started" not in event.kernel_reason
