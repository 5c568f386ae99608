"""The judge: starts the supervisor under attack as a process of its own, orders attacks, and looks from outside.

An attack has escaped when the secret came back, a file, listener, process or kernel object outside changed, the cell's
own standing changed (credentials, namespaces, descriptors, executable memory), the supervisor or another sandbox
suffered, or the attack itself says that it got through.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Self

from tests.escape import bare, defences
from tests.escape.configurations import ROOT, Configuration
from tests.escape.ground import GUEST_UID, Ground, supervisor_state, wait_gone
from tests.escape.run import Run
from tests.escape.technique import Alone, Bare, Careless, Granted, Technique
from tests.escape.worker import source_for

START_TIMEOUT_S = 60.0
SIGNAL_GRACE_S = 0.5
#: Endings that a refusal explains; all else must be named by the technique.
REFUSED = frozenset({"", "PolicyError", "GuestError"})
_DESCRIPTORS = re.compile(
    r"anon_inode:(\[?bpf|\[perf_event|\[io_uring|\[userfaultfd|\[fanotify|inotify|\[fscontext|\[landlock|\[?seccomp)|/memfd:|/dev/(mem|kmem|kvm|fuse)"
)
_DENIES = frozenset({"deny"})


@dataclass
class Outcome:
    """What became of one technique in one configuration. `problems` is empty when all is as it is documented."""

    technique: Technique
    configuration: str
    #: stopped, escapes, not run, left out
    verdict: str = "stopped"
    problems: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    event: dict[str, Any] | None = None
    control: str = ""
    why: str = ""
    duration_s: float = 0.0

    def to_data(self) -> dict[str, Any]:
        """Return what is kept of it between machines and runs."""
        kept = ("configuration", "verdict", "problems", "evidence", "control", "why", "duration_s")
        return {"key": self.technique.key, **{name: getattr(self, name) for name in kept}}

    @classmethod
    def from_data(cls, data: dict[str, Any], techniques: dict[str, Technique]) -> Self:
        """Return the outcome that plain data describes."""
        return cls(technique=techniques[data["key"]], **{name: data[name] for name in data if name != "key"})

    @property
    def good(self) -> bool:
        """True when nothing differs from what the technique's file says."""
        return not self.problems


class WorkerDied(Exception):
    """The supervisor under attack is gone, or does not answer."""


