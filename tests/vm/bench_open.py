"""open+close in a guest: free, under Landlock, under BPF-LSM, with ten file rules each; and a neighbour beside them.

    .venv/bin/python -m tests.vm.boot --kernel 6.12 -- \\
        env PYTHONPATH=$PWD $PWD/.venv/bin/python $PWD/tests/vm/bench_open.py
        env PYTHONPATH=$PWD $PWD/.venv/bin/python $PWD/tests/vm/bench_open.py

Best of interleaved rounds, as ratios to the free neighbour: emulated time means nothing by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pyisolate.kernel.bpf.lsm import BpfLsmEnforcer
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule

ROUNDS, CALLS = 30, 1000

_GUEST = """
import ctypes, os, sys, time
libc = ctypes.CDLL(None)
path, calls = sys.argv[1].encode(), int(sys.argv[2])
if sys.argv[3:]:
    import json
    from pyisolate.native import landlock, process
    rules = json.loads(sys.argv[3])
    ruleset = landlock.create_ruleset(landlock.handled_for(landlock.abi_version()))
    for rule in rules:
        fd = os.open(rule, os.O_PATH)
        landlock.add_path_rule(ruleset, landlock.AccessFs.READ_FILE | landlock.AccessFs.READ_DIR, fd, rule)
    process.set_no_new_privs()
    landlock.restrict_self(ruleset)
print("ready", flush=True)
for line in sys.stdin:
    began = time.perf_counter_ns()
    for _ in range(calls):
        libc.close(libc.open(path, 0))
    print((time.perf_counter_ns() - began) / calls, flush=True)
"""


class Timed:
    def __init__(self, path: str, *more: str) -> None:
        command = [sys.executable, "-c", _GUEST, path, str(CALLS), *more]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.results: list[float] = []
        self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def round(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.results.append(float(self.line()))


def main() -> None:
    base = Path("/mnt/bench")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True)
    folders = [base / f"granted{number}" for number in range(10)]
    for folder in folders:
        (folder / "a/b/c").mkdir(parents=True)
    target = folders[5] / "a/b/c/f"
    target.write_text("x")
    enforcer = BpfLsmEnforcer()
    enforcer.start(lambda record: None)
    rules = tuple(FsRule(path=str(folder), allow=int(FsRight.READ), text="bench") for folder in folders)
    policy = enforcer.prepare(CompiledPolicy(name="bench", version="bench", fs=rules))
    guests = {
        "free": Timed(str(target)),
        "Landlock": Timed(str(target), json.dumps([str(folder) for folder in folders])),
        "BPF-LSM": Timed(str(target)),
    }
    enforcer.attach_task(guests["BPF-LSM"].process.pid, "bench", policy)
    for _ in range(ROUNDS):
        for guest in guests.values():
            guest.round()
    print(f"Linux {os.uname().release}: open+close of {target}, 10 rules, {CALLS} calls a round")
    base_ns = min(guests["free"].results)
    for name, guest in guests.items():
        best = min(guest.results)
        print(f"{name:<12}{best / 1000:8.1f} us   {best / base_ns:.2f}")
        guest.process.kill()
    loader = enforcer.loader
    print(f"loaded in {loader.load_seconds:.2f} s, attached in {loader.attach_seconds:.2f} s (emulated)")
    enforcer.close()


if __name__ == "__main__":
    main()
