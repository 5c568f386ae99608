"""What an event suggests is right: refused before, done after it was applied, and a neighbour still refused."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from pyisolate.policy.explain import diff
from pyisolate.policy.suggest import apply
from tests.foreign_functions import with_ctypes
from tests.require import require

#: In the guest: `attempt(name, where)` does one operation; what is refused ends it.
OPERATIONS = """
import os, socket, subprocess
def read(where): open(where).close()
def listing(where): os.listdir(where)
def write(where): open(where, "r+").close()
def create(where): os.mkdir(where)
def delete(where): os.unlink(where)
def mode(where): os.chmod(where, 0o666)
def connect(where): socket.create_connection(("127.0.0.1", int(where)), 5).close()
def anywhere(where): socket.socket().connect(("0.0.0.0", int(where)))
def send(where): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", int(where)))
def bind(where): socket.socket().bind(("127.0.0.1", int(where)))
def bind6(where): socket.socket(socket.AF_INET6).bind(("::", int(where)))
def listen(where):
    s = socket.socket(); s.bind(("127.0.0.1", int(where))); s.listen()
def unix(where): socket.socket(socket.AF_UNIX).connect(where)
def run(where): subprocess.run([where], check=True)
def fork(where):
    child = os.fork()
    if not child: os._exit(0)
    os.waitpid(child, 0)
def module(where): __import__(where)
def script(where):
    import runpy
    runpy.run_module(where)
def library(where):
    import ctypes
    ctypes.CDLL(where)
def randomness(where): os.urandom(8)
def device(where): open(where, "rb").close()
def attempt(name, where):
    try:
        globals()[name](where)
    except OSError as error:
        if type(error).__name__ == "PolicyError" or error.errno in (1, 13): raise
        if name in ("create", "delete"): raise  # EROFS, ENOENT: not made, not removed
"""


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as made:
        with made.spawn("network", Policy.preset("compute").allow_connect("127.0.0.1:1")):
            pass  # the cells of the host's network have a zygote of their own, which stays
        yield made


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory that a guest reaches whatever its uid, with two of everything; its /tmp is its own."""
    directory = Path(os.path.realpath(tempfile.mkdtemp(prefix="pyisolate-suggestion-", dir="/var/tmp")))
    directory.chmod(0o777)
    for name in ("one", "two"):
        (directory / name).write_text(name)
        (directory / name).chmod(0o666)
        if os.geteuid() == 0:
            os.chown(directory / name, 65534, 65534)  # who a guest of a root host is
    servers = []
    for name in ("s1", "s2"):
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(directory / name))
        (directory / name).chmod(0o777)
        server.listen()
        servers.append(server)
    yield directory
    for server in servers:
        server.close()
    shutil.rmtree(directory)


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        yield one.getsockname()[1], two.getsockname()[1]


def refused(supervisor: pyisolate.Supervisor, policy: Policy, operation: str, where: str) -> Any:
    """Try an operation in a sandbox of its own; return the event that ended it, None where nothing did."""
    with supervisor.spawn("try", policy) as sandbox:
        sandbox.exec(OPERATIONS)
        try:
            sandbox.call("attempt", operation, where)
        except pyisolate.PolicyError as error:
            return error.denial_event or error
    return None


BASE = with_ctypes().with_name("loop")
#: Where nothing can be reached, already the socket is refused, which names no address to suggest.
SOCKETS = BASE.allow_connect("192.0.2.1:9")
BASES = {
    **dict.fromkeys(("randomness", "device"), BASE.deny_random()),
    "script": Policy.preset("compute").with_name("loop"),
    "unix": BASE.allow_connect("unix:/nonexistent"),
    **dict.fromkeys(("anywhere", "send", "bind", "bind6", "listen"), SOCKETS),
}
CASES = {
    "read": ("{ground}/one", "{ground}/two"),
    "listing": ("{ground}", "/srv"),
    "write": ("{ground}/one", "{ground}/two"),
    # names are granted by their directory
    "create": ("{ground}/new", "/var/tmp/pyisolate-new"),
    "delete": ("{ground}/one", "/var/tmp/pyisolate-one"),
    "mode": ("{ground}/one", "{ground}/two"),
    "connect": ("{port}", "{other}"),
    "anywhere": ("{port}", "{other}"),
    "send": ("{port}", "{other}"),
    "bind": ("{free}", "{port}"),
    "bind6": ("{free}", "{port}"),
    "listen": ("{free}", "{port}"),
    "unix": ("{ground}/s1", "{ground}/s2"),
    "run": ("/usr/bin/true", "/usr/bin/false"),
    "fork": ("", None),
    "module": ("yaml", "numpy"),
    "script": ("ctypes.util", "click"),
    "library": ("{library}", None),
    "randomness": ("", None),
    "device": ("/dev/urandom", "/dev/kmsg"),
}
#: Suggested as one step.
AT_ONCE = ("anywhere", "bind6", "device", "script")


