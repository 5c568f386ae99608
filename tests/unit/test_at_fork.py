"""At-fork handlers of CPython in a zygote: not run for a cell, but where its guest forks. Its generators start anew.

Each test runs in an interpreter of its own: a handler cannot be taken back.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

#: `forked(function)`: what `function` returns in a forked child.
PRELUDE = """
import os, sys
from pyisolate.cell.at_fork import AT_FORK
AT_FORK.collect()
import json, logging, random, threading

def forked(function):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = json.loads(file.read())
    os.wait()
    return answer

def library(handler, name="library"):
    exec("import os; os.register_at_fork(after_in_child=handler)", {"__name__": name, "handler": handler})
"""


def run(source: str) -> None:
    source = PRELUDE + textwrap.dedent(source)
    done = subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_handlers_of_cpython_wait_for_the_cell_and_run_in_the_forks_of_its_guest() -> None:
    run("""
    AT_FORK.stop()
    assert forked(random.random) == forked(random.random)  # not reseeded: its handler is not registered
    def cell():
        AT_FORK.register()
        return [forked(random.random), forked(random.random), forked(threading.active_count)]
    first, second, threads = forked(cell)
    assert first != second and threads == 1
    """)


def test_handlers_of_libraries_run_at_each_fork() -> None:
    run("""
    seen = []
    library(lambda: seen.append("library"))
    library(lambda: seen.append("ours"), "pyisolate.of_a_test")
    AT_FORK.stop()
    library(lambda: seen.append("late"), "pyisolate.of_a_test")
    assert forked(lambda: seen) == ["library", "late"]
    assert forked(lambda: (AT_FORK.register(), forked(lambda: seen))[1]) == ["library", "late"] + [
        "library", "late", "ours"]
    """)


def test_a_guests_first_fork_runs_them_all_and_no_fork_before_it() -> None:
    run("""
    seen = []
    for name in ("one", "two"):
        exec("import os; os.register_at_fork(before=note, after_in_parent=note, after_in_child=note)",
             {"__name__": "pyisolate.of_a_test", "note": lambda name=name: seen.append(name)})
    AT_FORK.stop()
    assert (forked(lambda: seen), seen) == ([], [])
    def guest():
        AT_FORK.be_guests()
        return forked(lambda: seen), forked(lambda: seen[-4:]), seen
    first, second, parent = forked(guest)
    assert first == ["two", "one", "one", "two"]
    assert second == first
    assert parent == ["two", "one", "one", "two"] * 2
    """)


def test_a_name_that_a_module_took_along_registers_for_real_later() -> None:
    run("""
    from os import register_at_fork
    AT_FORK.stop()
    seen = []
    exec("register(after_in_child=handler)",
         {"__name__": "threading", "register": register_at_fork, "handler": lambda: seen.append(1)})
    assert forked(lambda: seen) == [1]
    assert os.register_at_fork is not register_at_fork
    """)


@pytest.mark.parametrize(
    "start", ["threading.Thread(target=wait, daemon=True).start()", "_thread.start_new_thread(wait, ())"]
)
def test_with_a_second_thread_in_the_zygote_the_handlers_run(start: str) -> None:
    run(f"""
    import _thread
    ready, end = threading.Event(), threading.Event()
    wait = lambda: (ready.set(), end.wait())
    {start}
    ready.wait()
    AT_FORK.stop()
    assert forked(random.random) != forked(random.random)
    end.set()
    """)


def test_each_generator_without_a_seed_starts_anew_and_a_seeded_one_goes_on() -> None:
    run("""
    from pyisolate.hooks import seeding
    seeding.install()
    own, seeded, late = random.Random(), random.Random(7), random.Random()
    late.seed(8)
    gone = random.Random()
    del gone
    AT_FORK.stop()
    def draw():
        return [one.random() for one in (random, own, seeded, late)]
    assert forked(draw) == forked(draw)  # the control: copies of one state
    def renewed():
        seeding.renew()
        return draw()
    one, other = forked(renewed), forked(renewed)
    assert [a == b for a, b in zip(one, other)] == [False, False, True, True]
    """)
