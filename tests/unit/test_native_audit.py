"""The C audit hook. Each test has a process of its own, because audit hooks cannot be removed."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import os, struct, sys, threading
from pyisolate.native import audit
asked = []
def broker(event, args):
    asked.append((event, args[0] if args else None))
    if args and args[0] == "/etc/passwd":
        raise PermissionError("refused by the broker")
    return 7
def refused(path):
    try:
        open(path).close()
    except PermissionError as error:
        return str(error)
    return None
def in_thread(function):
    out = []
    thread = threading.Thread(target=lambda: out.append(function()))
    thread.start(); thread.join()
    return out[0]
def ready(*events):
    audit.install(); audit.set_events(events or ("open",))
"""


def run(body: str) -> None:
    script = PRELUDE + "def main():\n" + "".join(f"    {line}\n" for line in body.strip().splitlines()) + "main()\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_sandbox_thread_is_asked_and_refused_and_other_threads_are_not():
    run("""
ready()
def guest():
    audit.set_thread_callback(broker)
    result = (refused("/etc/passwd"), refused("/dev/null"))
    audit.set_thread_callback(None)
    return result, refused("/etc/passwd")
assert in_thread(guest) == (("refused by the broker", None), None)
assert refused("/etc/passwd") is None
assert asked == [("open", "/etc/passwd"), ("open", "/dev/null")], asked
""")


def test_events_outside_the_table_never_reach_the_callable():
    run("""
ready("open", "socket.connect")
audit.set_thread_callback(broker)
sys.audit("openx", 1); sys.audit("ope", 1); sys.audit("", 1); sys.audit("socket.connect", 2)
audit.set_thread_callback(None)
assert asked == [("socket.connect", 2)], asked
""")


def test_a_full_table_finds_each_of_its_events():
    run("""
names = [f"event.{n}" for n in range(511)]
ready(*names)
audit.set_thread_callback(broker)
for name in names: sys.audit(name)
sys.audit("event.511")
audit.set_thread_callback(None)
assert [event for event, _ in asked] == names
try:
    audit.set_events(["more"])
except OSError as error:
    assert "once per process" in str(error)
else:
    raise AssertionError
""")


def test_events_that_the_callable_causes_pass_through():
    run("""
ready()
def nosy(event, args):
    asked.append(args[0])
    open("/dev/null").close()
audit.set_thread_callback(nosy)
open("/dev/zero").close()
audit.set_thread_callback(None)
assert asked == ["/dev/zero"], asked
""")


def test_process_mode_covers_every_thread():
    run("""
ready()
audit.set_process_callback(broker)
assert refused("/etc/passwd") and in_thread(lambda: refused("/etc/passwd"))
audit.set_process_callback(None)
assert refused("/etc/passwd") is None
""")


def test_what_is_sealed_stays():
    run("""
ready()
def guest():
    audit.set_thread_callback(broker)
    token = audit.seal()
    for attempt in (lambda: audit.set_thread_callback(None), lambda: audit.set_slot(None), audit.seal,
                    lambda: audit.set_process_callback(None), lambda: audit.release(token ^ 1)):
        try:
            attempt()
        except PermissionError:
            continue
        raise AssertionError
    still = refused("/etc/passwd")
    audit.release(token)
    return still, refused("/etc/passwd"), audit.is_sealed()
assert in_thread(guest) == ("refused by the broker", None, False)
audit.set_process_callback(broker)
token = audit.seal()
for attempt in (lambda: audit.set_process_callback(None), lambda: audit.set_thread_callback(print),
                lambda: audit.release(token)):
    try:
        attempt()
    except PermissionError:
        continue
    raise AssertionError
assert in_thread(lambda: refused("/etc/passwd"))
""")


def test_an_answer_that_is_no_number_refuses():
    run("""
ready()
audit.set_thread_callback(lambda event, args: "yes")
try:
    os.open("/dev/null", os.O_RDONLY)
except TypeError:
    pass
else:
    raise AssertionError
audit.set_thread_callback(None)
""")


def test_the_slot_holds_sequence_capability_and_verdict_of_the_last_allowed_event():
    run("""
ready()
fd = os.memfd_create("slots")
os.ftruncate(fd, 8192)
answers = iter([3, 5 | 2 << 16, None])
audit.set_slot(fd, page=1, offset=32)
audit.set_thread_callback(lambda event, args: next(answers))
read = lambda: struct.unpack("<QII", os.pread(fd, 16, 4096 + 32))
open("/dev/null").close()
assert read() == (1, 3, 1) and audit.audit_sequence() == 1
open("/dev/null").close()
assert read() == (2, 5, 2)
open("/dev/null").close()
assert read() == (2, 5, 2) and audit.audit_sequence() == 3
audit.set_thread_callback(None); audit.set_slot(None)
for bad in ({"offset": 4090}, {"offset": 4}):
    try:
        audit.set_slot(fd, **bad)
    except OSError:
        continue
    raise AssertionError
""")


