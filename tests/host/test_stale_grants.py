"""Grants are resolved when a sandbox starts: what the host replaced, moved, swapped or mounted since does not show."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.kernel.identity import Identity, MountTable
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule
from pyisolate.supervisor import policy_cache
from tests import inside
from tests.require import require

READ = "__import__('pathlib').Path({!r}).read_text()"


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=3) as made:
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.parent.chmod(0o755)
    path.write_text(text)
    path.chmod(0o644)


def replace_directory(place: Path) -> None:
    (place / "work").rename(place / "old")
    write(place / "work/f", "new")


def replace_file(place: Path) -> None:
    write(place / "new", "new")
    os.link(place / "work/f", place / "old")
    os.replace(place / "new", place / "work/f")


def swap_link(place: Path) -> None:
    (place / "link").unlink()
    write(place / "other/f", "new")
    (place / "link").symlink_to("other")


def move_parent(place: Path) -> None:
    (place / "deep").rename(place / "away")
    (place / "deep").mkdir()
    write(place / "deep/work/f", "new")


CHANGES: list[tuple[Callable[[Path], None], str, str]] = [
    (replace_directory, "work", "work/f"),
    (replace_file, "work/f", "work/f"),
    (swap_link, "link", "link/f"),
    (move_parent, "deep/work", "deep/work/f"),
]


@pytest.mark.parametrize(("change", "granted", "file"), CHANGES, ids=[change.__name__ for change, *_ in CHANGES])
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_new_sandbox_sees_what_its_paths_name_now(
    supervisor: pyisolate.Supervisor,
    place: Path,
    change: Callable[[Path], None],
    granted: str,
    file: str,
    isolation: str,
) -> None:
    enforcement = "strict" if isolation == "process" else "best_effort"  # a thread keeps not all limits
    (place / "deep").mkdir()
    for folder in ("work", "one", "deep/work"):
        write(place / folder / "f", "old")
    (place / "link").symlink_to("one")
    policy = Policy.preset("compute").allow_read(str(place / granted))
    for _ in range(4):  # standby cells are made for it, too
        with supervisor.spawn("before", policy, isolation=isolation, enforcement=enforcement) as sandbox:
            assert sandbox.eval(READ.format(str(place / file))) == "old"
    change(place)
    time.sleep(0.2)  # a sandbox thread's hooks know a directory for 0.1 s (hooks/paths.py)
    for _ in range(4):
        with supervisor.spawn("after", policy, isolation=isolation, enforcement=enforcement) as sandbox:
            assert sandbox.eval(READ.format(str(place / file))) == "new"


def test_what_was_removed_is_gone_and_what_appears_is_there(supervisor: pyisolate.Supervisor, place: Path) -> None:
    policy = Policy.preset("compute").allow_read(str(place / "work"))
    with supervisor.spawn("before", policy) as sandbox, pytest.raises(pyisolate.GuestError, match="FileNotFound"):
        sandbox.eval(READ.format(str(place / "work/f")))
    write(place / "work/f", "secret")
    with supervisor.spawn("there", policy) as sandbox:
        assert sandbox.eval(READ.format(str(place / "work/f"))) == "secret"
    (place / "work").rename(place / "vault")
    with supervisor.spawn("gone", policy) as sandbox, pytest.raises(pyisolate.GuestError, match="FileNotFound"):
        sandbox.eval(READ.format(str(place / "work/f")))


def test_unchanged_places_keep_their_tables_and_replaced_ones_close(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    write(place / "work/f", "old")
    policy, tables = Policy.preset("compute").allow_read(str(place / "work")), inside.runtime(supervisor).tables
    with tables.hold(policy) as first:
        write(place / "work/g", "a change below a place is none of it")
        with tables.hold(policy) as second:
            assert second is first
        replace_directory(place)
        with tables.hold(policy) as third:
            assert third is not first
            assert first.root_view is None or first.root_view.fd >= 0  # it is held
    with tables.hold(policy.allow_read(str(place / "work/f"))):  # any that are made next let the old ones go
        assert first.ruleset is None or first.ruleset.fd < 0


OPEN = """
import ctypes
def opens(path):
    return ctypes.CDLL(None).open(path.encode(), 0) >= 0
