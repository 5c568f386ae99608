"""No two cells share the state of a generator, however they were made: all are copies of one zygote."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside
from tests.waiting import until

#: What a guest draws, by generator. OpenSSL and the names of temporary files go by the process id, which is 2 in each.
DRAWS: dict[str, str] = {
    "random": "__import__('random').random()",
    "state": "hash(__import__('random').getstate())",
    "random.Random": "__import__('random').Random().random()",
    "tempfile": "next(__import__('tempfile')._get_candidate_names())",
    "uuid": "str(__import__('uuid').uuid4())",
    "urandom": "__import__('os').urandom(8).hex()",
    "ssl": "__import__('ssl').RAND_bytes(8).hex()",
}
if importlib.util.find_spec("numpy") is not None:
    DRAWS["numpy"] = "float(__import__('numpy').random.random())"
COMPUTE = Policy.preset("compute").allow_import("tempfile", "ssl", "numpy", "random", "uuid")
PRELOAD = ("ssl", "numpy.random") if "numpy" in DRAWS else ("ssl",)


def draw(sandbox: pyisolate.Sandbox) -> dict[str, Any]:
    with sandbox:
        return {name: sandbox.eval(source) for name, source in DRAWS.items()}


def test_no_two_cells_share_a_state() -> None:
    drawn: dict[str, dict[str, Any]] = {}
    with pyisolate.Supervisor(pool_size=3, preload=PRELOAD) as supervisor:

        def spawn(way: str, policy: Policy, **options: Any) -> None:
            drawn[way] = draw(supervisor.spawn(way, policy, **options))

        for number in range(6):  # the first ones are warm, the later ones stand by
            spawn(f"warm or standing by {number}", COMPUTE)
        for number in range(3):
            spawn(f"of another policy {number}", COMPUTE.with_limits(output=f"{200 + number}kB"))
        for number in range(3):
            spawn(f"that may fork {number}", COMPUTE.allow_fork())
        for number in range(2):
            spawn(f"with a connection {number}", COMPUTE.allow_connect("127.0.0.1:9"))
        crowd = [supervisor.spawn("crowd", COMPUTE) for _ in range(6)]  # more than are warm
        for number, sandbox in enumerate(crowd):
            drawn[f"on demand {number}"] = draw(sandbox)
        zygote = inside.runtime(supervisor).started.pools()[0].zygote_pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        until(lambda: inside.runtime(supervisor).started.pools()[0].zygote_pid not in (zygote,))
        left = 2
        while left:
            with contextlib.suppress(pyisolate.SandboxDied):  # a cell of the killed one
                spawn(f"of another zygote {left}", COMPUTE)
                left -= 1
    with pyisolate.Supervisor(pool_size=0, preload=PRELOAD) as supervisor:
        for number in range(3):
            drawn[f"without a pool {number}"] = draw(supervisor.spawn("single", COMPUTE))
    for name in DRAWS:
        values = [one[name] for one in drawn.values()]
        assert len(set(values)) == len(values), f"{name}: {dict(zip(drawn, values, strict=True))}"


def test_a_seed_of_the_policy_is_the_same_in_all() -> None:
    policy = Policy.from_dict(
        {"version": 1, "name": "seeded", "extends": "compute", "random": {"allow": False, "seed": 7}}
    )
    with pyisolate.Supervisor(pool_size=2) as supervisor:
        values = []
        for _ in range(4):
            with supervisor.spawn("seeded", policy) as sandbox:
                values.append(sandbox.eval("__import__('random').random()"))
    assert len(set(values)) == 1


@pytest.mark.parametrize("forks", [1, 2])
def test_forks_of_a_guest_draw_numbers_of_their_own(forks: int) -> None:
    source = f"""
import os, random, threading
reader, writer = os.pipe()
held = threading.Lock()
for _ in range({forks}):
    if os.fork() == 0:
        os.write(writer, f"{{random.random()}} {{threading.active_count()}} ".encode())
        os._exit(0)
    os.wait()
drawn = os.read(reader, 4096).decode().split() + [str(random.random()), "1"]
drawn
"""
    policy = Policy.preset("compute").allow_fork()
    with pyisolate.Supervisor(pool_size=1) as supervisor, supervisor.spawn("forks", policy) as sandbox:
        drawn = sandbox.exec(source).value
    assert len(drawn) == 2 * (forks + 1)
    assert len(set(drawn[::2])) == forks + 1
    assert set(drawn[1::2]) == {"1"}
