"""Names that a rule grants and their directory does not: kernels grant names by directories, without a word."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.decision import Mode
from pyisolate.policy.suggest import apply
from tests import inside
from tests.foreign_functions import with_ctypes
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
    assert seen == [("fs.create", "out"), ("fs.write", "there")]
    assert [one.also for one in events if one.target == f"{folder}/out"] == [(f"fs.write {folder}/out",)]


#: opens what is not there, and then, for each name, a new file that is removed at once, and
#: replaced by a link if `link` is one; returns the error numbers
GONE = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def opened(name):
    return libc.open(name, 0) < 0 and ctypes.get_errno()
def refused(folder, names, link):
    found = [opened(f"{folder}/never".encode())]
    for name in [f"{folder}/{one}".encode() for one in names]:
        libc.close(libc.open(name, 0o101, 0o600))
        found.append(opened(name))
        libc.unlink(name)
        if link:
            libc.symlink(link.encode(), name)
    return found
"""


def test_a_refused_file_that_is_removed_at_once_is_one_event(supervisor: pyisolate.Supervisor, folder: Path) -> None:
    """The host looks at a name some time after the call: by then nothing is there, as where nothing ever was."""
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    names = [f"{number}" for number in range(8)]
    with supervisor.spawn("n", with_ctypes().allow_write(folder)) as sandbox:
        sandbox.exec(GONE)
        assert sandbox.call("refused", str(folder), names, "") == [errno.ENOENT] + [errno.EACCES] * len(names)
        found = [(event.capability, event.target, event.count) for event in sandbox.get_denial_events()]
    assert sorted(found) == [("fs.read", str(folder / name), 1) for name in names]


def test_a_refused_file_that_becomes_a_link_to_what_is_granted_is_counted_once(
    supervisor: pyisolate.Supervisor, folder: Path
) -> None:
    """Whether the host looks before or after that decides if it has a name; it is one refusal either way."""
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    names = [f"{number}" for number in range(8)]
    with supervisor.spawn("n", with_ctypes().allow_write(folder)) as sandbox:
        sandbox.exec(GONE)
        errors = sandbox.call("refused", str(folder), names, os.path.realpath(os.__file__))
        assert errors == [errno.ENOENT] + [errno.EACCES] * len(names)
        told = sum(event.count for event in sandbox.get_denial_events())
    assert told == len(names) or (told < len(names) and inside.plan(supervisor).bpf.counter is None)


def test_a_program_is_judged_by_what_it_met_and_not_by_what_it_put_there_since(
    supervisor: pyisolate.Supervisor, folder: Path
) -> None:
    """The record of a call is judged when the guest may long have put something else in its place."""
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    policy = pyisolate.Policy.preset("shell")
    granted = f"""for i in 1 2 3; do echo > p; rm p; ln -s {folder}/there p; rm p
        mkdir d; echo > d/there; rm -r d; ln -s {folder} d; rm d; done"""
    refused = f"ln -s {folder}/there l; cat l; rm l; ln -s /dev/null l"
    with supervisor.spawn("names", policy) as sandbox:
        assert sandbox.run(["/usr/bin/bash", "-c", granted]).returncode == 0
        assert sandbox.get_denial_events() == []
        assert b"cat: l:" in sandbox.run(["/usr/bin/bash", "-c", refused]).stderr
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.count) == ("fs.read", f"{folder}/there", 1)


def test_one_call_is_one_event_and_the_same_in_both_modes(supervisor: pyisolate.Supervisor, folder: Path) -> None:
    """What else the call needs is in it, and a program has the name by which it was called."""
    policy = pyisolate.Policy.preset("compute").allow_import("os")
    calls = (f"open('{folder}/new', 'x')", f"open('{folder}/there', 'r+')", "os.system('true')")
    told = {}
    for mode in ("enforce", "monitor"):
        with supervisor.spawn(mode, policy, mode=mode) as sandbox:
            for call in calls:
                sandbox.exec(f"import os\ntry: {call}\nexcept OSError: pass")
            events = sandbox.get_denial_events()
        told[mode] = [(one.capability, one.target, one.also, one.count) for one in events[: len(calls)]]
    shell = f"{os.path.realpath('/bin')}/sh"
    assert (
        told["monitor"]
        == told["enforce"]
        == [
            ("fs.create", f"{folder}/new", (f"fs.write {folder}/new",), 1),
            ("fs.write", f"{folder}/there", (f"fs.read {folder}/there",), 1),
            ("process.exec", shell, (), 1),
        ]
    )


def test_a_move_onto_a_file_that_is_granted_alone_has_one_name_in_both_modes(
    supervisor: pyisolate.Supervisor, folder: Path
) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    policy = pyisolate.Policy.preset("compute").allow_import("os").allow_write(folder / "there")
    move = f"import os\nopen('w', 'w').close()\ntry: os.replace('w', '{folder}/there')\nexcept OSError: pass"
    for mode in ("enforce", "monitor"):
        with supervisor.spawn("names", policy, mode=mode) as sandbox:
            sandbox.exec(move)
            (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.count) == ("fs.create", f"{folder}/there", 1)


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_what_a_guest_sees_to_be_there_or_not_is_told_as_linux_tells_it(
    supervisor: pyisolate.Supervisor, folder: Path, mode: Mode
) -> None:
    """`except FileNotFoundError` and `except FileExistsError` hold; what is hidden is refused, there or not."""
    (folder / "hidden").mkdir(0o777)
    (folder / "shown").mkdir(0o777)
    (folder / "shown" / "there").touch()
    policy = pyisolate.Policy.preset("compute").allow_import("os").allow_read(folder / "shown")
    absent = (
        "os.remove({0}), os.rmdir({0}), os.rename({0}, {0} + '2'), os.truncate({0}, 0), open({0}, 'r+'), "
        "os.open({0}, os.O_WRONLY), os.remove({0} + '/below'), os.link({0}, '/sandbox/workspace/l')"
    )
    taken = "open({1}, 'x'), os.mkfifo({1}), os.mknod({1}), os.mkdir({1})"
    shown = ("'missing'", "'there'")
    lines = ["import os", f"os.chdir({str(folder / 'shown')!r})", "errors = []"]
    for call in f"{absent}, {taken}".format(*shown).split("), "):
        lines.append(f"try: {call.removesuffix(')')})\nexcept OSError as error: errors.append(type(error).__name__)")
    with supervisor.spawn("names", policy, mode=mode) as sandbox:
        sandbox.exec("\n".join(lines))
        assert sandbox.eval("errors") == ["FileNotFoundError"] * 8 + ["FileExistsError"] * 4
        assert sandbox.get_denial_events() == []
        for name in ("hidden/missing", "shown/there"):  # the controls
            sandbox.exec(f"try: os.remove('../{name}')\nexcept OSError: pass")
        events = sandbox.get_denial_events()
    assert [(one.capability, one.target) for one in events] == [
        ("fs.delete", f"{folder}/hidden/missing"), ("fs.delete", f"{folder}/shown/there"),
    ]  # fmt: skip