"""


def test_a_denied_file_that_the_host_replaces_stays_denied(supervisor: pyisolate.Supervisor, place: Path) -> None:
    """The rename takes the cover of the root view away: Landlock has no rule for what is there now."""
    for name in ("secret", "other"):
        write(place / "work" / name, "old")
    policy = Policy.preset("compute").allow_import("ctypes").allow_native("ctypes").allow_read(str(place / "work"))
    with supervisor.spawn("t", policy.deny(str(place / "work/secret"))) as sandbox:
        sandbox.exec(OPEN)
        assert sandbox.call("opens", str(place / "work/other"))
        assert not sandbox.call("opens", str(place / "work/secret"))
        write(place / "new", "new")
        os.replace(place / "new", place / "work/secret")
        assert not sandbox.call("opens", str(place / "work/secret"))
    with supervisor.spawn("control", policy) as sandbox:
        sandbox.exec(OPEN)
        assert sandbox.call("opens", str(place / "work/secret"))


def test_a_file_that_appears_beside_a_denied_one_is_there_for_the_next_sandbox(
    supervisor: pyisolate.Supervisor, place: Path
) -> None:
    """Beside a denied name a directory is granted by its members, which were those of the first spawn for ever."""
    for name in ("secret", "first", "inner/deep"):
        write(place / "work" / name, name)
    policy = Policy.preset("compute").allow_read(str(place / "work"))
    policy = policy.deny(str(place / "work/secret")).deny(str(place / "work/inner/hidden"))
    for name in ("first", "inner/deep", "second", "inner/later", "first"):
        (place / "work" / name).unlink(missing_ok=True)
        write(place / "work" / name, name)
        with supervisor.spawn("t", policy) as sandbox:
            assert sandbox.eval(READ.format(str(place / "work" / name))) == name
            with pytest.raises(pyisolate.PolicyError):
                sandbox.eval(READ.format(str(place / "work/secret")))
            assert len(sandbox.get_denial_events()) == 1


def test_a_mount_below_a_place_is_a_change(place: Path) -> None:
    require("root", os.geteuid() == 0, "root may mount")
    write(place / "work/inner/f", "old")
    mounts = MountTable()
    rule = FsRule(path=str(place / "work"), allow=int(FsRight.READ), text="t")
    identity = Identity(CompiledPolicy(name="t", version="t", fs=(rule,)), mounts)
    other = Identity(CompiledPolicy(name="t", version="t", fs=(FsRule(path="/etc", allow=1, text="t"),)), mounts)
    assert identity.holds()
    with contextlib.ExitStack() as held:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "work/inner")], check=True)
        held.callback(subprocess.run, ["umount", str(place / "work/inner")], check=True)
        assert not identity.holds()
        assert other.holds()
    assert identity.holds()
    mounts.close()


def test_pinned_host_names_age(supervisor: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"name.test": ["192.0.2.1"]}
    monkeypatch.setattr("pyisolate.policy.resolver.resolve_host", lambda host: known[host])
    policy, tables = Policy.preset("compute").allow_connect("name.test:443"), inside.runtime(supervisor).tables
    with tables.hold(policy) as first:
        assert first.compiled.pinned_hosts == {"name.test": ("192.0.2.1",)}
    known["name.test"] = ["192.0.2.2"]
    with tables.hold(policy) as second:
        assert second is first  # not asked again yet
    monkeypatch.setattr(policy_cache, "PINNED_S", 0.0)
    with tables.hold(policy) as third:
        assert third.compiled.pinned_hosts == {"name.test": ("192.0.2.2",)}
    with tables.hold(policy) as fourth:
        assert fourth is third


def test_looking_at_the_places_costs_little(supervisor: pyisolate.Supervisor) -> None:
    with inside.runtime(supervisor).tables.hold(Policy.preset("compute")) as prepared:
        best = 1.0
        for _ in range(50):
            began = time.perf_counter()
            assert prepared.current
            best = min(best, time.perf_counter() - began)
    assert best < 0.002, f"{best * 1e6:.0f} us"
