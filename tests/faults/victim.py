"""A host under load, to be killed: sandboxes come and go, some with processes of their own, one that never yields."""

from __future__ import annotations

import logging
import sys
import threading

import pyisolate
from pyisolate import Policy

FORKS = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(1000)\n"
LOOPS = "import re\nre.match('(a+)+$', 'a' * 64 + 'b')"


def come_and_go(supervisor: pyisolate.Supervisor) -> None:
    forks = Policy.preset("compute").allow_fork()
    while True:
        with supervisor.spawn("short") as sandbox:
            sandbox.exec("print(sum(range(1000)))")
        with supervisor.spawn("forks", forks) as sandbox:
            sandbox.exec(FORKS)
            sandbox.post([1] * 100)


def main() -> None:
    logging.disable(logging.CRITICAL)
    supervisor = pyisolate.Supervisor(pool_size=2).start()
    loop = supervisor.spawn("loop", Policy.preset("compute").with_limits(wall=None, cpu=None))
    threading.Thread(target=lambda: loop.exec(LOOPS), daemon=True).start()
    for _ in range(2):
        threading.Thread(target=come_and_go, args=(supervisor,), daemon=True).start()
    print("running", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