class Server:
    """A process of ours that answers one line of JSON with another."""

    def __init__(self, module: str, prefix: list[str], environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, str(theirs.fileno())],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": "/",
                **environment,
            },
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._channel, self._stream = ours, ours.makefile("rwb")

    @property
    def timeout_s(self) -> float | None:
        """How long an answer may take."""
        return self._channel.gettimeout()

    @timeout_s.setter
    def timeout_s(self, seconds: float) -> None:
        self._channel.settimeout(seconds)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return the answer. Raises WorkerDied."""
        try:
            self._stream.write(json.dumps(order).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except (OSError, ValueError) as error:
            raise WorkerDied(f"the supervisor does not answer: {error}") from None
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            raise WorkerDied(f"the supervisor died: status {self.process.poll()}")
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self, *, at_once: bool = False) -> None:
        """End it and all below it; `at_once` where it is not itself any more."""
        with contextlib.suppress(OSError, ValueError):
            self._channel.shutdown(socket.SHUT_WR)
        try:
            self.process.wait(0 if at_once else 10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()
        self._channel.close()


class Host:
    """The supervisor under attack, seen from the judge."""

    def __init__(self, configuration: Configuration, ground: Ground) -> None:
        self.ground = ground
        kept = {name: os.environ[name] for name in ("LANG", defences.VARIABLE) if name in os.environ}
        self._server = Server("tests.escape.worker", configuration.prefix(), kept)
        self._server.timeout_s = START_TIMEOUT_S * configuration.slowness
        self.slowness = configuration.slowness
        try:
            start = {
                "token": ground.token,
                "secret": ground.targets.secret,
                "authority": ground.targets.authority,
                "isolation": configuration.isolation,
                "slowness": configuration.slowness,
                "led": configuration.led,
            }
            answer = self._server.ask(start)
        except BaseException:
            self._server.close()
            raise
        ground.targets.slowness = configuration.slowness
        ground.targets.supervisor, ground.targets.inherited = answer["pid"], answer["inherited"]
        ground.targets.sibling = answer["sibling"]
        self.state = supervisor_state(answer["pid"])

    def run(self, technique: Technique, control: bool = False) -> Run:
        """Have one attack (or its control) run. Raises WorkerDied."""
        self._server.timeout_s = (2 * technique.timeout_s + 8) * self.slowness
        order = {"key": technique.key, "control": control, "targets": self.ground.targets.facts()}
        return Run.from_data(self._server.ask(order))

    def differences(self) -> list[str]:
        """Return what changed about the supervisor since it started."""
        now = supervisor_state(self._server.process.pid)
        return [f"the supervisor's {key} changed" for key, value in now.items() if value != self.state.get(key)]

    def close(self, *, at_once: bool = False) -> None:
        """End it and all below it."""
        self._server.close(at_once=at_once)


class Judge:
    """Tries techniques in one configuration; a context manager."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.ground = Ground()
        self.host: Host | None = None
        self._plain_processes: Server | None = None

    def __enter__(self) -> Self:
        self.ground.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.host is not None:
            self.host.close()
        if self._plain_processes is not None:
            self._plain_processes.close()
        self.ground.__exit__()

    def _renew(self) -> Host:
        if self.host is not None:
            # a supervisor whose memory was taken over has no orderly end; as a user it holds nothing that stays
            self.host.close(at_once=self.configuration.isolation == "thread")
            self.host = None
        self.host = Host(self.configuration, self.ground)
        return self.host

    # -- one technique ----------------------------------------------------------------------------------------

    def attempt(self, technique: Technique) -> Outcome:
        """Try a technique and its control, and compare both with what its file says."""
        started = time.monotonic()
        outcome = Outcome(technique, self.configuration.name)
        in_thread = self.configuration.isolation == "thread"
        if in_thread and technique.thread.outcome == "not run":
            outcome.verdict, outcome.why = "not run", technique.thread.why
            return outcome
        self._attack(technique, outcome)
        if in_thread:
            self._judge_thread(technique, outcome)
        else:
            self._judge(technique, outcome)
            self._control(technique, outcome)
        outcome.duration_s = time.monotonic() - started
        return outcome

    def _attack(self, technique: Technique, outcome: Outcome) -> None:
        host = self.host or self._renew()
        self.ground.reset()
        try:
            run = host.run(technique)
        except WorkerDied as error:
            outcome.evidence.append(str(error))
            outcome.evidence += self.ground.differences()
            self._renew()
            outcome.run = None  # type: ignore[attr-defined]
            return
        outcome.run = run  # type: ignore[attr-defined]
        if run.impossible:
            outcome.problems.append(f"the attack could not be run: {run.impossible}")
        outcome.evidence += self._harm(technique, run)
        outcome.evidence += host.differences()
        if run.host["sibling"] != "unharmed" or run.host["sibling_events"]:
            outcome.evidence.append(f"the sibling sandbox: {run.host['sibling']}, {run.host['sibling_events']} events")
        if run.host["signals"]:
            outcome.evidence.append("the supervisor was signalled")
        outcome.event = _fitting(technique, run.events)
        if self.configuration.isolation == "thread" and outcome.evidence:
            self._renew()

    def _harm(self, technique: Technique, run: Run) -> list[str]:
        found = []
        if self.ground.token in run.said:
            found.append("the secret came out")
        found += [f"it says: {line[:120]}" for line in run.lines("ESCAPED:")]
        if technique.effect is not None and (effect := technique.effect(self.ground, run)):
            found.append(effect)
        if (slowest_s := run.host.get("slowest_s", 0.0)) > technique.sibling_s * self.configuration.slowness:
            found.append(f"the sibling waited {slowest_s:.1f} s for the listener")
        found += self.ground.differences()
        if run.before is not None:
            found += self._cell_changes(run)
            # without a pid namespace (--without namespaces) nothing tells whose a process is
            apart = run.before.namespaces["pid"] != os.readlink("/proc/self/ns/pid")
            if apart and (left := wait_gone(run.before.namespaces["pid"], self.configuration.slowness)):
                found.append(f"{left} processes outlive the sandbox")
        return found

    def _cell_changes(self, run: Run) -> list[str]:
        before, after = run.before, run.after
        if before is None or after is None:
            return []
        found = [
            f"the cell's {key} is now {after.status[key]}"
            for key in before.status
            if after.status[key] != before.status[key]
        ]
        found += [
            f"the cell is in another {name} namespace"
            for name, inode in before.namespaces.items()
            if after.namespaces.get(name) != inode
        ]
        found += [
            f"the cell's {name} changed"
            for name in ("mounts", "root", "exe")
            if getattr(before, name) != getattr(after, name)
        ]
        found += [f"executable memory: {line}" for line in after.maps if line not in before.maps]
        forbidden = tuple(f"{self.ground.base}/{name}" for name in ("vault", "outside"))
        for number, link in after.descriptors.items():
            if _DESCRIPTORS.search(link) or link.startswith(forbidden):
                found.append(f"the cell holds {link} as descriptor {number}")
        return found

    # -- judging ----------------------------------------------------------------------------------------------

    def _judge(self, technique: Technique, outcome: Outcome) -> None:
        run: Run | None = outcome.run  # type: ignore[attr-defined]
        if outcome.evidence:
            outcome.verdict = "escapes"
        gap = technique.gap or (technique.gap_bpf if self.configuration.sees_paths else "")
        if outcome.evidence and not gap:
            outcome.problems += [f"it got through: {line}" for line in outcome.evidence]
        elif gap and not outcome.evidence:
            outcome.problems.append(f"its file says that it is not stopped ({gap}), but it is")
        outcome.why = gap
        if run is None or run.impossible:
            return
        if run.no_workspace and not outcome.evidence:
            outcome.verdict, outcome.why = "left out", run.no_workspace
            return
        self._judge_ending(technique, run, outcome)
        blind = bool(technique.why_unseen(bpf=self.configuration.sees_paths))
        if technique.event and not blind:
            if outcome.event is None:
                outcome.problems.append(f"no event of {_wanted(technique)}; {_listing(run)}")
        elif (outcome.event is not None and not technique.gap_bpf) or (
            technique.no_event and any(self._tells(technique, event) for event in run.events)
        ):
            outcome.problems.append(f"its file says that there is no event, but {_listing(run)}")

    def _tells(self, technique: Technique, event: dict[str, Any]) -> bool:
        """Say whether an event names an operation; a counter (root with BPF) only says that Landlock refused something.

        That a raw call leaves no trace is said of enforcers that record nothing; BPF-LSM records its refusals.
        """
        if self.configuration.sees_paths and event["kernel_enforcer"] == "bpf-lsm":
            return False
        return str(event["kernel_evaluation"]) != "counted" and event["capability"] not in technique.also

    def _judge_ending(self, technique: Technique, run: Run, outcome: Outcome) -> None:
        allowed = set(technique.must_end) or (REFUSED | set(technique.ends))
        if run.error not in allowed:
            outcome.problems.append(
                f"it ended with {run.error or 'success'}, not {' or '.join(sorted(allowed))}: {run.error_text[:500]}"
            )
        elif run.error == "GuestError" and _defect(run.error_text):
            outcome.problems.append(f"the attack itself is defective: {run.error_text[:800]}")

    def _judge_thread(self, technique: Technique, outcome: Outcome) -> None:
        run: Run | None = outcome.run  # type: ignore[attr-defined]
        expected = technique.thread
        outcome.why = expected.why
        if outcome.evidence:
            outcome.verdict = "escapes"
        if outcome.verdict != expected.outcome:
            said = "; ".join(outcome.evidence) or (
                f"nothing; {run.error}: {run.error_text[:300]}" if run else "nothing"
            )
            outcome.problems.append(f"its file says {expected.outcome!r} in a thread, seen: {said}")
        if run is None or expected.outcome != "stopped":
            return
        if run.error == "GuestError" and _defect(run.error_text):
            outcome.problems.append(f"the attack itself is defective: {run.error_text[:800]}")
        blind = bool(technique.why_unseen(bpf=self.configuration.sees_paths))
        if technique.event and not blind and not expected.silent and outcome.event is None:
            outcome.problems.append(f"no event of {_wanted(technique)}; {_listing(run)}")

    # -- controls ---------------------------------------------------------------------------------------------

    def _control(self, technique: Technique, outcome: Outcome) -> None:
        control = technique.control
        if outcome.verdict == "left out":
            return
        if isinstance(control, Alone):
            outcome.control = f"none: {control.why}"
            return
        if isinstance(control, Bare) and control.root and os.geteuid() != 0:
            outcome.control = "left out: it needs root"
            return
        self.ground.reset()
        if isinstance(control, Granted | Careless):
            try:
                run = (self.host or self._renew()).run(technique, control=True)
            except WorkerDied as error:
                outcome.problems.append(f"control: {error}")
                self._renew()
                return
        else:
            run = self._bare(technique, control)
        seen = self._harm(technique, run)
        deadline = time.monotonic() + SIGNAL_GRACE_S * self.configuration.slowness
        while not seen and technique.group == "processes" and time.monotonic() < deadline:
            time.sleep(0.01)  # signals arrive when they arrive
            seen = self._harm(technique, run)
        if technique.group == "processes" and isinstance(control, Bare):
            self.ground.renew_victim()
        if isinstance(control, Bare) and control.answer and not seen:
            attacked: Run | None = outcome.run  # type: ignore[attr-defined]
            wanted = set(control.answer.split("|"))
            other = attacked is not None and not wanted & _answers(attacked)
            seen = [f"the kernel answers {control.answer}"] if other and wanted & _answers(run) else []
        if seen:
            outcome.control = f"{_control_name(control)}: {seen[0]}"
        elif self.configuration.sees_paths and (isinstance(control, Bare) or "ENOTSUP" in run.text):
            outcome.verdict, outcome.why = "left out", "that machine cannot do it unsandboxed either"
        else:
            why = run.impossible or f"{run.error} {run.error_text[-600:]} {run.text[-600:]}"
            outcome.problems.append(f"control: it does not work even where nothing forbids it: {why}")
        if self.host is not None and (changes := self.host.differences()):
            outcome.problems.append(f"control: {'; '.join(changes)}")
            self._renew()

    def _bare(self, technique: Technique, control: Bare) -> Run:
        flags = 0
        if control.root:
            flags = bare.CLONE_NEWNS | bare.CLONE_NEWUTS | bare.CLONE_NEWIPC
            flags |= 0 if control.keep_network else bare.CLONE_NEWNET
        order = {
            "flags": flags,
            "uid": GUEST_UID if os.geteuid() == 0 and not control.root else os.geteuid(),
            "source": source_for(technique, self.ground.targets.facts()),
            "timeout_s": technique.timeout_s * self.configuration.slowness,
        }
        answer = self._plain().ask(order)
        return Run(text=answer["text"], impossible="" if answer["ended"] else "the plain process did not end")

    def _plain(self) -> Server:
        if self._plain_processes is None:
            self._plain_processes = Server("tests.escape.bare", [], {})
            self._plain_processes.timeout_s = 60.0 * self.configuration.slowness
        return self._plain_processes


