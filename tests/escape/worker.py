"""The supervisor under attack: a process of its own, so that the judge looks at it from outside too.

`python -m tests.escape.worker <socket>`: one technique a line in, one run a line out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyisolate
from pyisolate import Policy
from pyisolate.egress import process
from pyisolate.errors import SandboxError
from tests.escape import defences
from tests.escape.ground import Targets
from tests.escape.lifetime import die_with_parent, end_with_parent, leave_no_group
from tests.escape.run import CellState, Run
from tests.escape.technique import Careless, Granted, Reader, Technique, load
from tests.escape.web import DOMAIN, HOSTS
from tests.foreign_functions import with_ctypes

VARIABLE = "PYISOLATE_ESCAPE_TOKEN"
INSIDE = Path(__file__).with_name("inside.py").read_text()
#: What is kept of a message: the judge looks for a secret in it, not at its size.
_MESSAGE_CHARS = 64 << 10
_STATUS = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "TracerPid",
)


def source_for(technique: Technique, facts: dict[str, Any]) -> str:
    """Return what runs in the guest."""
    return f"{INSIDE}\n{technique.guest}\nworld = World({facts!r})\nattack(world)\n"


def base_policy(targets: Targets, slowness: float = 1.0, *, led: bool = False) -> Policy:
    """Return the policy that techniques start from: one directory to read, and the interpreter. No workspace.

    ctypes is granted: what kernel and hooks hold is to be tried, not the import of what most techniques act by.
    """
    policy = with_ctypes().with_workspace(None).allow_read(targets.inbox)
    if led:
        policy = policy.allow_http(f"GET api.{DOMAIN}:{targets.web}/granted/*")
    return policy if slowness == 1 else policy.with_limits(wall=f"{30 * slowness:.0f}s", cpu=f"{10 * slowness:.0f}s")


class Worker:
    """One supervisor with a sibling sandbox, running what the judge names."""

    def __init__(self, token: str, isolation: str, slowness: float, authority: str, *, led: bool = False) -> None:
        self.token, self.isolation, self.slowness, self.led = token, isolation, slowness, led
        self.signals = self.memory_mib = self.grew_mib = 0
        self.slowest_s, self._namespace = 0.0, -1
        self.techniques = {technique.key: technique for technique in load()}
        # what guests may have in flight is a part of it: the same on every machine
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000) if hard >= 0 else 20_000, hard))
        # what a supervisor has and a guest must not get: a variable, an open descriptor, memory
        os.environ[VARIABLE] = token
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
            signal.signal(number, self._count_signal)
        process._START_S, process._ORDER_S = process._START_S * slowness, process._ORDER_S * slowness  # of the proxy
        self.supervisor = pyisolate.Supervisor(
            pool_size=6 if isolation == "process" else 1, egress_hosts=HOSTS, egress_ca=authority
        )
        defences.apply(self.supervisor)
        self.supervisor.start()
        self.sibling = self.supervisor.spawn("sibling")
        self.sibling.exec(f"token = {token!r}")
        if isolation == "process" and not any(n.startswith("no workspace") for n in self.sibling.enforcement.notes):
            self.sibling.files.write("token", token)

    def _count_signal(self, _number: int, _frame: object) -> None:
        self.signals += 1

    def close(self) -> None:
        """End all that runs."""
        self.sibling.close()
        self.supervisor.close()

    def run(self, key: str, control: bool, targets: Targets) -> Run:
        """Run one attack, or its control under a policy that grants it."""
        technique = self.techniques[key]
        policy, options = base_policy(targets, self.slowness, led=self.led), dict(technique.options)
        if technique.policy is not None:
            policy = technique.policy(policy, targets)
        if control:
            assert isinstance(technique.control, Granted | Careless)
            if isinstance(technique.control, Granted):
                policy = technique.control.change(policy, targets)
                options.update(technique.control.options)
        if options.get("env") == "token":
            options["env"] = {VARIABLE: self.token}
        if options.get("files") == "token":
            options["files"] = {"left": self.token}
        targets.sibling, targets.isolation = self.sibling.pid, self.isolation
        if self.isolation == "thread":  # which holds no limit on memory, processes and files
            options = {key: value for key, value in options.items() if key not in ("env", "cwd")}
            options["enforcement"] = "best_effort"
        if technique.host is not None:
            with self.supervisor.spawn("earlier", policy, isolation=self.isolation, **options):
                technique.host(targets)
        if technique.before is not None and not control:
            with self.supervisor.spawn("earlier", policy, isolation=self.isolation, **options) as earlier:
                if not any(note.startswith("no workspace") for note in earlier.enforcement.notes):
                    technique.before(earlier, self.token)
        started, run = time.monotonic(), Run()
        self.signals = self.grew_mib = 0
        _forget_peak()
        self.memory_mib = _memory_mib("VmRSS")
        try:
            spawned = self.supervisor.spawn(MARK + technique.name, policy, isolation=self.isolation, **options)
            with spawned as sandbox:
                run.no_workspace = next((n for n in sandbox.enforcement.notes if n.startswith("no workspace")), "")
                careless = technique.control if control and isinstance(technique.control, Careless) else None
                reader = technique.reader if careless is None else careless.reader
                with self._beside(technique), self._reading(reader, sandbox, targets, run):
                    self._attack(technique, sandbox, targets, run)
        except SandboxError as error:
            run.impossible = f"{type(error).__name__}: {error}"
        run.duration_s = time.monotonic() - started
        run.host = self._host()
        return run

    @contextlib.contextmanager
    def _beside(self, technique: Technique) -> Iterator[None]:
        """Have the sibling ask the listener all the time, where the technique says how long that may take."""
        self.slowest_s, ended = 0.0, threading.Event()

        def ask() -> None:
            while not ended.wait(0.02):
                started = time.monotonic()
                with contextlib.suppress(SandboxError):
                    self.sibling.exec(_ASK, timeout=technique.timeout_s * self.slowness)
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)

        if not technique.sibling_s or self.isolation == "thread":
            yield
            return
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextlib.contextmanager
    def _reading(self, reader: Reader | None, sandbox: Any, targets: Targets, run: Run) -> Iterator[None]:
        """Have the host read the sandbox's files meanwhile, and once more after the attack."""
        ended, got = threading.Event(), set[str]()

        def read() -> None:
            last = False
            while not last:
                last = ended.wait(0.001)
                try:
                    got.add(reader(sandbox, targets)[:_MESSAGE_CHARS])
                except (OSError, SandboxError):  # what a host may be told of a guest's files
                    pass
                except Exception as error:
                    got.add(f"ESCAPED: the host met {type(error).__name__}: {error}")

        if reader is None or run.no_workspace:
            yield
            return
        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5 * self.slowness)
            if thread.is_alive():
                got.add("ESCAPED: the host waits for the guest")
            run.messages += sorted(got)[:100]

    def _keep_namespace(self, pid: int) -> None:
        """Keep a cell's pid namespace until the next one's: once it is gone, another cell may have its number."""
        with contextlib.suppress(OSError):
            held, self._namespace = self._namespace, os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY)
            if held >= 0:
                os.close(held)

    def _attack(self, technique: Technique, sandbox: Any, targets: Targets, run: Run) -> None:
        run.pid, run.sandbox_id = sandbox.pid, sandbox.id
        if self.isolation == "process":
            self._keep_namespace(sandbox.pid)
            run.before = cell_state(sandbox.pid)
        timeout_s = technique.timeout_s * self.slowness
        run.text, run.error, run.error_text = _exec(sandbox, source_for(technique, targets.facts()), timeout_s)
        if technique.then:
            run.then_text, run.then_error, why = _exec(sandbox, technique.then, timeout_s)
            run.then_text += why
        if self.isolation == "thread":
            _live()
        self.grew_mib = _memory_mib("VmHWM") - self.memory_mib
        if self.isolation == "process" and not sandbox.closed:
            run.after = cell_state(sandbox.pid)
        with contextlib.suppress(SandboxError):
            while len(run.messages) < 100:
                run.messages.append(_shown(sandbox.recv(timeout=0.0)))
        run.events = [event.to_dict() for event in sandbox.get_denial_events()]
        run.denials = sandbox.stats.denials

    def _host(self) -> dict[str, Any]:
        """Return how supervisor and sibling fare after it."""
        try:
            sibling = "unharmed" if self.sibling.eval("token") == self.token else "changed"
        except SandboxError as error:
            sibling = f"{type(error).__name__}: {error}"
        if self.isolation == "thread" and not self._refuses():
            sibling = "its broker refuses nothing any more"
        events = len(self.sibling.get_denial_events())
        return {
            "sibling": sibling,
            "sibling_events": events,
            "signals": self.signals,
            "grew_mib": self.grew_mib,
            "slowest_s": self.slowest_s,
            "environment": os.environ.get(VARIABLE),
        }

    def _refuses(self) -> bool:
        """Say whether a fresh sandbox thread is still refused a file: guests before it share its memory."""
        with self.supervisor.spawn("check", isolation="thread", enforcement="best_effort") as check:
            try:
                check.exec("open('/etc/shadow')", timeout=5 * self.slowness)
            except SandboxError:
                pass
            return any(event.broker_decision == "deny" for event in check.get_denial_events())


