"""A suggestion allows exactly the refused operation: denied before, allowed after, the neighbour still denied."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyisolate.capability import FLOOR, Capability
from pyisolate.decision import Verdict
from pyisolate.policy import Policy, compile_policy, packages
from pyisolate.policy.addresses import destination
from pyisolate.policy.advice import AdviceOfHost, advice
from pyisolate.policy.broker import Broker
from pyisolate.policy.interpreter import InterpreterFiles
from pyisolate.policy.load import load_bytes
from pyisolate.policy.suggest import apply, exact, suggestion, suggestion_unseen
from pyisolate.records import RefusedOperation as Refused
from tests.examples import examples

C = Capability
COMPONENT = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/"), min_size=1, max_size=12
).filter(lambda part: part not in (".", ".."))
PATHS = st.lists(COMPONENT, min_size=1, max_size=4).map(lambda parts: "/nonexistent/" + "/".join(parts))
FILES = st.sampled_from([C.FS_READ, C.FS_WRITE, C.FS_CREATE, C.FS_DELETE, C.FS_METADATA, C.FS_EXEC, C.PROCESS_EXEC])
BASES = st.sampled_from(
    [
        Policy.preset("none"),
        Policy.preset("none").deny("/nonexistent").deny_connect("*:*").deny_import("*").deny_fork(),
        Policy.preset("none").deny("/nonexistent/0").deny_exec("/nonexistent/0").deny("/nonexistent/0/0"),
        Policy.preset("compute").allow_read("/srv").deny_connect("10.0.0.0/8:*"),
    ]
)


def _allowed(policy: Policy, capability: Capability, target: str) -> bool:
    return Broker(compile_policy(policy)).decide(capability, target).verdict is Verdict.ALLOW


def _check(base: Policy, capability: Capability, target: str, neighbours: list[str]) -> None:
    suggested = exact(capability, target)
    assert suggested is not None
    if capability is C.PROCESS_EXEC:
        base = base.deny_fork()
    changed = apply(base, suggested)
    assert _allowed(changed, capability, target), suggested
    assert load_bytes(changed.to_yaml().encode()) == changed
    for neighbour in neighbours:
        if not _allowed(base, capability, neighbour):
            assert not _allowed(changed, capability, neighbour)


@pytest.mark.slow
@given(BASES, FILES, PATHS)
@settings(max_examples=examples(250))
def test_files(base: Policy, capability: Capability, path: str) -> None:
    parent = path.rpartition("/")[0]
    assert not _allowed(base, capability, path)
    _check(base, capability, path, [path + "x", parent, f"{parent}/other", "/"])


@pytest.mark.slow
@given(
    BASES,
    st.ip_addresses(),
    st.integers(1, 65534),
    st.sampled_from([C.NET_CONNECT, C.NET_SEND, C.NET_BIND, C.NET_LISTEN]),
)
@settings(max_examples=examples(250))
def test_addresses(base: Policy, address, port: int, capability: Capability) -> None:
    assume(not (address.version == 6 and address.ipv4_mapped))
    text = f"[{address}]" if address.version == 6 else str(address)
    assert not _allowed(base, capability, f"{text}:{port}")
    beside = type(address)(int(address) ^ 1)
    other = f"[{beside}]" if address.version == 6 else str(beside)
    neighbours = [f"{text}:{port + 1}"]
    if capability in (C.NET_BIND, C.NET_LISTEN) or destination(beside.packed) != destination(address.packed):
        neighbours.append(f"{other}:{port}")  # [::1] is where [::] leads
    _check(base, capability, f"{text}:{port}", neighbours)


@pytest.mark.parametrize(
    ("capability", "target", "fragment", "neighbours"),
    [
        (C.FS_READ, "/etc/hostname", {"fs": [{"path": "/etc/hostname", "allow": ["read"]}]}, ["/etc/hosts", "/etc"]),
        (C.FS_READ, "/srv/a*b", {"fs": [{"path": "/srv/a*b", "literal": True, "allow": ["read"]}]}, ["/srv/axb"]),
        (C.NET_CONNECT, "db.internal:5432", {"net": [{"connect": "db.internal:5432"}]}, []),
        (C.NET_CONNECT, "[::ffff:10.0.0.5]:80", {"net": [{"connect": "10.0.0.5:80"}]}, ["10.0.0.4:80"]),
        (C.NET_CONNECT, "unix:/run/x.sock", {"net": [{"connect": "unix:/run/x.sock"}]}, ["unix:/run/y.sock"]),
        (C.IPC_UNIX, "/run/x.sock", {"net": [{"connect": "unix:/run/x.sock"}]}, ["/run/y.sock"]),
        (C.NET_BIND, "127.0.0.1:0", {"net": [{"bind": "127.0.0.1:0"}]}, ["127.0.0.1:80"]),
        (C.PROCESS_EXEC, "/usr/bin/git", {"process": [{"exec": "/usr/bin/git"}]}, ["/usr/bin/gitk"]),
        (C.PROCESS_FORK, "fork", {"process": [{"fork": True}]}, []),
        (C.IMPORT_MODULE, "xml.etree", {"import": {"allow": ["xml.etree"]}}, ["xml.sax", "json"]),
        (C.IMPORT_NATIVE, "numpy.core._x", {"import": {"native": ["numpy.core._x"]}}, ["numpy.core._y"]),
        (C.IMPORT_NATIVE, "/opt/libfoo.so", {"import": {"native": ["/opt/libfoo.so"]}}, ["/opt/libbar.so"]),
        (C.RANDOM_READ, "/dev/urandom", {"random": {"allow": True}}, []),
        (C.MEMORY_EXEC, "", {"memory": {"jit": True}}, []),
        (C.PRIORITY_IO, "", {"priority": {"io": True}}, []),
    ],
)
def test_each_kind(capability: Capability, target: str, fragment: dict, neighbours: list[str]) -> None:
    assert suggestion(Refused(capability, target)) == fragment
    base = Policy.preset("none")
    assert not _allowed(base, capability, target)
    if target != "db.internal:5432":  # nothing is resolved in a test
        _check(base, capability, target, neighbours)
    assert suggestion(Refused(capability, target)) is not suggestion(Refused(capability, target))


@pytest.mark.parametrize(
    "capability", [*sorted(FLOOR), C.LIMIT_WALL, C.CONTROL_KILL, C.IPC_SYSV, C.NET_SOCKET, C.PROCESS_SIGNAL]
)
def test_nothing_is_suggested_where_no_rule_can_help(capability: Capability) -> None:
    assert suggestion(Refused(capability, "/x")) is None


def test_a_module_that_a_rule_denies_in_a_package_is_advised_by_its_own_name() -> None:
    denied = {"import": {"allow": ["msgspec.json"]}}
    for advises in (advice, suggestion_unseen):
        assert advises(Refused(C.IMPORT_MODULE, "msgspec.json", denied=True)) == denied
        assert advises(Refused(C.IMPORT_MODULE, "msgspec.json")) == {"import": {"native": ["msgspec"]}}  # the control


def test_what_monitor_mode_let_be_made_is_advised_as_where_it_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    asked = C.FS_CREATE, str(tmp_path / "made")
    assert advice(Refused(*asked, passed=True)) == suggestion(Refused(*asked))
    assert advice(Refused(*asked)) == suggestion(Refused(C.FS_READ, asked[1]))  # the control


@pytest.mark.parametrize("name", ["librt.so", "librt.so.1", "msgspec.so.1"])
def test_no_rule_names_a_library_of_which_the_loader_finds_the_file(name: str) -> None:
    assert suggestion(Refused(C.IMPORT_NATIVE, name)) is advice(Refused(C.IMPORT_NATIVE, name)) is None
    assert suggestion(Refused(C.IMPORT_NATIVE, f"/usr/lib/{name}")) is not None  # the control


@given(
    st.sampled_from(list(Capability)),
    st.text(max_size=40) | st.binary(max_size=20).map(lambda b: b.decode("utf-8", "surrogateescape")),
)
@settings(max_examples=400)
def test_any_target_gives_a_suggestion_that_can_be_applied_or_none(capability: Capability, target: str) -> None:
    suggested = suggestion(Refused(capability, target))
    if suggested is not None:
        apply(Policy.preset("none"), suggested)


def test_no_rule_about_a_socket_in_the_workspace_is_suggested() -> None:
    """It comes with the right to make processes, and without them a rule for it changes nothing."""
    assert suggestion(Refused(C.NET_BIND, "unix:/sandbox/workspace/s")) is None
    assert suggestion(Refused(C.NET_BIND, "unix:/srv/s")) == {"net": [{"bind": "unix:/srv/s"}]}  # the control


def test_an_explicit_denial_of_the_same_thing_gives_way() -> None:
    policy = Policy().deny("fs.read", "/a").deny("fs.write", "/a").deny_import("os").deny_connect("1.1.1.1:1")
    changed = apply(policy, {"fs": [{"path": "/a", "allow": ["read"]}], "import": {"allow": ["os"]}})
    assert _allowed(changed, C.FS_READ, "/a")
    assert not _allowed(changed, C.FS_WRITE, "/a")
    assert _allowed(changed, C.IMPORT_MODULE, "os")
    assert not _allowed(changed, C.NET_CONNECT, "1.1.1.1:1")


def test_limits_are_applied_alone() -> None:
    policy = Policy().with_limits(wall="5s")
    assert apply(policy, {"limits": {"memory": "1GiB"}}).limits == policy.with_limits(memory="1GiB").limits


@pytest.mark.parametrize(
    ("wanted", "fs"),
    [
        # names are granted where they are made and removed, with what is done to them
        ([(C.FS_CREATE, "/srv/out/a")], [("/srv/out", ["create"])]),
        ([(C.FS_CREATE, "/srv/out/a"), (C.FS_WRITE, "/srv/out/a")], [("/srv/out", ["write", "create"])]),
        ([(C.FS_DELETE, "/srv/out/a")], [("/srv/out", ["delete"])]),
        ([(C.FS_WRITE, "/srv/a"), (C.FS_READ, "/srv/a")], [("/srv/a", ["read", "write"])]),
        ([(C.FS_DELETE, "/srv/a/x"), (C.FS_CREATE, "/srv/a/y")], [("/srv/a", ["create", "delete"])]),
    ],
)
def test_one_suggestion_serves_the_whole_call(wanted: list, fs: list) -> None:
    (capability, target), *also = wanted
    suggested = suggestion(Refused(capability, target, tuple(also)))
    assert suggested == {"fs": [{"path": path, "allow": allow} for path, allow in fs]}
    policy = apply(Policy.preset("none"), suggested)
    assert all(_allowed(policy, *one) for one in wanted)
    assert not _allowed(policy, C.FS_READ, "/srv/other")


@pytest.mark.parametrize("path", ["/tmp/x", "/etc/x", "/x", "/home/me/x", "/usr/lib/x", "/dev/shm/sem.Ab12Cd"])
def test_no_directory_of_all_is_suggested_to_make_names_in(path: str) -> None:
    assert suggestion(Refused(C.FS_CREATE, path)) is None
    assert suggestion(Refused(C.FS_DELETE, path)) is None
    assert suggestion(Refused(C.FS_READ, path)) is not None


def test_no_code_of_a_directory_of_all_is_suggested() -> None:
    assert suggestion(Refused(C.IMPORT_NATIVE, "/")) is None
    assert suggestion(Refused(C.IMPORT_NATIVE, "/usr/lib")) is None
    assert suggestion(Refused(C.IMPORT_NATIVE, "/dev/zero")) is None, "no root view lets its devices be mapped so"
    assert suggestion(Refused(C.IMPORT_NATIVE, "/srv/lib.so")) == {"import": {"native": ["/srv/lib.so"]}}  # the control


@pytest.mark.parametrize(
    "path", ["/proc/self/fd/3", "/proc/1/environ", "/proc/thread-self/mem", "/sandbox", "/sandbox/x"]
)
def test_of_what_no_rule_can_speak_none_is_suggested(path: str) -> None:
    assert suggestion(Refused(C.FS_READ, path)) is None
    assert suggestion(Refused(C.FS_READ, f"/srv{path}")) is not None


def test_what_a_rule_would_not_let_pass_is_not_suggested(tmp_path: Path) -> None:
    """A file's mapping that is written and run; a device that no root view shows; a file without a name (O_TMPFILE)."""
    jit = {"memory": {"jit": True}}
    assert advice(Refused(C.MEMORY_EXEC, "mmap(wx, 4096 bytes)")) is None
    for call in ("mmap(wx anonymous, 4096 bytes)", "mprotect(rx, 1)"):
        assert advice(Refused(C.MEMORY_EXEC, call)) == jit
    assert advice(Refused(C.FS_READ, "/dev/ptmx")) is None
    assert advice(Refused(C.FS_READ, "/dev/null")) == {"fs": [{"path": "/dev/null", "allow": ["read"]}]}
    place = str(tmp_path)
    assert advice(Refused(C.PROCESS_EXEC, place)) is None, "a rule would let all that is in it run"
    assert advice(Refused(C.PROCESS_EXEC, f"{place}/program")) == {"process": [{"exec": f"{place}/program"}]}
    assert advice(Refused(C.FS_CREATE, place, ((C.FS_WRITE, place),))) is None
    assert advice(Refused(C.FS_CREATE, place)) == {"fs": [{"path": place, "allow": ["read"]}]}  # os.mkdir


