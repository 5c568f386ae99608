"""Processes, programs and executable memory."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.policy import Policy
from pyisolate.policy.compile import compile_policy
from pyisolate.policy.compiled import NamePattern
from tests.vm.inside.guests import Guest, policy

Make = Callable[..., Guest]

_RUN = "child(lambda: os.execv('{path}', ['{path}']))"


def test_forks_need_a_grant_and_threads_do_not(guest: Make) -> None:
    one = guest(policy({}))
    record = one.refused("os.fork()", errno.EPERM)
    assert record.capability is Capability.PROCESS_FORK
    assert record.target == "fork"
    one.allowed("thread(lambda: 1)")
    two = guest(policy({}, allow_fork=True))
    two.allowed("child(lambda: None)")
    two.lsm.detach(two.sandbox_id)
    assert two.does("os.fork()") == errno.EPERM


@pytest.fixture(scope="module")
def runs_true():
    return compile_policy(Policy().allow_exec("/usr/bin/true"))


def test_programs_run_by_path(guest: Make, runs_true) -> None:
    one = guest(runs_true)
    one.allowed(_RUN.format(path="/usr/bin/true"))
    record = one.refused(_RUN.format(path="/usr/bin/id"))
    assert record.capability is Capability.PROCESS_EXEC
    assert record.target == "/usr/bin/id"
    assert record.hook == "bprm_check_security"


def test_a_script_needs_its_interpreter(guest: Make, files: Path) -> None:
    script = files / "granted/script"
    script.write_text("#!/usr/bin/id\n")
    script.chmod(0o755)
    one = guest(policy({script: "rx"}, allow_fork=True))
    assert one.refused(_RUN.format(path=script)).target == "/usr/bin/id"


def test_a_memfd_is_no_program(guest: Make) -> None:
    one = guest(policy({"/": "rwcdmxX"}, allow_fork=True))
    one.allowed("kept.update(m=os.memfd_create('x')) or os.write(kept['m'], open('/usr/bin/true', 'rb').read())")
    record = one.refused("child(lambda: os.execve(kept['m'], ['x'], {}))")
    assert record.capability is Capability.PROCESS_EXEC
    assert "no path" in record.reason
    assert one.refused("mmap.mmap(kept['m'], 4096, prot=5, flags=2)").capability is Capability.MEMORY_EXEC


def test_a_copy_of_a_granted_program_is_another_program(guest: Make, files: Path, runs_true) -> None:
    import msgspec

    rules = (*runs_true.fs, *policy({files / "granted": "rwcdm"}).fs)
    one = guest(msgspec.structs.replace(runs_true, fs=rules))
    one.allowed(f"kept.update(f=os.open('{files}/granted/true', 577, 0o755))")
    one.allowed("os.write(kept['f'], open('/usr/bin/true', 'rb').read())")
    one.allowed("os.close(kept['f'])")
    one.refused(_RUN.format(path=f"{files}/granted/true"))


def test_executable_memory(guest: Make) -> None:
    one = guest(policy({"/": "r"}))
    one.allowed("mmap.mmap(-1, 4096, prot=3)")
    for prot in (4, 5, 6, 7):
        assert one.refused(f"mmap.mmap(-1, 4096, prot={prot})").capability is Capability.MEMORY_EXEC
    one.allowed("kept.update(m=mmap.mmap(-1, 4096, prot=3), a=ctypes.c_char)")
    one.allowed("kept.update(at=ctypes.addressof(ctypes.c_char.from_buffer(kept['m'])))")
    record = one.refused("raw(10, kept['at'], 4096, 5)")
    assert record.capability is Capability.MEMORY_EXEC
    assert record.hook == "file_mprotect"


def test_a_written_mapping_of_a_granted_library_stays_data(guest: Make) -> None:
    library = subprocess.run(
        [sys.executable, "-c", "import _json; print(_json.__file__)"], capture_output=True, text=True
    )
    path = library.stdout.strip() if library.stdout.strip().startswith("/") else "/usr/lib/x86_64-linux-gnu/libz.so.1"
    path = str(Path(path).resolve())
    one = guest(policy({path: "rX"}))
    one.allowed(f"kept.update(f=os.open('{path}', 0))")
    one.allowed("kept.update(m=mmap.mmap(kept['f'], 4096, flags=2, prot=5))")
    one.allowed("kept.update(m=mmap.mmap(kept['f'], 4096, flags=2, prot=3))")
    one.allowed("kept['m'].__setitem__(0, 1)")
    one.refused("raw(10, ctypes.addressof(ctypes.c_char.from_buffer(kept['m'])), 4096, 5)")


def test_libraries_are_mapped_by_path(guest: Make) -> None:
    real = str(Path("/usr/lib/x86_64-linux-gnu/libz.so.1").resolve())
    one = guest(policy({real: "rX", "/": "l"}, {}))
    one.allowed(f"bool(ctypes.CDLL('{real}'))")
    two = guest(policy({real: "r"}))
    assert isinstance(two.does(f"os.open('{real}', 0)"), str)
    record = two.refused(f"mmap.mmap(os.open('{real}', 0), 4096, flags=2, prot=5)")
    assert record.capability is Capability.IMPORT_NATIVE
    assert record.target == real


def test_any_native_code_grants_executable_memory(guest: Make) -> None:
    one = guest(policy({}, natives=(NamePattern(name="*", text="import"),)))
    one.allowed("mmap.mmap(-1, 4096, prot=7)")


def test_one_thread_among_free_neighbours(lsm, recorder, files: Path) -> None:
    """Thread isolation: the sandbox thread and the threads it starts are confined, nobody else in the process."""
    prepared = lsm.prepare(policy({files / "granted": "r"}))
    seen: dict[str, object] = {}
    attached, go = threading.Event(), threading.Event()

    def attempt(name: str, path: Path) -> None:
        try:
            seen[name] = path.read_text()
        except OSError as error:
            seen[name] = error.errno

    def confined() -> None:
        attempt("before", files / "secret/f")
        attached.set()
        go.wait()
        attempt("granted", files / "granted/f")
        attempt("secret", files / "secret/f")
        child = threading.Thread(target=attempt, args=("child", files / "secret/f"))
        child.start()
        child.join()

    one = threading.Thread(target=confined)
    one.start()
    attached.wait()
    how = lsm.attach_task(one.native_id, "thread", prepared)
    prepared.close()
    go.set()
    one.join()
    attempt("host", files / "secret/f")
    late = threading.Thread(target=attempt, args=("neighbour", files / "secret/f"))
    late.start()
    late.join()
    lsm.detach("thread")
    assert seen == {
        "before": "secret",
        "granted": "granted",
        "secret": errno.EACCES,
        "child": errno.EACCES,
        "host": "secret",
        "neighbour": "secret",
    }, how
    assert {record.tid for record in recorder.of("thread")} >= {one.native_id}
    assert subprocess.run(["true"], check=False).returncode == 0
