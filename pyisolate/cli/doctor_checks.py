"""What `doctor` looks at: each mechanism proven live, then one real sandbox that is attacked.

Nothing is concluded from a version number or from "the call returned 0": an enforcer counts when it was seen to
refuse, and a sandbox counts when its denied operations failed and the same operations, granted, worked.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..policy import Policy
    from ..supervisor.diagnostics import Diagnostics
    from ..supervisor.supervisor import Supervisor

OK, MISSING, WEAKER, INFO = "ok", "missing", "weaker", "info"


@dataclass
class Finding:
    """One line of the report. `needed`: strict sandboxes cannot do without it."""

    name: str
    status: str
    text: str = ""
    remedy: str = ""
    needed: bool = False
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """True when strict sandboxes cannot run here because of it."""
        return self.needed and self.status == MISSING


def machine() -> list[Finding]:
    """Return what the machine is: kernel, security modules, interpreter, user."""
    modules = _read("/sys/kernel/security/lsm") or "not shown (securityfs is not mounted)"
    who = "root (cells run as uid 65534)" if os.geteuid() == 0 else f"uid {os.geteuid()} (cells run as the same user)"
    version = f"{platform.python_implementation()} {platform.python_version()}"
    found = [
        Finding("kernel", INFO, f"Linux {platform.release()} {platform.machine()}"),
        Finding("security modules", INFO, modules),
        Finding("supervisor", INFO, who),
        Finding("interpreter", INFO, f"{version}, {sys.executable}"),
    ]
    return found + unseen_packages() + _outer_filter() + moves()


def unseen_packages() -> list[Finding]:
    """Name where this user has packages that no guest finds, as programs of the user's do."""
    from ..policy.unseen import places

    name = "packages that guests do not find"
    return [Finding(name, INFO, f"{directory}: {what} (docs/environments.md)") for directory, what in places()]


def moves(table: str = "/proc/self/mountinfo") -> list[Finding]:
    """Say whether the kernel was asked for quick moves between control groups: what a spawn on demand waits for.

    The option of one hierarchy holds for all. Linux 6.18 keeps it when that is unmounted, and nothing shows it then.
    """
    from ..native import mount_table

    hierarchies = [one for one in mount_table.read_at(table) if one.kind in ("cgroup", "cgroup2")]
    if not hierarchies:
        return []
    name = "moves between control groups"
    quick = next((one.point for one in hierarchies if "favordynmods" in one.options.split(",")), None)
    if quick is not None:
        return [Finding(name, INFO, f"quick: {quick} is mounted with favordynmods")]
    text = (
        "no hierarchy mounted here shows favordynmods: without it a spawn that finds no warm cell can wait 10 ms; "
        "docs/deployment.md says whether to change it"
    )
    return [Finding(name, INFO, text)]


