"""CPython's own tests come out inside a sandbox as they do outside: the same run, failed, skipped, by name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from tests.require import require

pytestmark = pytest.mark.timeout(300)

MODULES = (
    "test_json test_re test_math test_statistics test_csv test_sqlite3 test_collections test_itertools test_functools "
    "test_struct test_fractions test_hashlib test_zlib test_dataclasses test_enum test_configparser test_heapq "
    "test_difflib test_zoneinfo test_tempfile"
).split()
LIMITS = {
    "wall": "200s", "cpu": "150s", "memory": "1GiB", "processes": 64, "open_files": 256, "output": "8MiB",
}  # fmt: skip
#: How many tests may end the interpreter outside by a signal. Tests of a later patch release try defects that this one
#: has: 3.11.7's test_itertools ends 3.11.2, in pairwise. Such a test is left out on both sides.
CRASHES = 5
NATIVE = ("_testcapi", "_testbuffer", "_testinternalcapi", "_testmultiphase")
UID = 65534 if os.geteuid() == 0 else None

PROGRAM = """
import os, sys, unittest
os.chdir({where!r})
import test
test.__path__.append({more!r})
def chosen(suite, without):
    kept = unittest.TestSuite()
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            kept.addTest(chosen(one, without))
        elif one.id().rpartition(".")[2] not in without:
            kept.addTest(one)
    return kept
def outcome(name, without=()):
    result = unittest.TestResult()
    chosen(unittest.defaultTestLoader.loadTestsFromName("test." + name), without).run(result)
    names = lambda pairs: sorted(one.id() for one, _ in pairs)
    return {{
        "run": result.testsRun, "failures": names(result.failures), "errors": names(result.errors),
        "skipped": names(result.skipped), "expected": names(result.expectedFailures),
        "why": [text[-1500:] for _, text in (*result.errors, *result.failures)][:3],
    }}
"""


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"]).resolve()


def places() -> Iterator[Path]:
    """Yield where tests of this Python may be: its own (Debian leaves some out), or those of the same version."""
    yield standard_library() / "test"
    if given := os.environ.get("PYISOLATE_CPYTHON_TESTS"):
        yield Path(given)
    version = "{}.{}".format(*sys.version_info)
    yield from sorted(Path.home().glob(f".pyenv/versions/{version}.*/lib/python{version}/test"))


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


@pytest.fixture
def data() -> Iterator[Path]:
    """A directory that the tests' user may write in, whoever that is."""
    directory = Path(f"/tmp/pyisolate-test-{os.getpid()}-{time.monotonic_ns()}")
    for name in ("outside", "inside", "more"):
        (directory / name).mkdir(parents=True)
        (directory / name).chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def take(name: str, more: Path) -> None:
    """Make a test module available that this Python's own package lacks."""
    found = next((place / kind for place in places() for kind in (name, f"{name}.py") if (place / kind).exists()), None)
    require("cpython_tests", found is not None, f"no {name}. Hint: apt-get install libpython3-testsuite")
    assert found is not None
    if found.parent != standard_library() / "test":
        copy = shutil.copytree if found.is_dir() else shutil.copy
        copy(found, more / found.name)


def outside(name: str, data: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the outcome, and the tests at which this interpreter itself ends by a signal."""
    program = PROGRAM.format(where=str(data / "outside"), more=str(data / "more"))
    without: list[str] = []
    user: dict[str, Any] = {} if UID is None else {"user": UID, "group": UID, "extra_groups": []}
    while True:
        last = f"import json\nprint('@@', json.dumps(outcome({name!r}, {without!r})))"
        done = subprocess.run(
            [interpreter(), "-X", "faulthandler", "-I", "-c", program + last],
            capture_output=True, text=True, errors="replace", check=False, timeout=80,
            env=environment(data / "outside"), **user,
        )  # fmt: skip
        crashed = re.search(r" in (test_\w+)$", done.stderr, re.MULTILINE) if done.returncode < 0 else None
        if crashed is None or len(without) == CRASHES:
            break
        without.append(crashed[1])
    assert "@@" in done.stdout, f"status {done.returncode}: {done.stderr}"
    return dict(json.loads(done.stdout.rpartition("@@")[2])), without


def interpreter() -> str:
    """The interpreter proper: cells have no venv either."""
    return os.path.realpath(sys.executable)


def environment(where: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "TMPDIR": str(where), "HOME": str(where), "LC_ALL": "C.UTF-8"}


def granted(data: Path) -> Policy:
    where = str(data / "inside")
    return (
        Policy.preset("compute")
        .allow_read(str(standard_library() / "test")).allow_read(str(data / "more"))
        .allow_read(where).allow_write(where)
        .allow_import("test").allow_native(*NATIVE)
        .allow_exec(interpreter())
        .with_limits(**LIMITS)
    )  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_the_outcome_is_the_same(supervisor: pyisolate.Supervisor, data: Path, name: str) -> None:
    require("cpython_tests", (standard_library() / "test/support").is_dir(), "this Python has no test.support")
    take(name, data / "more")
    expected, without = outside(name, data)
    where = data / "inside"
    with supervisor.spawn(name, granted(data), cwd=str(where), env=environment(where)) as sandbox:
        sandbox.exec(PROGRAM.format(where=str(where), more=str(data / "more")))
        found = sandbox.eval(f"outcome({name!r}, {without!r})")
        events = [(event.capability.value, event.target, event.origin) for event in sandbox.get_denial_events()]
    why = found.pop("why"), events[:10], expected.pop("why")
    assert expected["run"] > 0
    assert found == expected, why


def test_without_the_grant_they_are_refused(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("none") as sandbox, pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec("import test.test_json")
    event = caught.value.denial_event
    assert event is not None
    assert (event.capability.value, event.target) == ("import.module", "test.test_json")