def test_the_interpreters_own_test_modules_are_advised_as_native_code() -> None:
    interpreter = InterpreterFiles.discover()
    names = {Path(path).name.partition(".")[0] for path in interpreter.extension_files} - interpreter.stdlib_names
    for name in sorted(names):
        assert advice(Refused(C.IMPORT_MODULE, name)) == {"import": {"native": [name]}}
        broker = Broker(compile_policy(apply(Policy.preset("compute"), advice(Refused(C.IMPORT_MODULE, name)) or {})))
        assert {broker.decide(one, name).verdict for one in (C.IMPORT_MODULE, C.IMPORT_NATIVE)} == {Verdict.ALLOW}


@pytest.mark.parametrize(
    ("capability", "target", "key", "name"),
    [
        (C.IMPORT_MODULE, "psutil", "native", "psutil"),  # an extension module in the package
        (C.IMPORT_NATIVE, "psutil._psutil_linux", "native", "psutil"),
        (C.IMPORT_MODULE, "msgspec.json", "native", "msgspec"),
        (C.IMPORT_MODULE, "pandas", "native", "pandas"),
        (C.IMPORT_MODULE, "requests", "native", "requests"),  # which requires charset_normalizer
        (C.IMPORT_MODULE, "click", "allow", "click"),
        (C.IMPORT_MODULE, "json", "allow", "json"),  # the standard library brings its own
        (C.IMPORT_MODULE, "no_such_module", "allow", "no_such_module"),
    ],
)
def test_a_package_with_native_code_is_advised_by_its_top_level_name(
    capability: Capability, target: str, key: str, name: str
) -> None:
    if name in ("pandas", "requests"):
        pytest.importorskip(name)
    assert advice(Refused(capability, target)) == {"import": {key: [name]}}
    base = Policy.preset("compute").deny_import(name)
    changed = apply(base, advice(Refused(capability, target)) or {})
    broker = Broker(compile_policy(changed))
    assert broker.decide(C.IMPORT_MODULE, target).verdict is Verdict.ALLOW
    assert broker.decide(C.IMPORT_MODULE, "yaml").verdict is Verdict.DENY
    if key == "native":
        assert broker.decide(C.IMPORT_NATIVE, f"{name}._anything").verdict is Verdict.ALLOW