def _control_name(control: Granted | Careless | Bare) -> str:
    if isinstance(control, Careless):
        return "careless host"
    return "granted" if isinstance(control, Granted) else "unsandboxed"


def _answers(run: Run) -> set[str]:
    return {line.split()[-1] for line in run.lines("ANSWER:")}


def _fitting(technique: Technique, events: list[dict[str, Any]]) -> dict[str, Any] | None:
    for event in events:
        if event["capability"] not in technique.event:
            continue
        if technique.syscall and event["syscall"] != technique.syscall and not _by_hook(event):
            continue
        denied = {
            "broker": event["broker_decision"] in _DENIES,
            "kernel": event["kernel_decision"] in _DENIES,
            "either": True,
        }
        if denied[technique.by]:
            return event
    return None


def _by_hook(event: dict[str, Any]) -> bool:
    """Say whether a BPF program refused it: it names its hook, where several system calls meet."""
    programs = event["kernel_enforcer"] in ("cgroup-bpf", "bpf-lsm")
    return programs and bool(event["kernel_hook"]) and event["kernel_evaluation"] != "probed"


_DEFECTS = (
    "NameError",
    "AttributeError: 'World'",
    "SyntaxError",
    "KeyError",
    "ModuleNotFoundError",
    "IndentationError",
    "ArgumentError",
)


def _defect(text: str) -> bool:
    return any(word in text for word in _DEFECTS)


def _wanted(technique: Technique) -> str:
    words = [" or ".join(technique.event), f"refused by {technique.by}" if technique.by != "either" else ""]
    return " ".join(filter(None, [*words, f"at {technique.syscall}" if technique.syscall else ""]))


def _listing(run: Run) -> str:
    lines = [
        f"{e['capability']} {e['target']} broker={e['broker_decision']} kernel={e['kernel_decision']} {e['syscall']}"
        f" {e['code']}"
        for e in run.events[:8]
    ]
    ended = f"it ended with {run.error or 'success'}: {run.error_text[-300:]} {run.text[-200:]}"
    return f"events: {'; '.join(lines) or 'none'}; {ended}"