def test_the_asked_page_keeps_the_last_answer_of_each_capability_and_thread():
    run("""
MANY, AHEAD, RESOLVES, NOTHING = (audit.FLAGS[name] for name in ("MANY", "AHEAD", "RESOLVES", "NOTHING"))
fd = os.memfd_create("asked")
os.ftruncate(fd, 128 * 128)
audit.tell(7 | 1 << 16)  # no page yet: nothing happens
ready()
audit.set_asked(fd)
try:
    audit.set_asked(fd)
except PermissionError:
    pass
else:
    raise AssertionError
def words(tid):
    for place in range(128):
        owner, main, *found = struct.unpack("<II15Q", os.pread(fd, 128, 128 * place))
        assert main == (process if place == 0 else 0)
        if owner == tid:
            return {at: (w & 0xff, w >> 8 & 0xff, (w >> 16 & 0xffff) << 8) for at, w in enumerate(found) if w}
process, tid = os.getpid(), threading.get_native_id()
audit.tell(3 | 1 << 16)
audit.tell(7 | AHEAD | 1 << 16)
assert words(tid) is None  # files, and what is announced only, take no place
audit.tell(7 | 1 << 16)
audit.tell(12 | MANY | 3 << 16)
audit.set_thread_callback(lambda event, args: 31 | 1 << 16)
open("/dev/null").close()
audit.set_thread_callback(None)
assert words(tid) == {0: (7, 1, 0), 5: (12, 3, MANY), 11: (31, 1, 0)}, words(tid)
audit.tell(RESOLVES | NOTHING)
stored = {0: (7, 1, NOTHING), 3: (10, 1, NOTHING), 4: (11, 1, NOTHING), 5: (12, 3, MANY), 11: (31, 1, 0), 13: (1, 0, 0)}
assert words(tid) == {**stored, 12: (0, 1, RESOLVES)}, words(tid)  # so are the files that are opened for it
audit.tell(31 | 1 << 16)
assert words(tid) == stored, "until the next question"
seen = []
def other():
    audit.tell(14 | 1 << 16)
    seen.append(words(threading.get_native_id()))
for _ in range(300):  # many more than places: those of threads that ended are free
    thread = threading.Thread(target=other)
    thread.start(); thread.join()
assert seen == [{7: (14, 1, 0)}] * 300
pid = os.fork()
if pid == 0:
    audit.tell(8)
    os._exit(0 if words(os.getpid()) == {1: (8, 1, 0)} and len(words(tid)) == 6 else 1)
assert os.waitpid(pid, 0)[1] == 0
""")


def test_sequences_are_unique_in_the_process():
    run("""
ready()
seen = []
def guest():
    audit.set_thread_callback(lambda event, args: seen.append(audit.audit_sequence()))
    for _ in range(500): open("/dev/null").close()
    audit.set_thread_callback(None)
threads = [threading.Thread(target=guest) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
assert len(set(seen)) == 2000 and sorted(seen) == list(range(1, 2001))
""")


def test_a_forked_child_stays_asked():
    run("""
ready()
audit.set_process_callback(broker)
pid = os.fork()
if pid == 0:
    os._exit(0 if refused("/etc/passwd") else 1)
assert os.waitpid(pid, 0)[1] == 0
""")


def test_callbacks_are_released():
    run("""
ready()
def callback(event, args): return None
before = sys.getrefcount(callback)
for _ in range(100):
    audit.set_thread_callback(callback); open("/dev/null").close(); audit.set_thread_callback(None)
for _ in range(100):
    audit.set_thread_callback(callback); token = audit.seal(); audit.release(token)
assert sys.getrefcount(callback) == before
""")


def test_it_asks_for_installation_first():
    run("""
try:
    audit.set_thread_callback(broker)
except OSError as error:
    assert "install() and set_events() first" in str(error)
else:
    raise AssertionError
""")


def test_a_sub_interpreter_of_a_sandbox_is_refused():
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    run(f"""
import {name} as interpreters
ready()
other = interpreters.create()
audit.set_process_callback(broker)
try:
    interpreters.create()
except Exception as error:  # 3.13: InterpreterError, which is no RuntimeError
    assert isinstance(error, (PermissionError, RuntimeError)) or "creation failed" in str(error), error
else:
    raise AssertionError
code = ("import os\\ntry:\\n  os.open('/dev/null', 0)\\nexcept PermissionError: pass\\n"
        "else: raise SystemError")
failed = interpreters.run_string(other, code)
assert not failed, failed
audit.set_process_callback(None)
interpreters.destroy(other)  # 3.12 aborts when one is left at the end
""")


def test_the_module_is_importable_without_installing_anything():
    run("assert not audit.installed()")