MARK = "escape-"
#: A call that every policy allows and that the filter does not: the listener answers it.
_ASK = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))"


def _live() -> None:
    """Do what a host process does all the time: collect garbage, import, start a thread, fork."""
    gc.collect()
    for name in ("colorsys", "sndhdr", "chunk", "wave", "quopri", "plistlib"):
        sys.modules.pop(name, None)
    importlib.import_module("colorsys")
    thread = threading.Thread(target=len, args=("x",))
    thread.start()
    thread.join()
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _shown(message: Any) -> str:
    return repr(message[:_MESSAGE_CHARS] if isinstance(message, bytes | str) else message)[:_MESSAGE_CHARS]


def _forget_peak() -> None:
    """Have the kernel count the peak of this process's memory anew (man 5 proc, clear_refs 5)."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory_mib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith(name + ":")), 0)


def _exec(sandbox: Any, source: str, timeout_s: float) -> tuple[str, str, str]:
    try:
        result = sandbox.exec(source, timeout=timeout_s, filename="<attack>")
    except SandboxError as error:
        parts = [getattr(error, "stdout", ""), getattr(error, "stderr", ""), getattr(error, "last_words", "")]
        why = [str(error), getattr(error, "traceback", ""), *getattr(error, "__notes__", ())]
        return "\n".join(parts), type(error).__name__, "\n".join(why)
    return f"{result.stdout}\n{result.stderr}\n{result.value}", "", ""


def cell_state(pid: int) -> CellState | None:
    """Return what /proc says of a cell; None when it is gone."""
    proc = Path(f"/proc/{pid}")
    try:
        lines = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
        descriptors = {}
        for name in os.listdir(proc / "fd"):
            with contextlib.suppress(OSError):
                descriptors[name] = os.readlink(proc / "fd" / name)
        return CellState(
            status={key: " ".join(lines.get(key, "").split()) for key in _STATUS},
            namespaces={
                name: os.readlink(proc / "ns" / name) for name in os.listdir(proc / "ns") if "_for_" not in name
            },
            descriptors=descriptors,
            maps=[line for line in (proc / "maps").read_text().splitlines() if _notable(line)],
            mounts=(proc / "mountinfo").read_text(),
            root=os.readlink(proc / "root"),
            exe=os.readlink(proc / "exe"),
            processes=len((proc / f"task/{pid}/children").read_text().split()),
        )
    except OSError:
        return None


def _notable(line: str) -> bool:
    words = line.split(maxsplit=5)
    path = words[5].strip() if len(words) > 5 else ""
    strange = "w" in words[1] or not path or path.startswith(("/memfd", "/dev/zero", "/SYSV")) or MARK in path
    return "x" in words[1] and strange


def main(descriptor: int) -> None:
    """Serve a judge on the socket `descriptor`."""
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rwb") as stream:
        channel.set_inheritable(False)
        start = json.loads(stream.readline())
        # guests of a thread may break the interpreter; as an ordinary user it holds nothing that stays
        if start["isolation"] == "thread":
            leave_no_group()
            die_with_parent()
        else:
            end_with_parent()
        inherited = os.open(start["secret"], os.O_RDONLY)
        os.set_inheritable(inherited, True)
        worker = Worker(start["token"], start["isolation"], start["slowness"], start["authority"], led=start["led"])
        stream.write(
            json.dumps({"pid": os.getpid(), "inherited": inherited, "sibling": worker.sibling.pid}).encode() + b"\n"
        )
        stream.flush()
        known = {field.name for field in dataclasses.fields(Targets)}
        for line in stream:
            order = json.loads(line)
            targets = Targets(**{key: value for key, value in order["targets"].items() if key in known})
            stream.write(worker.run(order["key"], order["control"], targets).to_json().encode() + b"\n")
            stream.flush()
        worker.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
