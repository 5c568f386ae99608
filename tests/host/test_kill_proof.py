"""A supervisor sees a cell end by its own hand before it hands one out; strict refuses where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.in_child import NOBODY

#: Runs as an ordinary user under a filter that refuses the named calls, and says what became of a cell that loops.
INNER = """
import json, os, sys, time
from pyisolate.native import seccomp as s
refused = {refused!r}
rules = tuple(s.FilterRule(call, s.refuse(1)) for call in refused)
s.install(s.compile_filter(s.FilterSpec(rules, s.ALLOW, s.ALLOW)), notify=False)
import pyisolate
said = {{}}
supervisor = pyisolate.Supervisor(pool_size=1)
try:
    sandbox = supervisor.spawn("guest", "compute", enforcement={enforcement!r})
    said["missing"] = list(sandbox.enforcement.missing)
    pid = sandbox.pid
    try:
        sandbox.exec("while True: pass", timeout=0.2)
    except pyisolate.SandboxError as error:
        said["ended"] = type(error).__name__
    sandbox.close()
    deadline = time.monotonic() + 3
    while os.path.exists(f"/proc/{{pid}}") and time.monotonic() < deadline:
        time.sleep(0.01)
    said["gone"] = not os.path.exists(f"/proc/{{pid}}")
except pyisolate.SandboxError as error:
    said["refused"] = str(error)
print(json.dumps(said), flush=True)
os._exit(0)
"""


def _run(*refused: str, enforcement: str = "strict") -> dict[str, Any]:
    def become() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    done = subprocess.run(
        [sys.executable, "-c", INNER.format(refused=refused, enforcement=enforcement)],
        preexec_fn=become, cwd="/", env={"PATH": os.environ["PATH"], "HOME": "/tmp"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("refused", [(), ("pidfd_send_signal",), ("kill",)])
def test_one_way_to_kill_is_enough(refused: tuple[str, ...]) -> None:
    assert _run(*refused) == {"missing": [], "ended": "TimeoutError", "gone": True}


def test_strict_refuses_where_no_way_to_kill_works() -> None:
    said = _run("pidfd_send_signal", "kill")["refused"]
    assert "kill: pidfd_send_signal(2): Operation not permitted" in said
    assert "CAP_KILL" in said


def test_best_effort_says_that_nothing_can_be_ended() -> None:
    said = _run("pidfd_send_signal", "kill", enforcement="best_effort")
    assert [line.partition(":")[0] for line in said["missing"]] == ["kill"]
