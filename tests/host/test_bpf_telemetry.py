"""What BPF reports where something else decides: Landlock's own count of refusals."""

from __future__ import annotations

import os
import subprocess
import sys

from pyisolate.kernel.bpf.landlock_counter import LandlockDenialCounter
from tests.require import require


def test_landlock_refusals_are_counted_exactly() -> None:
    found = LandlockDenialCounter().probe()
    require("bpf", found.usable, found.reason)
    counter = LandlockDenialCounter()
    counter.start()
    code = (
        "import os, sys\n"
        "from pyisolate.kernel.bpf.landlock_counter import _be_refused\n"
        "_be_refused(); print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    for _ in range(int(line)):\n"
        "        try: os.listdir('/')\n"
        "        except PermissionError: pass\n"
        "    print('done', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdout.readline()
        first = counter.read(child.pid)
        assert first is not None
        assert (first.layers, first.denials) == (1, 3)
        child.stdin.write("1000\n")
        child.stdin.flush()
        child.stdout.readline()
        second = counter.read(child.pid)
        assert second is not None
        assert second.denials == 1003
        assert second.domain == first.domain
        assert counter.read(os.getpid()) is None
    finally:
        child.kill()
        child.communicate()
        counter.close()


def test_landlock_refusals_are_counted_in_a_pid_namespace_of_the_supervisors() -> None:
    found = LandlockDenialCounter().probe()
    require("bpf", found.usable, found.reason)
    # As in a container: numbers of this namespace are another task's, or nobody's, outside.
    code = (
        "import ctypes, os, sys\n"
        "assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID\n"
        "if pid := os.fork(): sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "from pyisolate.kernel.bpf.landlock_counter import LandlockDenialCounter\n"
        "assert os.getpid() == 1\n"
        "found = LandlockDenialCounter().probe()\n"
        "print(found.proof or found.reason, flush=True)\n"
        "os._exit(0 if found.usable else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "counted 3 times" in done.stdout
