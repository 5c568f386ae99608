"""The native layer under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer: `make fuzz`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.require import require

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(900)]

TREE = Path(__file__).resolve().parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
#: All that calls C and starts no zygote: that has an environment of its own, without the sanitizers' library.
TESTS = (
    *(f"unit/test_{name}.py" for name in ("wire", "channel", "plain_answers", "seccomp", "notify_table")),
    *(f"unit/test_native_{name}.py" for name in ("audit", "landlock", "process")),
    *(f"host/test_notify_{name}.py" for name in ("calls", "connect_waits", "net", "threads", "unix")),
    *(f"host/test_{name}.py" for name in ("native_process", "landlock")),
    "unit/test_fuzz.py",
)
#: The first three end a whole program under a filter that stops LeakSanitizer; the last brings its own sanitizer.
LEFT_OUT = (
    "test_executing_needs_exec or test_processes_need_a_grant or test_python_itself_is_at_home or test_a_short_while"
)
DEFECT = re.compile(r"ERROR: AddressSanitizer|runtime error:|DEADLYSIGNAL")


def libraries() -> list[str]:
    found = []
    for name in ("libasan.so", "libubsan.so"):
        done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        found.append(done.stdout.strip())
    return found


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with native parts built under the sanitizers."""
    require("sanitizers", shutil.which("gcc") is not None, "apt-get install gcc")
    require("sanitizers", all(Path(path).is_absolute() for path in libraries()), "gcc has no libasan or libubsan")
    tree = tmp_path_factory.mktemp("sanitized")
    for name in ("pyisolate", "tests", "bpf", "docs"):
        shutil.copytree(TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "_native*.so", "vm"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(TREE / name, tree / name)
    env = {**os.environ, "CFLAGS": FLAGS, "LDFLAGS": "-fsanitize=address,undefined", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tree


def run(tree: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python under the sanitizers; return what became of it and all that they reported, of its children too."""
    reports = tree / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    reports.chmod(0o777)
    asan = (
        f"halt_on_error=1:abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1:log_path={reports}/a"
    )
    env = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries()),
        "ASAN_OPTIONS": f"{asan}:detect_leaks=1",
        "LSAN_OPTIONS": "exitcode=0",  # the interpreter leaks; what is ours is looked for in the reports
        "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1:log_path={reports}/u",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, errors="replace", check=False)
    return done, done.stderr + "".join(path.read_text(errors="replace") for path in reports.iterdir())


OVERRUN = """
from pyisolate.native._native import ffi, lib
lib.msgpack_measure(ffi.from_buffer(bytearray(b"\\xd9\\xf0" + b"x" * 8)), 300, 64, 1 << 40)
"""


def test_the_control_a_read_past_a_buffer_is_caught(sanitized: Path) -> None:
    done, reports = run(sanitized, "-c", OVERRUN)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in reports
    assert "msgpack_text" in reports


def test_the_native_layer_is_clean(sanitized: Path) -> None:
    chosen = [f"tests/{name}" for name in TESTS]
    options = ("-q", "-p", "no:cacheprovider", "--timeout", "300", "-k", f"not ({LEFT_OUT})")
    done, reports = run(sanitized, "-m", "pytest", *options, *chosen)
    print(done.stdout[-300:])
    assert done.returncode == 0, done.stdout[-6000:]
    assert not DEFECT.search(reports), reports[-6000:]
    ours = [leak for leak in re.findall(r"^\w+ leak of .*?(?=^$)", reports, re.M | re.S) if is_ours(leak)]
    assert not ours, "\n".join(ours[:3])


def is_ours(leak: str) -> bool:
    """Tell whether our C asked for it: the first frame after the allocator's own."""
    frames = re.findall(r"^ +#\d+ .*$", leak, re.M)
    return any("pyisolate/native/" in frame for frame in frames[1:3])