def test_a_helper_of_compiled_modules_is_advised_by_the_package_that_it_belongs_to() -> None:
    pytest.importorskip("mypy")
    helpers = packages.compiled_beside(metadata.distribution("mypy"))
    if not helpers:
        pytest.skip("this mypy is not compiled")
    name = helpers.pop()
    assert advice(Refused(C.IMPORT_NATIVE, name)) == {"import": {"native": ["mypy"]}}
    assert advice(Refused(C.IMPORT_NATIVE, "0" + name)) is None


def test_a_name_is_advised_where_the_guest_cannot_see_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    opened = ((C.FS_WRITE, str(file)), (C.FS_READ, str(file)))
    assert advice(Refused(C.FS_CREATE, str(file), opened)) == {"fs": [{"path": str(file), "allow": ["read", "write"]}]}
    only_read = advice(Refused(C.FS_CREATE, str(file), opened[1:]))
    assert only_read == {"fs": [{"path": str(file), "allow": ["read"]}]}  # O_RDONLY|O_CREAT
    named = advice(Refused(C.FS_CREATE, str(file)))
    assert named == {"fs": [{"path": str(tmp_path), "allow": ["create"]}]}  # mkdir, link
    deep = str(tmp_path / "none" / "deeper" / "new")
    assert advice(Refused(C.FS_CREATE, deep, ((C.FS_WRITE, deep),))) == {
        "fs": [{"path": str(tmp_path), "allow": ["write", "create"]}]
    }
    assert advice(Refused(C.FS_CREATE, "/srv-none/deeper/new")) is None  # never "/" for all
    there = tmp_path / "there"
    there.mkdir()  # makedirs(exist_ok=True) makes nothing where it finds it
    assert advice(Refused(C.FS_CREATE, str(there))) == {"fs": [{"path": str(there), "allow": ["read"]}]}


