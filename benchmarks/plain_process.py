"""A script, run by path: a process that never imports pyisolate starts processes in other ways, on command.

One line on stdin names a way; the answer is the seconds from its start to its end, or `!` and why it failed.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

#: The system's own interpreter where there is one: bubblewrap binds / read-only, and so a venv works as well.
PYTHON = sys.executable
BARE = [PYTHON, "-I", "-S", "-c", ""]
BWRAP = [
    *("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
    *("--unshare-all", "--die-with-parent", "--new-session"),
]


def _processes(method: str) -> Callable[[], None]:
    def start_and_join() -> None:
        process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]
            target=os.getpid
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"multiprocessing, {method}: exit status {process.exitcode}")

    return start_and_join


def _command(command: list[str]) -> Callable[[], None]:
    def start_and_wait() -> None:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise RuntimeError(f"{command[0]}: status {done.returncode}: {lines[-1]}")

    return start_and_wait


def _sandlock(command: list[str]) -> Callable[[], None]:
    def start_and_wait() -> None:
        import sandlock  # type: ignore[import-not-found]

        result = sandlock.Sandbox(fs_readable=["/"]).run(command)
        if not result.success:
            raise RuntimeError(f"sandlock: {result.error or result.exit_code}")

    return start_and_wait


@functools.cache
def _monty_pool() -> Any:
    import pydantic_monty  # type: ignore[import-not-found]

    pool = pydantic_monty.Monty()
    atexit.register(pool.__exit__, None, None, None)
    return pool.__enter__()


def _monty() -> None:
    with _monty_pool().checkout() as session:
        session.feed_run("1")


def _gvisor() -> None:
    import gvisor  # type: ignore[import-not-found]

    with gvisor.Sandbox() as sandbox:  # it binds /bin, /usr and /lib, so the system's interpreter
        sandbox.exec("/usr/bin/python3", *BARE[1:], timeout=30)


WAYS = {
    "subprocess": _command([PYTHON, "-c", ""]),
    "subprocess-bare": _command(BARE),
    "fork": _processes("fork"),
    "forkserver": _processes("forkserver"),
    "spawn": _processes("spawn"),
    "bwrap": _command([*BWRAP, *BARE]),
    "sandlock": _sandlock(BARE),
    "sandlock-true": _sandlock(["/bin/true"]),
    "monty": _monty,
    "gvisor": _gvisor,
}


def main() -> None:
    """Answer until stdin ends."""
    # What a peer prints must not be taken for an answer, and it must not read the next command.
    answers, commands = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for way in map(str.strip, commands):
        started = time.perf_counter()
        try:
            WAYS[way]()
        except Exception as error:
            print("!", " ".join(str(error).split()) or type(error).__name__, file=answers, flush=True)
        else:
            print(time.perf_counter() - started, file=answers, flush=True)


if __name__ == "__main__":
    main()
