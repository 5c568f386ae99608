"""Calls that follow no symbolic link: judged, and named, by the link itself, as the kernel does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

SETTING = """
import ctypes, os, shutil, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def native(result):
    if result:
        raise OSError(ctypes.get_errno(), 'native')
class Own:  # its path is asked for within the call, and changes another link before it
    def __fspath__(self):
        os.utime('l', follow_symlinks=False)
        return 'l'
def program(*words):
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
"""
#: how a link's owner or times are changed, and what its event says
CHANGES = {
    "lchown": "os.lchown({0!r}, os.getuid(), -1)",
    "utime": "os.utime({0!r}, follow_symlinks=False)",
    "lchown, native": "native(libc.lchown({0!r}.encode(), os.getuid(), -1))",
    "lutimes, native": "native(libc.lutimes({0!r}.encode(), None))",
    "touch -h": "program('/usr/bin/touch', '-h', {0!r})",
}
#: the control: what the kernel lets through with a link of the workspace that leads to what is not granted
HARMLESS = {
    **{name: f"{source.format('l')}" for name, source in CHANGES.items()},
    "copy2": "shutil.copy2('l', 'm', follow_symlinks=False); os.unlink('m')",
    "copytree": "os.mkdir('a'); os.symlink('/etc/shadow', 'a/l'); shutil.copytree('a', 'b', symlinks=True)",
    "cp -a": "program('/usr/bin/cp', '-a', 'l', 'n')",
    "link": "os.link('l', 'o')",
    "a path that does the same": "os.utime(Own(), follow_symlinks=False)",
}
#: what meets the link and stops there
STOPPED = {
    "x": ("open('l', 'x')", "FileExistsError"),
    "O_EXCL, native": ("native(libc.open(b'l', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600) < 0)", "FileExistsError"),
    "O_NOFOLLOW": ("os.open('l', os.O_RDONLY | os.O_NOFOLLOW)", "OSError"),
    "O_NOFOLLOW, native": ("native(libc.open(b'l', os.O_RDONLY | os.O_NOFOLLOW) < 0)", "OSError"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="pyisolate-links-", dir="/var/tmp"))
    made.chmod(0o755)
    (made / "secret").write_text("x")
    (made / "read").mkdir()
    (made / "read" / "link").symlink_to(made / "secret")
    if os.geteuid() == 0:  # who a guest of a root host is
        os.chown(made / "secret", 65534, 65534)
        os.lchown(made / "read" / "link", 65534, 65534)
    yield made
    shutil.rmtree(made)


def _policy() -> pyisolate.Policy:
    return with_ctypes(pyisolate.Policy.preset("shell"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_of_a_link_names_the_link(supervisor: pyisolate.Supervisor, folder: Path, change: str) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees these calls")
    link, secret = folder / "read" / "link", folder / "secret"
    policy = _policy().allow_read(folder / "read").allow_read(secret).allow_write(secret)
    with supervisor.spawn("links", policy) as sandbox:
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(SETTING + CHANGES[change].format(str(link)))
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.count) == ("fs.metadata", str(link), 1)
        assert event.suggestion is None  # a rule of that name would speak of what it leads to


def test_what_changes_a_link_of_its_own_leaves_no_event(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("links", _policy()) as sandbox:
        sandbox.exec(SETTING + "os.symlink('/etc/shadow', 'l')")
        for source in HARMLESS.values():
            sandbox.exec(source)
        for source, error in STOPPED.values():
            with pytest.raises(pyisolate.GuestError) as met:
                sandbox.exec(source)
            assert met.value.type_name == error
        events = sandbox.get_denial_events()  # cp looks what the link leads to, and does not find it
        assert {one.capability.value for one in events} <= {"fs.lookup"}
        # the control: a call that follows it
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("os.utime('l')")
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec("open('l')")
        found = {(event.capability.value, event.target) for event in sandbox.get_denial_events()}
        assert found - {("fs.lookup", "/etc/shadow")} == {("fs.metadata", "/etc/shadow"), ("fs.read", "/etc/shadow")}


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_a_link_that_is_followed_is_judged_by_what_it_leads_to(
    supervisor: pyisolate.Supervisor, folder: Path, mode: str
) -> None:
    own, read = folder / "own", folder / "read"
    own.mkdir()
    own.chmod(0o777)
    (own / "file").write_text("x")
    (own / "file").chmod(0o666)  # fs.protected_hardlinks asks for a file that may be written
    (read / "back").symlink_to(own / "file")
    policy = pyisolate.Policy.preset("compute").allow_read(read).allow_read(own).allow_write(own).with_mode(mode)
    link = "import os; os.link({!r}, 'made', dst_dir_fd=os.open({!r}, os.O_RDONLY))"
    with supervisor.spawn("links", policy) as sandbox:
        sandbox.exec(link.format(str(read / "back"), str(own)))
        assert (own / "made").samefile(own / "file")
        assert sandbox.get_denial_events() == []
