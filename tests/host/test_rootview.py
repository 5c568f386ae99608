"""The root view, built as root for an unprivileged cell and as an ordinary user: same view, same refusals."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo loads it, where the view may not have it
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyisolate.enforcement import Status
from pyisolate.errors import EnforcementError
from pyisolate.kernel.enforcer import Enforcer
from pyisolate.kernel.landlock import LandlockEnforcer
from pyisolate.kernel.rootview.tree import RootView
from pyisolate.kernel.rootview.view import RootViewBuilder
from pyisolate.kernel.ruleset import LandlockRuleset
from pyisolate.native import landlock as native
from pyisolate.native import mount, process
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NetAction, NetRule
from tests.in_child import NOBODY, ChildFailed, become, in_child, outcome
from tests.require import require, require_interpreter

R = int(FsRight.READ | FsRight.METADATA)
RW = R | int(FsRight.WRITE | FsRight.CREATE | FsRight.DELETE)
X = R | int(FsRight.EXEC | FsRight.MAP_EXEC)
DELETE = int(FsRight.DELETE)
META, LIST = int(FsRight.METADATA), int(FsRight.LIST)
ALL = int(FsRight.READ | FsRight.WRITE | FsRight.CREATE | FsRight.DELETE | FsRight.METADATA | FsRight.EXEC)
SYSTEM = tuple(
    FsRule(path=path, allow=R if path.endswith("cache") else X, text=f"system {path}")
    for path in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache")
    if os.path.lexists(path)
)


@pytest.fixture(scope="module", autouse=True)
def _root_view() -> None:
    builder = RootViewBuilder(NOBODY, NOBODY)
    found = builder.probe()
    builder.close()
    require("root_view", found.usable, found.reason)


@pytest.fixture(params=["root", "user"])
def uid(request: pytest.FixtureRequest) -> int:
    """The uid that the supervisor runs as; cells run as nobody under root."""
    if request.param == "root":
        require("root", os.geteuid() == 0, "this run is not root")
        return 0
    if os.geteuid() != 0:
        return os.geteuid()
    require_interpreter(NOBODY)
    return NOBODY


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that every user may enter and the cell owns; pytest's own are mode 0700."""
    root = Path(tempfile.mkdtemp(prefix="pyisolate-view-"))
    for name in ("data", "data/private", "data/private/open", "out", "hidden"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_text(name)
    if os.geteuid() == 0:
        for path in (root, *root.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    yield root
    shutil.rmtree(root)


def policy(*rules: FsRule, **more: Any) -> CompiledPolicy:
    return CompiledPolicy(name="test", version="test", fs=tuple(sorted(rules, key=lambda rule: rule.path)), **more)


def rule(path: object, allow: int = 0, deny: int = 0) -> FsRule:
    return FsRule(path=str(path), allow=allow, deny=deny, text=f"rule {path}")


def build(uid: int, compiled: CompiledPolicy, use: Callable[[RootView], Any], **options: Any) -> Any:
    """Build the view as `uid` does and return `use(view)`, evaluated in that process."""

    def body() -> Any:
        if uid:
            become(uid)
        cell = uid or NOBODY
        builder = RootViewBuilder(cell, cell)
        try:
            with builder.prepare(compiled, **options) as view:
                return use(view)
        finally:
            builder.close()

    return in_child(body)


def inside(uid: int, compiled: CompiledPolicy, operation: Callable[[], Any], **options: Any) -> Any:
    """Return what `operation` gives in a cell-like process that entered the view and gave up everything."""

    def cell(view: RootView) -> Any:
        def body() -> Any:
            mount.enter_root(view.fd)
            if uid == 0:
                become(NOBODY)
            process.set_no_new_privs()
            process.drop_all_capabilities()
            return operation()

        flags = process.CLONE_NEWPID | process.CLONE_NEWNS | (process.CLONE_NEWUSER if uid else 0)
        return in_child(body, flags=flags)

    return build(uid, compiled, cell, **options)


def raised(uid: int, compiled: CompiledPolicy) -> dict[str, Any]:
    def body() -> dict[str, Any]:
        if uid:
            become(uid)
        builder = RootViewBuilder(uid or NOBODY, uid or NOBODY)
        try:
            builder.prepare(compiled).close()
        except EnforcementError as error:
            return {"text": str(error), "rule": error.rule}
        finally:
            builder.close()
        return {"text": "", "rule": None}

    return in_child(body)


def test_what_is_not_granted_does_not_exist(uid: int, tree: Path):
    def look() -> list[Any]:
        return [outcome((tree / name).stat) for name in ("data/file", "hidden", "nowhere")]

    assert inside(uid, policy(rule(tree / "data", R)), look) == ["ok", "ENOENT", "ENOENT"]
    assert in_child(look) == ["ok", "ok", "ENOENT"]


def test_only_names_that_lead_to_grants_show(uid: int, tree: Path):
    compiled = policy(rule(tree / "data", R))
    assert inside(uid, compiled, lambda: os.listdir(tree)) == ["data"]
    top = inside(uid, compiled, lambda: sorted(os.listdir("/")))
    assert top == sorted({"dev", tree.parts[1]})


WRITES = {
    "open for writing": lambda at: os.close(os.open(at / "file", os.O_WRONLY)),
    "create": lambda at: (at / "new").write_text("x"),
    "delete": lambda at: (at / "file").unlink(),
    "rename": lambda at: (at / "file").rename(at / "renamed"),
    "chmod": lambda at: (at / "file").chmod(0o600),
    "utime": lambda at: os.utime(at / "file", (1, 1)),
    "setxattr": lambda at: os.setxattr(at / "file", "user.pyisolate", b"1"),
    "truncate": lambda at: os.truncate(at / "file", 0),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_read_grant_is_read_only_and_a_write_grant_is_not(uid: int, tree: Path, name: str):
    compiled = policy(rule(tree / "data", R), rule(tree / "out", RW))
    operation = WRITES[name]

    def attempt() -> list[str]:
        return [outcome(lambda: operation(tree / "data")), outcome(lambda: operation(tree / "out"))]

    read_only, writable = inside(uid, compiled, attempt)
    assert read_only == "EROFS"
    assert writable in ("ok", "EOPNOTSUPP" if name == "setxattr" else "ok")


def test_the_view_itself_is_read_only(uid: int, tree: Path):
    new = [Path("/new"), tree / "new", Path("/dev/new")]
    assert inside(uid, policy(rule(tree / "data", R)), lambda: [outcome(path.mkdir) for path in new]) == ["EROFS"] * 3


def test_a_denied_directory_below_a_grant_is_covered(uid: int, tree: Path):
    def look() -> list[Any]:
        private = tree / "data/private"
        return [
            (tree / "data/file").read_text(),
            outcome(lambda: os.listdir(private)),
            outcome(lambda: (private / "file").read_text()),
            outcome(lambda: (private / "open/file").stat()),
            outcome(lambda: private.chmod(0o777)),
        ]

    granted = rule(tree / "data", R)
    denied = rule(tree / "data/private", deny=ALL)
    seen = inside(uid, policy(granted, denied), look)
    assert seen == ["data", "EACCES", "EACCES", "EACCES", "EROFS"]
    assert inside(uid, policy(granted), look)[1:4] == ["ok", "ok", "ok"]


def test_a_denied_file_below_a_writable_grant_is_covered(uid: int, tree: Path):
    compiled = policy(rule(tree / "out", RW & ~DELETE), rule(tree / "out/file", deny=ALL))

    def look() -> list[Any]:
        file = tree / "out/file"
        return [
            outcome(file.read_text),
            outcome(lambda: file.write_text("x")),
            outcome(lambda: os.link(file, tree / "out/alias")),
            outcome(lambda: (tree / "out/new").write_text("x")),
            file.stat().st_size,
        ]

    assert inside(uid, compiled, look) == ["EACCES", "EROFS", "EXDEV", "ok", 0]
    assert (tree / "out/file").read_text() == "out"


def test_what_a_guest_renames_takes_its_cover_along(uid: int, tree: Path):
    """Why a denial below a grant of deleting is only partly enforced, and how far."""
    compiled = policy(rule(tree / "data", RW), rule(tree / "data/private", deny=ALL))

    def look() -> list[Any]:
        (tree / "data/private").rename(tree / "data/renamed")
        return [outcome(lambda: os.listdir(tree / "data/renamed")), outcome((tree / "data/renamed/file").stat)]

    assert inside(uid, compiled, look, strict=False) == ["EACCES", "EACCES"]
    assert raised(uid, compiled)["rule"] == f"rule {tree}/data/private"


def test_a_grant_below_a_denial_shows_and_its_neighbours_do_not(uid: int, tree: Path):
    compiled = policy(
        rule(tree / "data", R), rule(tree / "data/private", deny=ALL), rule(tree / "data/private/open", R)
    )

    def look() -> list[Any]:
        private = tree / "data/private"
        return [
            outcome(lambda: os.listdir(private)),
            outcome(lambda: (private / "file").stat()),
            (private / "open/file").read_text(),
        ]

    assert inside(uid, compiled, look) == ["EACCES", "ENOENT", "data/private/open"]


def test_a_directory_to_list_shows_granted_members_only(uid: int, tree: Path):
    compiled = policy(rule(tree / "data", LIST | META), rule(tree / "data/file", R))
    assert inside(uid, compiled, lambda: os.listdir(tree / "data")) == ["file"]


def test_a_subtree_can_be_less_writable_than_its_grant(uid: int, tree: Path):
    writing = RW & ~R
    compiled = policy(rule(tree / "data", RW & ~DELETE), rule(tree / "data/private", deny=writing))

    def look() -> list[str]:
        return [
            outcome(lambda: (tree / "data/new").write_text("x")),
            outcome(lambda: (tree / "data/private/new").write_text("x")),
            outcome(lambda: (tree / "data/private/file").read_text()),
        ]

    assert inside(uid, compiled, look) == ["ok", "EROFS", "ok"]


def test_code_runs_only_where_it_is_granted(uid: int, tree: Path):
    for name in ("data", "out"):
        shutil.copy("/bin/true", tree / name / "program")
    compiled = policy(*SYSTEM, rule(tree / "data", R), rule(tree / "out", X))

    def look() -> list[str]:
        return [
            outcome(lambda at=at: subprocess.run([at / "program"], check=True)) for at in (tree / "data", tree / "out")
        ]

    assert inside(uid, compiled, look) == ["EACCES", "ok"]


def test_links_on_the_way_are_there_and_lead_to_the_grant(uid: int, tree: Path):
    (tree / "link").symlink_to("data")
    (tree / "chain").symlink_to(tree / "link")
    compiled = policy(rule(tree / "chain/file", R))

    def look() -> list[Any]:
        return [(tree / "chain/file").read_text(), os.readlink(tree / "link"), os.listdir(tree / "data")]

    assert inside(uid, compiled, look) == ["data", "data", ["file"]]


def test_python_runs_inside_with_merged_usr_names(uid: int):
    code = "import json, ssl, sqlite3, sys; print(json.dumps([sys.version_info[0]]))"

    def run() -> list[Any]:
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec /usr/bin/python3 -I -c "$0"', code], capture_output=True, text=True
        )
        return [done.returncode, done.stdout.strip(), done.stderr]

    require("system_python", os.path.exists("/usr/bin/python3"), "no /usr/bin/python3 here")
    assert inside(uid, policy(*SYSTEM), run) == [0, "[3]", ""]


def test_devices_are_the_harmless_ones(uid: int):
    def look() -> list[Any]:
        with open("/dev/null", "wb") as null:
            null.write(b"x")
        with open("/dev/zero", "rb") as zero:
            return [sorted(os.listdir("/dev")), zero.read(2).hex()]

    assert inside(uid, policy(allow_random=False), look) == [["full", "null", "zero"], "0000"]
    assert inside(uid, policy(), look)[0] == ["full", "null", "random", "urandom", "zero"]


def test_device_nodes_in_granted_trees_do_not_open(uid: int, tree: Path):
    require("root", os.geteuid() == 0, "only root can make a device node")
    node = tree / "data/node"
    os.mknod(node, 0o020666, os.makedev(1, 3))
    node.chmod(0o666)
    assert inside(uid, policy(rule(tree / "data", R)), lambda: outcome(lambda: node.open("rb").close())) == "EACCES"
    node.unlink()


def test_pinned_hosts_resolve_and_nothing_else_is_asked(uid: int):
    compiled = policy(
        *SYSTEM,
        net=(NetRule(action=NetAction.CONNECT, address=bytes([10, 0, 0, 5]), prefix=32),),
        pinned_hosts={"db.internal": ("10.0.0.5",)},
    )

    def look() -> list[Any]:
        names = [line.split()[1] for line in Path("/etc/hosts").read_text().splitlines()]
        return [socket.getaddrinfo("db.internal", 1)[0][4][0], names, outcome(lambda: os.stat("/etc/passwd"))]

    assert inside(uid, compiled, look) == ["10.0.0.5", ["localhost", "localhost", "db.internal"], "ENOENT"]


def test_a_granted_file_that_is_generated_is_covered_by_ours(uid: int):
    compiled = policy(rule("/etc", R), net=(NetRule(action=NetAction.CONNECT),), pinned_hosts={"a.b": ("10.9.9.9",)})
    assert "10.9.9.9 a.b" in inside(uid, compiled, lambda: Path("/etc/hosts").read_text())


def test_the_whole_file_system_can_be_granted(uid: int, tree: Path):
    compiled = policy(rule("/", R), rule(tree / "out", RW), rule(tree / "data/private", deny=ALL))

    def look() -> list[Any]:
        return [
            (tree / "hidden/file").read_text(),
            outcome(lambda: (tree / "hidden/file").write_text("x")),
            outcome(lambda: (tree / "out/new").write_text("x")),
            outcome(lambda: os.listdir(tree / "data/private")),
        ]

    assert inside(uid, compiled, look) == ["hidden", "EROFS", "ok", "EACCES"]


def test_a_missing_path_is_noted(uid: int, tree: Path):
    compiled = policy(rule(tree / "absent", R), rule(tree / "data", R))
    notes = build(uid, compiled, lambda view: list(view.notes))
    assert notes == [f"rule {tree}/absent: {tree}/absent is left out (No such file or directory)"]


def test_a_denial_that_cannot_be_subtracted_is_an_error_or_told(uid: int, tree: Path):
    cases = [
        policy(rule(tree / "data", RW), rule(tree / "data/private", deny=int(FsRight.READ))),
        policy(rule(tree / "data", RW), rule(tree / "data/private", deny=int(FsRight.CREATE))),
        policy(rule(tree / "data", RW), rule(tree / "data/absent", deny=ALL)),
        policy(rule(tree / "data", RW), rule(tree / "data/private", deny=ALL)),
    ]
    for compiled in cases:
        error = raised(uid, compiled)
        assert error["rule"] == compiled.fs[1].text, error
        assert "Hint:" in error["text"]
        assert len(build(uid, compiled, lambda view: list(view.unenforced), strict=False)) == 1


def test_a_grant_that_permissions_deny_to_the_cell_is_an_error_that_names_it(uid: int, tree: Path):
    require("root", os.geteuid() == 0, "needs a directory of somebody else's")
    private = tree / "hidden"
    os.chown(private, 0, 0)
    private.chmod(0o700)
    error = raised(uid, policy(rule(private, R)))
    assert error["rule"] == f"rule {private}"
    assert "not accessible to the cell's uid 65534 (mode 0700)" in error["text"]
    private.chmod(0o755)
    assert raised(uid, policy(rule(private, R)))["text"] == ""
    assert "not accessible" in raised(uid, policy(rule(private, RW)))["text"]


def test_a_grant_inside_a_private_home_is_readable(uid: int, tree: Path):
    require("root", os.geteuid() == 0, "needs a root-owned 0700 directory above the grant")
    os.chown(tree / "data", 0, 0)
    (tree / "data").chmod(0o700)
    compiled = policy(rule(tree / "data/private", R))
    if uid:  # an ordinary user's builder cannot reach it either, and says so
        notes = build(uid, compiled, lambda view: list(view.notes))
        assert notes == [f"rule {tree}/data/private: {tree}/data/private is left out (Permission denied)"]
    else:
        assert inside(uid, compiled, lambda: (tree / "data/private/file").read_text()) == "data/private"


def test_nothing_is_mounted_or_left_on_the_host(uid: int, tree: Path):
    def mounts() -> str:
        return Path("/proc/self/mountinfo").read_text()

    before, temporary = mounts(), sorted(os.listdir(tempfile.gettempdir()))
    compiled = policy(*SYSTEM, rule(tree / "data", R), rule(tree / "data/private", deny=ALL))
    assert build(uid, compiled, lambda view: mounts()) == before
    assert mounts() == before
    assert sorted(os.listdir(tempfile.gettempdir())) == temporary


def test_a_cell_keeps_its_view_when_the_supervisor_closes_it(uid: int, tree: Path):
    def use(view: RootView) -> Any:
        ready_r, ready_w = os.pipe()
        go_r, go_w = os.pipe()

        def body() -> Any:
            mount.enter_root(view.fd)
            view.close()
            os.write(ready_w, b"x")
            os.read(go_r, 1)
            return [(tree / "data/file").read_text(), (tree / "data/private/file").read_text()]

        import threading

        def close_ours() -> None:
            os.read(ready_r, 1)
            view.close()
            os.write(go_w, b"x")

        closer = threading.Thread(target=close_ours)
        closer.start()
        result = in_child(body, flags=process.CLONE_NEWUSER if uid else 0)
        closer.join()
        return result

    assert build(uid, policy(rule(tree / "data", R)), use) == ["data", "data/private"]


def test_landlock_goes_on_top_by_what_the_cell_finds(uid: int, tree: Path):
    """Generated files and directories to list exist in the view alone: rules on host paths would refuse them."""
    compiled = policy(
        rule(tree / "data", LIST | META),
        rule(tree / "data/file", R),
        rule("/dev/zero", R),
        net=(NetRule(action=NetAction.CONNECT),),
    )

    def use(view: RootView) -> Any:
        def look() -> list[Any]:
            return [
                os.listdir(tree / "data"),
                (tree / "data/file").read_text(),
                outcome(Path("/etc/hosts").read_text),
                outcome(lambda: open("/dev/zero", "rb").close()),
                outcome(lambda: open("/dev/null", "rb").close()),
                outcome(lambda: os.listdir("/")),
            ]

        def body(ruleset: LandlockRuleset | None) -> Any:
            mount.enter_root(view.fd)
            process.set_no_new_privs()
            process.drop_all_capabilities()
            if ruleset is not None:
                native.restrict_self(ruleset.fd)
            return look()

        flags = process.CLONE_NEWUSER if uid else 0
        enforcer = LandlockEnforcer()
        with enforcer.prepare(compiled, view) as by_view, enforcer.prepare(compiled) as by_host:
            unconfined = in_child(lambda: body(None), flags=flags)
            by_view_seen = in_child(lambda: body(by_view), flags=flags)
            try:
                by_host_seen = in_child(lambda: body(by_host), flags=flags)
            except ChildFailed as error:
                by_host_seen = "PermissionError" if "PermissionError" in str(error) else str(error)
        return [unconfined, by_view_seen, by_host_seen]

    require("landlock", LandlockEnforcer().probe().usable, "no Landlock here")
    assert build(uid, compiled, use) == [
        [["file"], "data", "ok", "ok", "ok", "ok"],
        [["file"], "data", "ok", "ok", "EACCES", "EACCES"],
        "PermissionError",
    ]


def test_the_probe_enters_a_view_and_sees_refusals(uid: int):
    def body() -> list[Any]:
        if uid:
            become(uid)
        builder = RootViewBuilder(uid or NOBODY, uid or NOBODY)
        try:
            found = builder.probe()
            return [isinstance(builder, Enforcer), found.status, found.proof]
        finally:
            builder.close()

    protocol, status, proof = in_child(body)
    assert protocol
    assert status == Status.AVAILABLE
    assert "EROFS" in proof
    assert "ENOENT" in proof