@pytest.mark.parametrize("name", ["numpy", "click.core", "no_such_module"])
def test_a_guest_that_sees_no_packages_is_advised_what_is_one_step(name: str) -> None:
    found = suggestion_unseen(Refused(C.IMPORT_MODULE, name))
    assert found == {"import": {"native": [name.partition(".")[0]]}}
    broker = Broker(compile_policy(apply(Policy.preset("compute"), found)))
    assert broker.decide(C.IMPORT_MODULE, name).verdict is Verdict.ALLOW
    assert broker.decide(C.IMPORT_MODULE, "yaml").verdict is Verdict.DENY
    assert suggestion_unseen(Refused(C.IMPORT_MODULE, "ctypes")) == {"import": {"allow": ["ctypes"]}}


def test_advice_of_anything_else_is_the_suggestion() -> None:
    for capability, target in ((C.FS_READ, "/srv/x"), (C.NET_CONNECT, "10.0.0.1:80"), (C.KERNEL_BPF, "bpf()")):
        assert advice(Refused(capability, target)) == suggestion(Refused(capability, target))


def test_what_a_files_own_permissions_refuse_guests_is_not_suggested(tmp_path: Path) -> None:
    """`spawn` refuses such a rule; and, under root, each for a unix socket by its path."""
    file, directory = tmp_path / "file", tmp_path / "directory"
    file.touch()
    directory.mkdir()
    host = AdviceOfHost(uid=54321, gid=54321, unix_paths=False)
    for mode, works in ((0o644, True), (0o640, False), (0o604, True)):
        file.chmod(mode)
        assert (host(Refused(C.FS_READ, str(file))) is not None) is works
    for mode, works in ((0o755, False), (0o777, True)):
        directory.chmod(mode)
        assert (host(Refused(C.FS_CREATE, str(directory / "new"))) is not None) is works
    for mode, works in ((0o644, False), (0o750, False), (0o755, True)):
        file.chmod(mode)
        assert (host(Refused(C.PROCESS_EXEC, str(file))) is not None) is works
    assert host(Refused(C.FS_READ, str(tmp_path / "absent"))) is not None  # nothing that could refuse
    assert AdviceOfHost(uid=os.geteuid(), gid=os.getegid(), unix_paths=False)(Refused(C.FS_READ, str(file))) is not None
    assert host(Refused(C.NET_CONNECT, "unix:/run/socket")) is None
    assert host(Refused(C.NET_CONNECT, "192.0.2.1:80")) is not None
    assert AdviceOfHost(uid=54321, gid=54321, unix_paths=True)(Refused(C.NET_CONNECT, "unix:/run/socket")) is not None
