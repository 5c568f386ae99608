"""Questions about programs: each waits behind a gate, a yes starts it once, and nothing else goes through meanwhile."""

from __future__ import annotations

import errno
import glob
import os
from typing import Any

import pytest

import pyisolate
from pyisolate import Allow, Deny, EnforcementError, Policy
from pyisolate.decision import Verdict
from pyisolate.kernel.rootview.view import RootViewBuilder
from pyisolate.policy import compile_policy
from pyisolate.policy.compile import with_gates
from tests import inside
from tests.asking import Asked, Step, refused
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

ECHO, OTHER = (os.path.realpath(f"/usr/bin/{name}") for name in ("echo", "uname"))
BASE = Policy.preset("compute").allow_import("@stdlib", "ctypes").allow_native("_ctypes")
POLICY = BASE.with_ask({"exec": ECHO}, {"exec": OTHER})
RUN = f"subprocess.run([{ECHO!r}, 'ran'], capture_output=True).stdout"
#: executes by a raw call the name in shared memory, which the guest changes while the call waits
_SWAPPED = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
memory = mmap.mmap(-1, 4096)
name = (ctypes.c_char * 4096).from_buffer(memory)
argv, none = (ctypes.c_char_p * 2)(b"x", None), (ctypes.c_char_p * 1)(None)
def run(first, then):
    name.value = first
    if (child := os.fork()) == 0:
        libc.execve(ctypes.byref(name), argv, none)
        os._exit(ctypes.get_errno())
    asked()
    name.value = then
    changed()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_yes_runs_it_and_no_does_not_each_with_one_event(supervisor: pyisolate.Supervisor) -> None:
    asked = Asked(Allow(), Deny("not now"), Allow("rule"))
    with supervisor.spawn("asks", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import subprocess")
        assert sandbox.eval(RUN) == b"ran\n"
        event = refused(sandbox, RUN)
        assert (event.target, event.answer, event.kernel_decision) == (ECHO, "deny", Verdict.DENY)
        assert "not now" in event.kernel_reason
        assert sandbox.eval("subprocess.run(['echo', 'ran'], capture_output=True).stdout") == b"ran\n"
        assert sandbox.eval(RUN) == b"ran\n"  # for good
        ran = [one for one in sandbox.get_denial_events() if one.capability == "process.exec"]
        assert sorted((one.answer, one.would_deny, one.count) for one in ran) == [
            ("deny", False, 1), ("once", True, 1), ("rule", True, 2)]  # fmt: skip
        assert {"exec": ECHO} in sandbox.answered_policy.to_dict()["process"]
    assert asked.targets == [ECHO] * 3


def test_a_name_that_changes_while_its_call_waits_leads_to_no_other_program(supervisor: pyisolate.Supervisor) -> None:
    first, then = os.fsencode(ECHO), os.fsencode(OTHER)
    asked, waits, changed = Asked(*[Allow()] * 2), Step(), Step()
    asked.before = lambda: (waits.do(), changed.wait())
    functions = {"asked": waits.wait, "changed": changed.do}
    with supervisor.spawn("swaps", POLICY, on_ask=asked, functions=functions) as sandbox:
        sandbox.exec(_SWAPPED)
        assert sandbox.call("run", first, first) == 0
        assert sandbox.call("run", first, then) == errno.EACCES
    assert asked.targets == [ECHO] * 2


def test_code_of_a_program_is_not_mapped_before_and_after_its_yes(supervisor: pyisolate.Supervisor) -> None:
    """The loader is granted with what is asked about, and runs what it can map."""
    loader = next(iter(glob.glob("/lib64/ld-linux-*.so.2") + glob.glob("/lib/ld-linux-*.so.1")))
    by_loader = f"subprocess.run([{loader!r}, {ECHO!r}, 'ran'], capture_output=True).stdout"
    with supervisor.spawn("granted", BASE.allow_exec(ECHO)) as sandbox:
        sandbox.exec("import subprocess")
        assert sandbox.eval(by_loader) == b"ran\n"
    with supervisor.spawn("maps", POLICY, on_ask=Asked(Allow())) as sandbox:
        sandbox.exec("import subprocess")
        assert [sandbox.eval(one) for one in (by_loader, RUN, by_loader)] == [b"", b"ran\n", b""]


def test_what_no_entry_names_and_what_a_rule_speaks_of_is_not_asked_about(supervisor: pyisolate.Supervisor) -> None:
    asked = Asked()
    policy = BASE.allow_exec(ECHO).deny("process.exec", OTHER).with_ask({"exec": ECHO}, {"exec": OTHER})
    with supervisor.spawn("named", policy, on_ask=asked) as sandbox:
        sandbox.exec("import subprocess")
        assert sandbox.eval(RUN) == b"ran\n"
        for program in (OTHER, os.path.realpath("/usr/bin/id")):
            assert refused(sandbox, f"subprocess.run([{program!r}])").answer is None
    assert asked.questions == []


def test_without_an_answer_it_does_not_run(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("nobody", POLICY) as sandbox:
        sandbox.exec("import subprocess")
        assert refused(sandbox, RUN).answer == "unanswered"
    asked = Asked(Allow())
    with supervisor.spawn("ends", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import subprocess")
        asked.before = sandbox.kill
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec(RUN)


def test_a_reload_brings_no_gate(supervisor: pyisolate.Supervisor) -> None:
    asked = Asked(Allow())
    with supervisor.spawn("reloads", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import subprocess")
        assert sandbox.eval(RUN) == b"ran\n"
        with pytest.raises(EnforcementError, match="file rules would loosen"):
            sandbox.reload_policy(POLICY.with_ask({"exec": ECHO}, {"exec": os.path.realpath("/usr/bin/id")}))


def test_a_reload_takes_a_question_away_where_it_can_be_proven(
    supervisor: pyisolate.Supervisor,
) -> None:
    proven = inside.plan(supervisor).bpf.counter is not None
    with supervisor.spawn("tightens", POLICY, on_ask=Asked()) as sandbox:
        sandbox.exec("import subprocess")
        if not proven:  # an ordinary user's kernel proves none
            with pytest.raises(EnforcementError, match="cannot be proven"):
                sandbox.reload_policy(POLICY.with_ask({"exec": OTHER}))
    require("bpf", proven, "no counts of what Landlock refuses")
    with supervisor.spawn("tightened", POLICY, on_ask=Asked()) as sandbox:
        sandbox.exec("import subprocess")
        sandbox.reload_policy(POLICY.with_ask({"exec": OTHER}))
        assert refused(sandbox, RUN).answer is None


def test_monitor_mode_says_what_would_be_asked(supervisor: pyisolate.Supervisor) -> None:
    watching = Policy.from_dict(POLICY.with_ask({"exec": ECHO}, "fs.read").to_dict() | {"mode": "monitor"})
    asked = Asked()
    with supervisor.spawn("watches", watching, on_ask=asked) as sandbox:
        sandbox.exec("import subprocess")
        assert sandbox.eval(RUN) == b"ran\n"
        assert sandbox.eval("len(open('/etc/passwd').read())") > 0
        events = {(one.capability.value, one.target): one.answer for one in sandbox.get_denial_events()}
        assert events["process.exec", ECHO] == events["fs.read", "/etc/passwd"] == "would_ask"
    assert asked.questions == []


def test_where_programs_cannot_be_asked_about_the_spawn_says_so(supervisor: pyisolate.Supervisor) -> None:
    with pytest.raises(EnforcementError, match="ask: "):
        supervisor.spawn("thread", POLICY.with_limits(memory=None), isolation="thread")


#: a child executes it by a raw call
_RAW = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
argv, none = (ctypes.c_char_p * 2)(b"x", None), (ctypes.c_char_p * 1)(None)
def run(program):
    if (child := os.fork()) == 0:
        libc.execve(program, argv, none)
        os._exit(ctypes.get_errno())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def test_a_name_that_is_too_long_to_be_asked_about_is_decided_by_the_kernel_with_its_event(
    supervisor: pyisolate.Supervisor,
) -> None:
    asked, policy, other = Asked(), BASE.allow_exec(OTHER).with_ask({"exec": ECHO}), os.path.realpath("/usr/bin/id")
    with supervisor.spawn("long", policy, on_ask=asked) as sandbox:
        sandbox.exec(_RAW)
        long = [f"{os.path.dirname(one)}{'/.' * 300}/{os.path.basename(one)}".encode() for one in (OTHER, ECHO, other)]
        assert [sandbox.call("run", name) for name in long] == [0, errno.EACCES, errno.ENOENT]
        events = [one for one in sandbox.get_denial_events() if one.capability == "process.exec"]
        assert [(one.target, one.answer, one.kernel_decision) for one in events] == [
            (program, None, Verdict.DENY) for program in (ECHO, other)]  # fmt: skip
    assert asked.questions == []


#: a child's call fails, or is given up while it waits; it never calls anything again
_STAYS = """
import ctypes, mmap, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_ssize_t
memory = mmap.mmap(-1, 4096)
name = (ctypes.c_char * 4096).from_buffer(memory)
argv, none = (ctypes.c_char_p * 2)(b"x", None), (ctypes.c_char_p * 1)(None)
def start(program, handler):
    global child
    name.value = program
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGUSR1, handler)
        libc.execve(ctypes.byref(name), argv, none)
        memory[2048] = 1
        while True: pass
def give_up():
    while not memory[2048]:
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.01)
def end():
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
def mapped(program):
    file = libc.open(os.fsencode(program), os.O_RDONLY)
    try:
        return libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file, 0) != -1
    finally:
        os.close(file)
"""


def test_no_gate_opens_for_a_call_that_was_given_up(supervisor: pyisolate.Supervisor) -> None:
    waits, given_up = Step(), Step()
    asked = Asked(Allow(), Deny())
    asked.before = lambda: (waits.do(), given_up.wait())
    functions: dict[str, Any] = {"asked": waits.wait, "gave_up": given_up.do}
    policy = BASE.allow_exec(OTHER).with_ask({"exec": ECHO})
    with supervisor.spawn("given-up", policy, on_ask=asked, functions=functions) as sandbox:
        sandbox.exec(_STAYS)
        sandbox.exec(f"start({os.fsencode(ECHO)!r}, lambda *a: None); asked(); give_up(); gave_up()")
        assert sandbox.call("mapped", OTHER)
        assert not sandbox.eval(f"any((mapped({ECHO!r}), time.sleep(0.01))[0] for _ in range(30))")
        (event,) = [one for one in sandbox.get_denial_events() if one.capability == "process.exec"]
        assert (event.target, event.answer, event.kernel_decision) == (ECHO, "gave_up", Verdict.DENY)
        sandbox.exec("end()")
    assert asked.targets == [ECHO]


def test_a_call_that_failed_has_its_gate_shut_and_holds_up_no_other(supervisor: pyisolate.Supervisor) -> None:
    """Its task computes: by its memory and its calls it might be starting a program still."""
    waits, changed = Step(), Step()
    asked = Asked(Allow(), Allow())
    asked.before = lambda: (waits.do(), changed.wait())
    functions: dict[str, Any] = {"asked": waits.wait, "changed": changed.do}
    with supervisor.spawn("failed", POLICY, on_ask=asked, functions=functions) as sandbox:
        sandbox.exec("import subprocess\n" + _STAYS)
        sandbox.exec(f"start({os.fsencode(ECHO)!r}, signal.SIG_DFL); asked(); name.value = b'/none'; changed()")
        changed.do()
        assert sandbox.eval(f"subprocess.run([{OTHER!r}], capture_output=True).returncode") == 0
        assert not sandbox.call("mapped", ECHO)
        sandbox.exec("end()")
    assert asked.targets == [ECHO, OTHER]


def _flags(tree: int, path: str) -> dict[str, bool]:
    found = os.open(path[1:], os.O_RDONLY, dir_fd=tree)
    try:
        return {"noexec": bool(os.fstatvfs(found).f_flag & os.ST_NOEXEC)}
    finally:
        os.close(found)


def test_a_gate_opens_for_one_sandbox_and_one_program() -> None:
    builder = RootViewBuilder()
    try:
        with builder.prepare(with_gates(compile_policy(POLICY))) as view:
            first, second = view.stage(), view.stage()

            def shut(tree: int) -> Any:
                return [_flags(tree, path)["noexec"] for path in (ECHO, OTHER)]

            try:
                assert first.gates is not None
                assert shut(first.tree) == shut(second.tree) == [True, True]
                first.gates.open(ECHO)
                assert (shut(first.tree), shut(second.tree)) == ([False, True], [True, True])
                first.gates.shut(ECHO)
                assert shut(first.tree) == [True, True]
            finally:
                first.close()
                second.close()
    finally:
        builder.close()
