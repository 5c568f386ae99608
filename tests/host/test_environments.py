"""Guests with packages of their own: theirs and no others, beside one another, and not to be changed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import pyisolate
from pyisolate import EnforcementError, Environment, GuestError, Policy, PolicyError
from tests.wheels import make_wheel

pytestmark = [pytest.mark.usefixtures("kept_supervisor")]


def msgspec_files() -> dict[str, bytes]:
    """Return the files of a package with native code, which each cell has loaded from the host's packages."""
    place = Path(msgspec.__file__).parent
    files = [path for path in place.iterdir() if path.suffix in (".py", ".so")]
    own = {f"msgspec/{path.name}": path.read_bytes() for path in files}
    return own | {"msgspec/__init__.py": own["msgspec/__init__.py"] + b"\nof_the_environment = True\n"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of wheels, and a cache for what is made of them."""
    place = tmp_path_factory.mktemp("wheels")
    make_wheel(place, "thing", {"thing.py": "version = 1\n", "data/x": ""}, version="1.0")
    make_wheel(place, "thing", {"thing.py": "version = 2\n"}, version="2.0")
    make_wheel(place, "msgspec", msgspec_files(), version="99.0")
    os.chmod(tmp_path_factory.getbasetemp(), 0o755)  # cells of root are another user
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield place


@pytest.fixture(scope="module")
def first(wheels: Path) -> Environment:
    return Environment.from_requirements(["thing==1.0", "msgspec"], wheels=wheels)


@pytest.fixture(scope="module")
def second(wheels: Path) -> Environment:
    return Environment.from_requirements(["thing==2.0"], wheels=wheels)


def test_a_guest_imports_its_own_packages_and_none_of_the_hosts(
    supervisor: pyisolate.Supervisor, first: Environment
) -> None:
    policy = Policy.preset("compute").allow_import("*")
    with supervisor.spawn("own", policy, environment=first) as sandbox:
        assert sandbox.eval("__import__('thing').version") == 1
        # a native one, in the place of the one that the cell itself uses
        assert sandbox.eval("__import__('msgspec').of_the_environment")
        assert sandbox.eval("__import__('msgspec').json.encode([1])") == b"[1]"
        assert sandbox.eval("__import__('importlib.metadata').metadata.version('msgspec')") == "99.0"
        with pytest.raises(GuestError, match="No module named 'click'"):
            sandbox.exec("import click")
        path = sandbox.eval("__import__('sys').path")
        assert path[-1] == f"{first.directory}/site-packages"
        assert not [place for place in path[:-1] if "site-packages" in place or "editable" in place]
        assert not sandbox.get_denial_events()
    with supervisor.spawn("hosts", policy) as sandbox:  # the control: the same rules without an environment
        assert sandbox.eval("__import__('click').__name__") == "click"
        assert not sandbox.eval("hasattr(__import__('msgspec'), 'of_the_environment')")


def test_sandboxes_have_different_environments_beside_one_another(
    supervisor: pyisolate.Supervisor, first: Environment, second: Environment
) -> None:
    with (
        supervisor.spawn("one", environment=first) as one,
        supervisor.spawn("two", environment=second.directory) as two,
        supervisor.spawn("none") as none,
    ):
        assert [sandbox.eval("__import__('thing').version") for sandbox in (one, two)] == [1, 2]
        with pytest.raises(PolicyError) as caught:
            none.exec("import thing")
        assert caught.value.requested_capability == "import.module thing"


def test_no_guest_changes_it_and_trying_is_an_event_each(
    supervisor: pyisolate.Supervisor, first: Environment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file, place = f"{first.directory}/site-packages/thing.py", tmp_path_factory.mktemp("granted")
    os.chmod(place, 0o755)
    beside = place / "beside.py"
    beside.write_text("value = 1\n")
    for path in (file, beside):
        os.chmod(path, 0o646)  # its mode lets everybody write, so that the policy alone refuses
    policy = Policy.preset("compute").allow_read(beside).allow_write(beside).allow_native("ctypes", "_ctypes")
    attempt = "__import__('ctypes').CDLL(None).open({!r}, 1) >= 0"
    with supervisor.spawn("writes", policy, environment=first) as sandbox:
        assert sandbox.eval(attempt.format(os.fsencode(beside)))  # the control: the same call on what is granted
        assert not sandbox.eval(attempt.format(os.fsencode(file)))
        with pytest.raises(PolicyError, match="denied by environment") as caught:
            sandbox.exec(f"open({file!r}, 'r+')")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.suggestion is None
        events = [event for event in sandbox.get_denial_events() if event.target == file]
        assert [(event.capability, event.broker_decision) for event in events] == [
            ("fs.write", "not_consulted"), ("fs.write", "deny"),
        ]  # fmt: skip
        assert events[0].kernel_decision == "deny"
    os.chmod(file, 0o644)


def test_a_reload_keeps_the_environment_and_takes_no_other(
    supervisor: pyisolate.Supervisor, first: Environment, second: Environment
) -> None:
    policy = Policy.preset("compute").with_limits(wall="20s")
    with supervisor.spawn("reloaded", environment=first) as sandbox:
        for other in (policy, second.grant(policy)):
            with pytest.raises(EnforcementError, match="another environment"):
                sandbox.reload_policy(other)
        sandbox.reload_policy(first.grant(policy))
        assert sandbox.eval("__import__('thing').version") == 1


def test_it_is_not_for_threads_nor_for_preloaded_packages(supervisor: pyisolate.Supervisor, first: Environment) -> None:
    with pytest.raises(ValueError, match="isolation='process'"):
        supervisor.spawn("thread", environment=first, isolation="thread")
    with (
        pyisolate.Supervisor(pool_size=0, preload=["json", "click"]) as other,
        pytest.raises(ValueError, match="click"),
    ):
        other.spawn("preloaded", environment=first)


def test_an_executor_runs_its_tasks_in_one(supervisor: pyisolate.Supervisor, first: Environment) -> None:
    def task() -> int:
        import thing  # type: ignore[import-not-found]

        return int(thing.version)

    with pyisolate.SandboxExecutor("compute", 1, supervisor=supervisor, environment=first) as executor:
        assert executor.submit(task).result() == 1


def test_what_was_built_again_is_what_new_sandboxes_get(
    supervisor: pyisolate.Supervisor, wheels: Path, second: Environment
) -> None:
    with supervisor.spawn("before", environment=second) as before:
        make_wheel(wheels, "thing", {"thing.py": "version = 3\n"}, version="2.0")
        again = Environment.from_requirements(["thing==2.0"], wheels=wheels, rebuild=True)
        assert again.id == second.id
        with supervisor.spawn("after", environment=second) as after:
            assert after.eval("__import__('thing').version") == 3
        assert before.eval("1") == 1


CHILDREN = """
import os, subprocess, sys
open("double.py", "w").write("import thing; print(thing.version)")
open("pool.py", "w").write('''
import multiprocessing, thing
if __name__ == "__main__":
    for way in ("spawn", "forkserver"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            print(*pool.map(thing.double, [2]))
''')
for words in (["-c", "import thing; print(thing.version)"], ["-m", "thing"], ["double.py"], ["pool.py"]):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    print(done.stdout.split(), done.stderr)
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-m", "thing"])
"""


def test_interpreters_that_a_guest_starts_find_its_packages(
    supervisor: pyisolate.Supervisor, wheels: Path, tmp_path: Path
) -> None:
    thing = {"thing/__init__.py": "version = 7\ndef double(x): return 2 * x\n", "thing/__main__.py": "print('main')\n"}
    make_wheel(tmp_path / "own", "thing", thing, version="7.0")
    environment = Environment.from_requirements(["thing==7.0"], wheels=tmp_path / "own")
    policy = Policy.preset("compute").allow_exec(sys.executable).with_limits(processes=32, memory="1GiB")
    child = "__import__('subprocess').run({!r}, capture_output=True, text=True).stdout"
    ask = [sys.executable, "-c", "import os, thing; print(os.environ['PYTHONPATH'])"]
    with supervisor.spawn("children", policy, environment=environment) as sandbox:
        with pytest.raises(pyisolate.SandboxDied) as caught:  # the program that it has become
            sandbox.exec(CHILDREN)
        assert caught.value.stdout.splitlines() == ["['7'] ", "['main'] ", "['7'] ", "['4', '4'] ", "main"]
    with supervisor.spawn("own path", policy, environment=environment, env={"PYTHONPATH": "lib"}) as sandbox:
        assert sandbox.eval(child.format(ask)) == f"lib:{environment.directory}/site-packages\n"
    with supervisor.spawn("none", policy) as sandbox:  # the control
        assert not sandbox.eval(child.format(ask))
