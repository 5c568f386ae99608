"""Calls that change a file are read from the supervisor's copy of what they said, or not asked about."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import msgspec
import pytest

from pyisolate import Policy
from pyisolate.capability import Capability
from pyisolate.kernel.rootview.metadata import UNCHANGED, MetadataChange, change_metadata
from pyisolate.kernel.rootview.names import HostName, NameChange, change_names
from pyisolate.policy.broker import Broker
from pyisolate.policy.compile import compile_policy
from pyisolate.records import Asked
from pyisolate.sandbox.changing import changed_by
from pyisolate.sandbox.naming import name_of

_BROKER = Broker(compile_policy(Policy.preset("none").with_ask("fs.metadata")))
_NOW, _OMIT = 0x3FFFFFFF, 0x3FFFFFFE
_S = 1_000_000_000


def asked(syscall: str, file: Path, said: bytes = b"", flags: int = 0, mode: int = 0) -> Asked:
    return Asked(
        number=1,
        capability=Capability.FS_METADATA,
        target=str(file),
        tid=os.getpid(),
        syscall=syscall,
        said=said,
        flags=flags,
        mode=mode,
    )


def _two(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)


@pytest.mark.parametrize(
    ("syscall", "said", "times"),
    [
        ("utimensat", b"", None),
        ("utimensat", _two(0, _NOW, 0, _NOW), None),
        ("utimensat", _two(1, 5, 2, 6), (_S + 5, 2 * _S + 6)),
        ("utimensat", _two(0, _OMIT, 2, 6), (UNCHANGED, 2 * _S + 6)),
        ("utimes", _two(1, 5, 2, 6), (_S + 5000, 2 * _S + 6000)),
        ("futimesat", _two(-1, 0, 2, 999_999), (-_S, 2 * _S + 999_999_000)),
        ("utime", _two(1, 2), (_S, 2 * _S)),
    ],
)
def test_times_are_read_as_each_call_has_them(
    tmp_path: Path, syscall: str, said: bytes, times: tuple[int, int] | None
) -> None:
    named = changed_by(asked(syscall, tmp_path, said), _BROKER)
    assert named is not None
    assert isinstance(named.change, MetadataChange)
    assert (named.change.call, named.change.times) == ("utime", times)
    assert named.change.at.found is not None
    assert named.change.at.found[:2] == (tmp_path.stat().st_dev, tmp_path.stat().st_ino)


@pytest.mark.parametrize(
    ("syscall", "said"),
    [
        ("utimensat", _two(0, _NOW, 2, 6)),
        ("utimensat", _two(0, _OMIT, 0, _OMIT)),
        ("utimensat", _two(0, _S, 0, 0)),
        ("utimes", _two(0, 1_000_000, 0, 0)),
        ("utimes", _two(0, -1, 0, 0)),
        ("utimensat", _two(2**62, 0, 0, 0)),
        ("setxattr", b"security.capability\0x"),
        ("setxattr", b"system.posix_acl_access\0x"),
        ("setxattr", b"user.\xff\0x"),
        ("removexattr", b"trusted.x"),
        ("fchownat", struct.pack("=2i", 2**31 - 5, -1)),
    ],
)
def test_what_can_be_shown_to_nobody_is_the_kernels_to_decide(tmp_path: Path, syscall: str, said: bytes) -> None:
    if syscall == "fchownat" and "4294967295" in Path("/proc/self/uid_map").read_text():
        pytest.skip("this user namespace has a number for every user")
    with pytest.raises(ValueError, match=r"the kernel decides|ascii"):
        changed_by(asked(syscall, tmp_path, said), _BROKER)


def test_links_modes_of_programs_and_unknown_flags_are_no_question(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.touch()
    link.symlink_to("file")
    by_link = changed_by(asked("fchmodat", link, mode=0o640, flags=0x77), _BROKER)  # it has none: what stands there
    assert by_link is not None
    assert (by_link.change.at.name, by_link.detail) == ("file", "mode 0640")
    assert changed_by(asked("lchown", link, struct.pack("=2i", -1, -1)), _BROKER) is None
    assert changed_by(asked("utimensat", link, flags=0x100), _BROKER) is None
    assert changed_by(asked("fchmodat2", file, mode=0o600, flags=0x1000), _BROKER) is None
    assert changed_by(asked("lchown", file, struct.pack("=2i", -1, -1)), _BROKER) is not None  # the control
    with pytest.raises(ValueError, match="set-id"):
        changed_by(asked("chmod", file, mode=0o4755), _BROKER)
    assert changed_by(asked("chmod", tmp_path / "absent", mode=0o600), _BROKER) is None


def _name(file: Path) -> HostName:
    return name_of(str(file), _BROKER).on_host


def test_a_file_is_changed_and_none_that_has_its_name_by_then(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("asked")
    other.write_text("not asked")
    change = MetadataChange("utime", _name(file), times=(UNCHANGED, 2 * _S))
    accessed = file.stat().st_atime_ns
    assert change_metadata(change) == 0
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (accessed, 2 * _S)
    chmod = MetadataChange("chmod", _name(file), mode=0o600)
    file.rename(tmp_path / "kept")
    file.symlink_to("other")
    before = other.stat().st_mode
    with pytest.raises(OSError, match="another one"):
        change_metadata(chmod)
    assert other.stat().st_mode == before
    assert (
        change_metadata(MetadataChange("removexattr", _name(other), attribute="user.none")) != 0
    )  # as the kernel says


def test_a_link_is_given_away_and_not_what_it_leads_to(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch()
    uid, gid = (12345, 12345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    assert change_names(NameChange("symlink", _name(link), text=str(target)), uid, gid) == 0
    assert stat.S_ISLNK(link.lstat().st_mode)
    assert (link.lstat().st_uid, target.stat().st_uid, os.readlink(link)) == (uid, os.geteuid(), str(target))


@pytest.mark.parametrize("call", ["unlink", "rename", "link", "chmod"])
@pytest.mark.parametrize("other", ["kind", "born"])
def test_a_file_that_was_given_the_number_of_the_one_asked_about_is_another(
    tmp_path: Path, call: str, other: str
) -> None:
    file, to = tmp_path / "file", tmp_path / "to"
    file.write_text("asked")
    at = _name(file)
    assert at.found is not None

    def made(at: HostName) -> int:
        if call == "chmod":
            return change_metadata(MetadataChange("chmod", at, mode=0o600))
        new = None if call == "unlink" else _name(to)
        return change_names(NameChange(call, at, new), os.geteuid(), os.getegid())  # type: ignore[arg-type]

    if other == "kind":
        file.rename(tmp_path / "kept")
        file.symlink_to("elsewhere")
    new = file.lstat()  # as if the file system had given it the old number: ext4 does so at once, tmpfs never
    stale = msgspec.structs.replace(at, found=(new.st_dev, new.st_ino, at.found[2], at.found[3] - (other == "born")))
    with pytest.raises(OSError, match="another one"):
        made(stale)
    assert os.path.lexists(file)
    assert not os.path.lexists(to)
    if other == "kind":
        (tmp_path / "kept").rename(file)
    assert made(at) == 0  # the control
