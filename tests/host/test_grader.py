"""A grader: a hundred submissions of 25 kinds, each in a sandbox of its own, and each gets the right verdict."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import pyisolate

pytestmark = pytest.mark.once


POLICY = pyisolate.Policy.preset("compute").with_limits(memory="96MiB", output="64KiB", open_files=64, file_size="1MiB")
#: What endless ones get, and what all others have, whatever else the machine does (seconds).
SHORT_S, LONG_S = 0.3, 60.0
READ = "n = int(input())\n"
#: kind -> (source, verdict); the task: read a number, print its square
KINDS = {
    "right": (READ + "print(n * n)", "accepted"),
    "reads all of stdin": ("import sys\nn = int(sys.stdin.read())\nprint(n ** 2)", "accepted"),
    "main guard": (
        "def main():\n    n = int(input())\n    print(n * n)\nif __name__ == '__main__': main()",
        "accepted",
    ),
    "exits with 0": (READ + "import sys\nprint(n * n)\nsys.exit(0)", "accepted"),
    "at exit": (READ + "import atexit\natexit.register(print, n * n)", "accepted"),
    "a thread prints": (READ + "import threading\nthreading.Thread(target=print, args=(n * n,)).start()", "accepted"),
    "imports its other file": ("from square import square\nprint(square(int(input())))", "accepted"),
    "a file on the way": (READ + "open('t', 'w').write(str(n * n))\nprint(open('t').read())", "accepted"),
    "Windows line ends": ("n = int(input())\r\nprint(n * n)\r\n", "accepted"),
    "tries what it may not": (READ + "try: open('/etc/passwd')\nexcept OSError: pass\nprint(n * n)", "accepted"),
    "wrong": (READ + "print(n + 1000)", "wrong"),
    "prints nothing": ("pass", "wrong"),
    "reads too much": (READ + "input()", "error EOFError"),
    "raises": (READ + "print(n * n)\n1 / 0", "error ZeroDivisionError"),
    "is no Python": ("def f(:\n    pass", "error SyntaxError"),
    "recurses": ("def f(): return f()\nf()", "error RecursionError"),
    "misses a module": (READ + "raise ModuleNotFoundError('numpi')", "error ModuleNotFoundError"),
    "exits with 3": (READ + "print(n * n)\nraise SystemExit(3)", "exit 3"),
    "loops": ("while True: pass", "limit timeout"),
    "sleeps": ("import time\ntime.sleep(10 ** 6)", "limit timeout"),
    "hoards": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "limit memory"),
    "floods": ("while True: print('x' * 1000)", "limit output"),
    "reads a secret": ("print(open('/etc/passwd').read())", "refused fs.read"),
    "starts a program": ("import subprocess\nsubprocess.run(['/bin/sh'])", "refused process.exec"),
    "ends its process": ("import os\nos._exit(0)", "died"),
}


def verdict(supervisor: pyisolate.Supervisor, source: str, number: int, timeout_s: float) -> str:
    """Run one submission as a grader would, and return its verdict."""
    with supervisor.spawn("submission", POLICY, files={"square.py": b"def square(n): return n * n\n"}) as sandbox:
        try:
            result = sandbox.run_script(source, filename="solution.py", stdin=f"{number}\n", timeout=timeout_s)
        except pyisolate.PolicyError as error:
            return f"refused {str(error.requested_capability).partition(' ')[0]}"
        except pyisolate.LimitExceeded as error:
            return f"limit {error.limit}"
        except pyisolate.GuestError as error:
            return f"error {error.type_name}"
        except pyisolate.SandboxDied:
            return "died"
    if result.exit_code:
        return f"exit {result.exit_code}"
    return "accepted" if result.stdout == f"{number * number}\n" else "wrong"


def test_each_of_a_hundred_submissions_gets_its_verdict(supervisor: pyisolate.Supervisor) -> None:
    assert len(KINDS) == 25
    work = [(kind, number) for number in range(100, 104) for kind in KINDS]

    def grade(one: tuple[str, int]) -> str:
        kind, number = one
        source, expected = KINDS[kind]
        return verdict(supervisor, source, number, SHORT_S if expected == "limit timeout" else LONG_S)

    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(grade, work))
    wrong = [(kind, found) for (kind, _), found in zip(work, given, strict=True) if found != KINDS[kind][1]]
    assert wrong == []
    assert supervisor.diagnostics().sandboxes == 0


@pytest.mark.parametrize("kind", ["reads a secret", "hoards"])
def test_without_the_rule_the_same_submission_is_not_stopped(supervisor: pyisolate.Supervisor, kind: str) -> None:
    """The control: what stopped it was the policy."""
    source = KINDS[kind][0].replace("while True", "for _ in range(200)")
    wider = POLICY.allow_read("/etc/passwd").with_limits(memory="1GiB")
    with supervisor.spawn("control", wider) as sandbox:
        assert sandbox.run_script(source, filename="solution.py").exit_code is None