def _outer_filter() -> list[Finding]:
    """Say whether this process is under a seccomp filter already, as in most containers.

    The kernel takes the strictest answer of all filters: a call that the outer one refuses reaches no listener.
    """
    from ..kernel import namespaces

    if not namespaces.outer_filter():
        return []
    text = "this process is under one (a container's?): what that filter refuses is refused and leaves no event"
    return [Finding("outer seccomp filter", INFO, text)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def interpreter_readable() -> Finding:
    """Start this interpreter as the user that cells will be, and import pyisolate there."""
    name = "interpreter for cells"
    if os.geteuid() != 0:
        return Finding(name, OK, "cells run as this user", needed=False)
    command = [sys.executable, "-I", "-c", "import pyisolate.errors, encodings.idna"]
    remedy = (
        "use an interpreter and a virtual environment that every user may read (Debian's /usr/bin/python3, not one "
        "below a home directory of mode 0700), or Supervisor(cell_uid=...) with a user that may"
    )
    try:
        done = subprocess.run(
            command,
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            env={},
            capture_output=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(name, WEAKER, f"uid 65534 cannot start {sys.executable}: {error}", remedy)
    if done.returncode:
        words = done.stderr.decode("utf-8", "backslashreplace").strip().splitlines()
        return Finding(
            name, WEAKER, f"uid 65534 cannot import from it: {words[-1] if words else 'no reason given'}", remedy
        )
    return Finding(name, OK, "uid 65534 starts it and imports from it")


#: BPF mechanisms: module, class, arguments, and what goes on without it. None is needed.
_BPF = (
    ("bpf.lsm", "BpfLsmEnforcer", (), "Landlock, seccomp and namespaces decide"),
    ("bpf.cgroup", "CgroupBpfEnforcer", ("",), "the seccomp notification decides about addresses"),
    ("bpf.landlock_counter", "LandlockDenialCounter", (), "Landlock's own refusals are not counted"),
)


def bpf_mechanisms(known: set[str]) -> list[Finding]:
    """Return what the BPF mechanisms' own probes saw, but for those that the supervisor has asked already."""
    import importlib

    findings = []
    for module, name, arguments, otherwise in _BPF:
        try:
            mechanism = getattr(importlib.import_module(f"pyisolate.kernel.{module}"), name)(*arguments)
        except Exception as error:
            reason = f"could not be loaded ({type(error).__name__}: {error}); {otherwise}"
            findings.append(Finding(module.replace("_", "-"), WEAKER, reason))
            continue
        if mechanism.name not in known:
            findings.append(_bpf_finding(mechanism, otherwise))
    return findings


def _bpf_finding(mechanism: Any, otherwise: str) -> Finding:
    try:
        found = mechanism.probe()
    except Exception as error:
        return Finding(mechanism.name, WEAKER, f"could not tell: {type(error).__name__}: {error}; {otherwise}")
    if found.usable:
        return Finding(mechanism.name, OK, found.proof, detail=found.detail)
    reason = found.reason.partition("\n")[0]
    return Finding(mechanism.name, WEAKER, f"{reason}; {otherwise}", found.remedy, detail={"reason": found.reason})


def enforcers(diagnostics: Diagnostics) -> list[Finding]:
    """Return what the supervisor's own probes saw."""
    findings = []
    for found in diagnostics.enforcers.values():
        needed = found.enforcer in ("landlock", "seccomp", "namespaces", "root view")
        if found.usable:
            findings.append(Finding(found.enforcer, OK, found.proof, needed=needed, detail=found.detail))
        else:
            status = MISSING if needed else WEAKER
            text = f"{found.status.value}: {found.reason}"
            if found.enforcer == "cgroup":
                text += "; limits on memory and processes are sampled, not enforced at once"
            findings.append(Finding(found.enforcer, status, text, found.remedy, needed, found.detail))
    return findings


def prometheus_tools() -> Finding:
    """Let promtool read this process's own metrics, where it is installed."""
    name = "metrics"
    from prometheus_client import generate_latest

    from ..telemetry.metrics import METRICS

    text = generate_latest(METRICS.registry)
    tool = shutil.which("promtool")
    if tool is None:
        return Finding(name, INFO, f"{len(text.splitlines())} lines; promtool is not installed: not checked")
    done = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    if done.returncode:
        return Finding(name, WEAKER, f"promtool: {(done.stderr or done.stdout).decode(errors='replace').strip()}")
    return Finding(name, OK, f"{len(text.splitlines())} lines, clean under promtool check metrics")


# -- one real sandbox ----------------------------------------------------------------------------------------


@dataclass
class Probe:
    """One operation: refused without `grant`, recorded as `capability`, and working with it (None: never granted)."""

    name: str
    capability: str
    source: str
    grant: Callable[[Policy], Policy] | None


@contextmanager
def _ground() -> Iterator[dict[str, Any]]:
    """A file, a program and a listener to aim at, all readable by everybody: only the sandbox stands before them."""
    with tempfile.TemporaryDirectory(prefix="pyisolate-doctor-") as directory, socket.socket() as listener:
        os.chmod(directory, 0o755)
        file = Path(directory, "file")
        file.write_text("content")
        file.chmod(0o644)
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield {"file": str(file), "port": listener.getsockname()[1], "program": shutil.which("true") or "/bin/true"}


def _probes(ground: dict[str, Any]) -> list[Probe]:
    file, port, program = ground["file"], ground["port"], ground["program"]
    raw = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"if libc.open({os.fsencode(file)!r}, 0) < 0:\n"
        "    raise OSError(ctypes.get_errno(), 'open')\n"
    )
    connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5).close()"
    execute = f"import subprocess\nsubprocess.run([{program!r}], check=True)"
    namespace = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.unshare(0x10000000) != 0:\n"
        "    raise PermissionError(ctypes.get_errno(), 'unshare')\n"
    )
    read = f"open({file!r}).read()"
    return [
        Probe("read a file", "fs.read", read, lambda policy: policy.allow_read(file)),
        Probe("read it by a raw system call", "fs.read", raw, lambda policy: policy.allow_read(file)),
        Probe("connect", "net.connect", connect, lambda policy: policy.allow_connect(f"127.0.0.1:{port}")),
        Probe("run a program", "process.exec", execute, lambda policy: policy.allow_exec(program)),
        Probe("make a user namespace", "kernel.namespace", namespace, None),
    ]


def sandbox_probes(supervisor: Supervisor) -> list[Finding]:
    """Spawn strict sandboxes and see the same operations refused, recorded, and working where granted."""
    from ..errors import SandboxError
    from ..policy import Policy

    # No workspace: its /tmp is the guest's own, and what is not there was not refused. ctypes makes the raw calls.
    policy = Policy.preset("compute").with_workspace(None).allow_import("ctypes")
    with _ground() as ground:
        try:
            with supervisor.spawn("doctor", policy) as sandbox:
                sandbox.eval("1 + 1")
        except SandboxError as error:
            return [Finding("strict sandbox", MISSING, error.summary, error.hint or "", needed=True)]
        started = [Finding("strict sandbox", OK, "spawned and answered", needed=True)]
        return started + [_try(supervisor, policy, probe) for probe in _probes(ground)]


def _try(supervisor: Supervisor, policy: Policy, probe: Probe) -> Finding:
    name = f"sandbox: {probe.name}"
    refused, error, events = _attempt(supervisor, policy, probe.source)
    if not refused:
        return Finding(name, MISSING, "it went through, though no rule grants it", needed=True)
    event = next((event for event in events if event.capability == probe.capability), None)
    if probe.grant is not None:
        worked, why, _ = _attempt(supervisor, probe.grant(policy), probe.source)
        if worked:  # "refused" under the policy that grants it
            return Finding(name, MISSING, f"refused, but also where a rule grants it: {why}", needed=True)
    if event is None:
        text = f"refused ({error}); native code's own refusals are not recorded without BPF or the listener"
        return Finding(name, WEAKER, text)
    by = event.kernel_enforcer if event.broker_decision != "deny" else "broker"
    control = "; worked where granted" if probe.grant is not None else "; no policy can grant it"
    return Finding(name, OK, f"refused by {by or 'the kernel'}, recorded as {event.capability}{control}", needed=True)


def _attempt(supervisor: Supervisor, policy: Policy, source: str) -> tuple[bool, str, list[Any]]:
    from ..errors import SandboxError

    with supervisor.spawn("doctor", policy) as sandbox:
        try:
            sandbox.exec(source, timeout=20)
        except SandboxError as error:
            return True, str(error).splitlines()[0], sandbox.get_denial_events()
        return False, "", sandbox.get_denial_events()