@pytest.mark.parametrize("operation", CASES)
def test_applying_a_suggestion_allows_exactly_that(
    supervisor: pyisolate.Supervisor, ground: Path, ports: tuple[int, int], operation: str
) -> None:
    if operation == "unix":
        require("user", os.geteuid() != 0, "a supervisor that is root grants no unix sockets: the peer would see root")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    known = {"ground": ground, "port": ports[0], "other": ports[1], "free": free, "library": _library()}
    where, beside = (None if text is None else text.format(**known) for text in CASES[operation])
    base = BASES.get(operation, BASE)
    policy = base
    seen = []
    # an operation may consist of several, as creating and writing: each is suggested in its turn
    while (event := refused(supervisor, policy, operation, str(where))) is not None:
        assert len(seen) < 4, [str(one) for one in seen]
        assert event.suggestion is not None, str(event)
        seen.append(event)
        wider = apply(policy, event.suggestion)
        changes = diff(policy, wider)
        assert changes, "the suggestion changes something"
        assert all(change.effect == "widened" for change in changes)
        policy = wider
    assert len(seen) == 1 if operation in AT_ONCE else seen
    if beside is not None:
        assert refused(supervisor, policy, operation, beside) is not None, "only what was asked for"


def test_a_new_database_is_one_step(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    """A transaction makes a journal beside it, and removes it."""
    made = (
        f"import sqlite3; c = sqlite3.connect({str(ground / 'new.db')!r}); c.execute('create table a(b)'); c.commit()"
    )
    with supervisor.spawn("try", BASE) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(made)
    assert caught.value.denial_event is not None
    policy = apply(BASE, caught.value.denial_event.suggestion or {})
    with supervisor.spawn("try", policy) as sandbox:
        sandbox.exec(made)
        assert sandbox.get_denial_events() == []


def test_a_database_that_exists_is_opened_by_its_own_rights(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    opened = f"import sqlite3; sqlite3.connect({str(ground / 'one')!r})"
    with supervisor.spawn("try", BASE) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(opened)
    assert caught.value.denial_event is not None
    suggested = caught.value.denial_event.suggestion
    assert suggested == {"fs": [{"path": str(ground / "one"), "allow": ["read", "write"]}]}
    with supervisor.spawn("try", apply(BASE, suggested)) as sandbox:
        sandbox.exec(opened)
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("existing", [True, False])
def test_what_would_be_made_in_a_denied_directory_is_no_write_of_what_is_there(
    supervisor: pyisolate.Supervisor, ground: Path, existing: bool
) -> None:
    """A guest sees of neither whether it is there: the host, which advises, does."""
    (ground / "denied").mkdir()
    (ground / "denied/file").touch()
    (ground / "denied/file").chmod(0o666)
    policy = BASE.allow_read(ground).deny("fs.read", ground / "denied")
    where = ground / "denied" / ("file" if existing else "new")
    opened = f"open({str(where)!r}, 'w').close()"
    with supervisor.spawn("try", policy) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(opened)
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target) == ("fs.create", str(where))
    if not existing:
        assert event.suggestion is None, "no rule for names in there can be enforced while reading them is denied"
        return
    with supervisor.spawn("try", apply(policy, event.suggestion or {})) as sandbox:
        sandbox.exec(opened)
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("call", ["os.rename", "os.link", "libc.rename", "libc.link"])
def test_for_a_move_between_directories_no_grant_is_suggested(
    supervisor: pyisolate.Supervisor, ground: Path, call: str
) -> None:
    """Grants of both would open a directory for nothing: the kernel refuses the move all the same."""
    mine = ground / "mine"
    mine.mkdir()
    mine.chmod(0o777)
    (mine / "file").touch()
    (mine / "file").chmod(0o666)
    if os.geteuid() == 0:
        os.chown(mine / "file", 65534, 65534)
    libc = "import ctypes, os; libc = ctypes.CDLL(None); "

    def moved(source: Path, target: Path) -> str:
        return f"{libc}assert not {call}({os.fsencode(source)!r}, {os.fsencode(target)!r})"

    with supervisor.spawn("try", BASE.allow_read(mine).allow_write(mine)) as sandbox:
        for source, target in ((ground / "one", mine / "new"), (mine / "file", ground / "new")):
            with pytest.raises(pyisolate.SandboxError):
                sandbox.exec(moved(source, target))
        events = sandbox.get_denial_events()
        assert events
        assert [event.suggestion for event in events] == [None] * len(events)
        sandbox.exec(moved(mine / "file", mine / "other"))
        assert sandbox.get_denial_events() == events


def test_a_move_below_one_rule_passes_with_the_right_that_it_lacked(
    supervisor: pyisolate.Supervisor, ground: Path
) -> None:
    """As the hint says: a rule for one of the names would be a directory of its own, and is not suggested."""
    for name in ("from", "to"):
        (ground / name).mkdir()
        (ground / name).chmod(0o777)
    (ground / "from/file").touch()
    moved = f"import os; os.rename({str(ground / 'from/file')!r}, {str(ground / 'to/file')!r})"
    rights = ["read", "write", "create"]
    for allow in (rights, [*rights, "delete"]):
        policy = apply(BASE, {"fs": [{"path": str(ground), "allow": allow}]})
        with supervisor.spawn("try", policy) as sandbox:
            if "delete" in allow:
                sandbox.exec(moved)
                assert (ground / "to/file").exists()
                continue
            with pytest.raises(pyisolate.PolicyError, match="where one rule holds both names, add to it") as caught:
                sandbox.exec(moved)
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.capability == "fs.delete"


@pytest.mark.parametrize("call", ["os.mkdir", "os.unlink"])
def test_no_suggestion_makes_a_policy_that_cannot_be_enforced(
    supervisor: pyisolate.Supervisor, ground: Path, call: str
) -> None:
    """Names in a directory below which something is denied: null, and the same directory without is suggested."""
    (ground / "denied").mkdir()
    name = ground / ("new" if call == "os.mkdir" else "one")
    for policy in (BASE.allow_read(ground).deny("fs.read", ground / "denied"), BASE.allow_read(ground)):
        with supervisor.spawn("try", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(f"import os; {call}({str(name)!r})")
        event = caught.value.denial_event
        assert event is not None
        if policy.files == BASE.allow_read(ground).files:
            assert event.suggestion is not None
        else:
            assert event.suggestion is None
            assert "the policy denies" in str(caught.value)


@pytest.mark.parametrize("call", ["os.mkdir", "os.unlink"])
def test_no_suggestion_takes_one_right_to_change_from_a_rule_that_denies_all(
    supervisor: pyisolate.Supervisor, ground: Path, call: str
) -> None:
    """No mount of which names may be removed keeps its owner from changing modes: `spawn` would refuse the policy."""
    name = ground / ("new" if call == "os.mkdir" else "one")
    for policy in (BASE.allow_read(ground).deny_write(ground), BASE.allow_read(ground)):
        with supervisor.spawn("try", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(f"import os; {call}({str(name)!r})")
        event = caught.value.denial_event
        assert event is not None
        assert (event.suggestion is None) == (event.code == "EXPLICIT_DENY"), "without the denial it is the control"


@pytest.mark.parametrize("denied", [["xml.dom"], ["xml"], ["xml", "xml.dom"], ["xml.dom.minidom"], ["msgspec"]])
def test_a_module_below_denied_ones_is_suggested_with_all_of_them(
    supervisor: pyisolate.Supervisor, denied: list[str]
) -> None:
    wanted = "msgspec.json" if denied == ["msgspec"] else "xml.dom.minidom"
    policy = Policy.preset("compute")
    for one in denied:
        policy = policy.deny_import(one)
    with supervisor.spawn("try", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(f"import {wanted}")
    event = caught.value.denial_event
    assert event is not None
    assert event.suggestion is not None
    with supervisor.spawn("try", apply(policy, event.suggestion)) as sandbox:
        sandbox.exec(f"import {wanted}")
        assert sandbox.get_denial_events() == []


def test_no_rule_about_files_is_suggested_for_what_an_import_rule_denies(supervisor: pyisolate.Supervisor) -> None:
    place = os.path.dirname(str(importlib.util.find_spec("xml.dom").origin))  # type: ignore[union-attr]
    policy = Policy.preset("compute").deny_import("xml.dom")
    with supervisor.spawn("try", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(f"import os; os.listdir({place!r})")
    event = caught.value.denial_event
    assert event is not None
    assert (event.code, event.suggestion) == ("EXPLICIT_DENY", None)
    again = policy.allow_read(place)
    with supervisor.spawn("try", again) as sandbox, pytest.raises(pyisolate.PolicyError):
        sandbox.exec(f"import os; os.listdir({place!r})")  # such a rule does not help


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="no other machine has uselib(2)")
def test_no_rule_is_suggested_for_a_call_that_no_kernel_has(supervisor: pyisolate.Supervisor) -> None:
    code = f"import ctypes; ctypes.CDLL(None).syscall(134, {_library().encode()!r})"
    with supervisor.spawn("try", BASE.allow_native(_library())) as sandbox:
        sandbox.exec(code)
        (event,) = sandbox.get_denial_events()
    assert (event.syscall, event.code, event.suggestion) == ("uselib", "ALWAYS_DENIED", None)


def test_a_socket_in_the_workspace_without_processes_says_what_it_takes(supervisor: pyisolate.Supervisor) -> None:
    code = "import socket; socket.socket(socket.AF_UNIX).bind('/sandbox/workspace/s')"
    with supervisor.spawn("try", BASE.allow_fork()) as sandbox:
        sandbox.exec(code)  # the control
        assert sandbox.get_denial_events() == []
    if os.geteuid() != 0:  # a supervisor that is root grants no paths
        with (
            supervisor.spawn("try", BASE.allow_bind("unix:/sandbox/workspace/s")) as sandbox,
            pytest.raises(pyisolate.PolicyError, match="own processes"),
        ):
            sandbox.exec(code)


@pytest.mark.parametrize("call", ["open({!r}, 'w')", "open({!r}, 'r+')", "__import__('os').truncate({!r}, 0)"])
def test_a_directory_opened_for_writing_is_one_and_no_denial(
    supervisor: pyisolate.Supervisor, ground: Path, call: str
) -> None:
    """Linux says EISDIR before it looks at rights, whoever asks."""
    with supervisor.spawn("try", BASE.allow_read(ground)) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="IsADirectoryError"):
            sandbox.exec(call.format(str(ground)))
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(call.format(str(ground / "one")))  # the control


def _library() -> str:
    """Return a shared library outside of what the interpreter needs."""
    import yaml._yaml

    return os.path.realpath(yaml._yaml.__file__)


def test_a_socket_that_can_reach_nothing_says_what_to_grant(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("try", BASE) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec("import socket; socket.socket()")
    assert "grant the address" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("open('/proc/self/status')", "os.getpid()"),
        ("open('/sandbox/x', 'w')", "/sandbox/workspace"),
        ("import socket; socket.socket(socket.AF_UNIX)", "an AF_UNIX socket"),
        ("import tempfile; tempfile.TemporaryFile()", "give the sandbox a workspace"),
        ("import multiprocessing; multiprocessing.Lock()", "give the sandbox a workspace"),
        ("import os; os.closerange(3, 100)", "os.closerange closes it too"),
        ("import os; os._exit(3)", "the guest ended its own process"),
    ],
)
def test_an_error_says_what_to_do(supervisor: pyisolate.Supervisor, code: str, words: str) -> None:
    policy = pyisolate.Policy.preset("compute").with_workspace(None)
    with supervisor.spawn("try", policy) as sandbox, pytest.raises(pyisolate.SandboxError) as caught:
        sandbox.exec(code)
    assert words in str(caught.value)


def test_a_grant_of_what_is_not_there_is_named(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    later = ground / "later" / "out"
    with supervisor.spawn("try", BASE.allow_write(later)) as sandbox:
        for code in (f"import os; os.makedirs({str(later)!r})", f"open({str(later / 'a')!r}, 'w')"):
            with pytest.raises(pyisolate.SandboxError, match=f"grants {later}, which does not exist"):
                sandbox.exec(code)
    later.mkdir(parents=True)
    later.chmod(0o777)
    with supervisor.spawn("try", BASE.allow_write(later)) as sandbox:
        sandbox.exec(f"open({str(later / 'a')!r}, 'w').close()")
    assert (later / "a").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's guest is that user")
def test_what_a_files_own_permissions_refuse_is_no_denial(supervisor: pyisolate.Supervisor, ground: Path) -> None:
    """The policy grants it, and no rule would help: the guest has its error, and there is no event."""
    (ground / "mine").write_text("x")
    (ground / "mine").chmod(0o600)
    with supervisor.spawn("try", BASE.allow_read(ground)) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="PermissionError"):
            sandbox.exec(f"open({str(ground / 'mine')!r})")
        assert sandbox.get_denial_events() == []
        (ground / "mine").chmod(0o644)
        sandbox.exec(f"open({str(ground / 'mine')!r})")  # the control


#: Loads an extension module by its file, under a name.
BY_FILE = """
import importlib.machinery, importlib.util
loader = importlib.machinery.ExtensionFileLoader({name!r}, {path!r})
module = importlib.util.module_from_spec(importlib.util.spec_from_loader({name!r}, loader))
loader.exec_module(module)
"""


def _extension(name: str) -> str:
    """Return the file of an installed extension module."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return found.origin


@pytest.mark.parametrize("name", ["yaml._yaml", "_yaml", "elsewhere"])
def test_a_module_loaded_by_its_file_is_what_the_file_is_under_any_name(
    supervisor: pyisolate.Supervisor, name: str
) -> None:
    code = BY_FILE.format(name=name, path=_extension("yaml._yaml"))
    policy = Policy.preset("compute")
    with supervisor.spawn("loads", policy) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(code)
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target) == ("import.native", "yaml._yaml")
    assert event.suggestion == {"import": {"native": ["yaml"]}}
    with supervisor.spawn("loads", apply(policy, event.suggestion)) as sandbox:
        if name == "_yaml":  # PyInit__yaml
            sandbox.exec(code)
        else:
            sandbox.exec(code.replace(repr(name), repr("yaml._yaml")))
        assert sandbox.get_denial_events() == []
    denying = policy.allow_native("*").deny_native("yaml")
    with supervisor.spawn("denies", denying) as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(code)
    assert caught.value.denial_event is not None
    assert caught.value.denial_event.code == "EXPLICIT_DENY", "a name of its own is no way round a rule"


def test_a_module_of_no_place_of_the_interpreters_is_suggested_by_its_file(
    supervisor: pyisolate.Supervisor, ground: Path
) -> None:
    source = Path(_extension("_cffi_backend"))
    mine, beside = (
        ground / f"{name}{source.name.removeprefix('_cffi_backend')}" for name in ("_cffi_backend", "beside")
    )
    for path in (mine, beside):
        shutil.copy(source, path)
        path.chmod(0o755)
    code = BY_FILE.format(name="_cffi_backend", path=str(mine))
    policy = Policy.preset("compute")
    with supervisor.spawn("loads", policy) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(code)
        (event,) = sandbox.get_denial_events()
    assert (event.target, event.suggestion) == (str(mine), {"import": {"native": [str(mine)]}})
    with supervisor.spawn("loads", apply(policy, event.suggestion or {})) as sandbox:
        sandbox.exec(code)
        assert sandbox.get_denial_events() == []
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(BY_FILE.format(name="_cffi_backend", path=str(beside)))
