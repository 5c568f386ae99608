"""A host that runs short of something while it starts, or once it is warm; prints what became of it as JSON.

starved.py descriptors|memory|threads COUNT cold|warm
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
import threading
import time

import pyisolate
import pyisolate.policy.load
import pyisolate.supervisor.supervisor
import pyisolate.telemetry.alerts

RESOURCES = {
    "descriptors": resource.RLIMIT_NOFILE,
    "memory": resource.RLIMIT_AS,
    "threads": resource.RLIMIT_NPROC,
}


def in_use(what: str) -> int:
    if what == "descriptors":
        return len(os.listdir("/proc/self/fd"))
    if what == "memory":
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def attempt(supervisor: pyisolate.Supervisor, name: str) -> dict[str, object]:
    started = time.monotonic()
    try:
        with supervisor.spawn(name) as sandbox:
            answer: dict[str, object] = {"value": sandbox.eval("6 * 7")}
    except Exception as error:
        answer = {
            "error": type(error).__name__,
            "text": str(error),
            "sandbox_error": isinstance(error, pyisolate.SandboxError),
        }
    return {**answer, "seconds": time.monotonic() - started}


def main(what: str, count: int, when: str) -> None:
    logging.disable(logging.CRITICAL)
    before, threads = descriptors(), threading.active_count()
    supervisor = pyisolate.Supervisor(pool_size=1)
    if when == "warm":
        supervisor.start()
        time.sleep(0.3)
    soft, hard = resource.getrlimit(RESOURCES[what])
    resource.setrlimit(RESOURCES[what], (in_use(what) + count, hard))
    starved = attempt(supervisor, "starved")
    resource.setrlimit(RESOURCES[what], (soft, hard))
    again = attempt(supervisor, "again")
    supervisor.close()
    left = {fd: target for fd, target in descriptors().items() if fd not in before}
    print(json.dumps({"starved": starved, "again": again, "left": left, "threads": threading.active_count() - threads}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
