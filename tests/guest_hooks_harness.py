"""Runs guest code under the hooks in a fresh interpreter, so that no hook ever sticks to the test process.

The broker here is a few lines: what it grants is said by the test, so that these tests speak of the hooks alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Where the harness says its own code is from: a stand-in for the native hook is part of the hooks
STAND_IN = str(ROOT / "pyisolate" / "hooks" / "stand_in.py")
NATIVE = importlib.util.find_spec("pyisolate.native._native") is not None

PREAMBLE = '''
import _thread, errno, json, os, sys
import socket, subprocess, random, shutil, tempfile, sqlite3, signal, importlib, ctypes, http.client
import secrets, pickle, time
from pyisolate import hooks
from pyisolate.capability import Capability
from pyisolate.decision import Decision, DenialCode, Mode, Verdict
from pyisolate.errors import PolicyError, RefusedImport
from pyisolate.policy.compiled import CompiledPolicy


class StandIn:
    """pyisolate.native.audit by way of sys.addaudithook."""

    def __init__(self):
        self.process, self.threads, self.inside, self.events = None, {}, set(), frozenset()
        self.added, self.count = False, 0

    def installed(self):
        return self.added

    def audit_sequence(self):
        return self.count

    def tell(self, answer):
        pass

    def release(self, token):
        self.threads.pop(_thread.get_ident(), None)

    def install(self):
        self.added = True
        sys.addaudithook(self.hook)

    def set_events(self, names):
        self.events = frozenset(names)

    def set_process_callback(self, callback):
        self.process = callback

    def set_thread_callback(self, callback):
        self.threads[_thread.get_ident()] = callback

    def seal(self, token=None):
        pass

    def hook(self, event, args):
        if event not in self.events:
            return
        ident = _thread.get_ident()
        callback = self.threads.get(ident) or self.process
        if callback is None or ident in self.inside:
            return
        self.inside.add(ident)
        self.count += 1
        try:
            callback(event, args)
        finally:
            self.inside.discard(ident)


class Rules:
    """Allows what `allow` says: (capability, target) pairs, a target ending in "*" being a prefix."""

    def __init__(self, allow, deny=(), verdict=Verdict.DENY):
        self.allow, self.deny, self.verdict, self.asked = allow, deny, verdict, []

    def decide(self, capability, target, **facts):
        self.asked.append([capability.value, target])
        for rules, code in ((self.deny, DenialCode.EXPLICIT_DENY), (self.allow, None)):
            for wanted, pattern in rules:
                hit = target.startswith(pattern[:-1]) if pattern.endswith("*") else target == pattern
                if hit and wanted in (capability.value, "*"):
                    if code is None:
                        return Decision(verdict=Verdict.ALLOW, capability=capability, target=target)
                    return Decision(verdict=self.verdict, capability=capability, target=target, code=code, reason="no")
        return Decision(verdict=self.verdict, capability=capability, target=target, code=DenialCode.NOT_GRANTED,
                        reason="the policy grants nothing of the kind")


records = []


def report(record):
    records.append(record)


STDLIB = [("import.module", "*"), ("import.native", "*")]
LIBRARY = [("fs.read", os.path.dirname(os.__file__) + "/*")]
AUDIT = @AUDIT@
SETUP = json.loads(@SETUP@)
hooks.prewarm(audit=AUDIT)
rules = Rules([tuple(one) for one in SETUP["allow"]] + LIBRARY + STDLIB * SETUP["imports"],
              [tuple(one) for one in SETUP["deny"]], Verdict(SETUP["verdict"]))
compiled = CompiledPolicy(name="t", version="v", **SETUP["compiled"])


def start():
    global H
    H = hooks.install(rules, report, compiled, process_wide=SETUP["process_wide"], audit=AUDIT)
    rules.asked.clear()
    return H


def open_refused(path):
    """Open a file that is not there; the error stands in for the kernel's refusal."""
    try:
        open(path)
    except FileNotFoundError as missing:
        raise PermissionError(errno.EACCES, "Permission denied", missing.filename) from None


def finish(**answer):
    H.flush()
    reported = [[r.capability.value, r.target, r.verdict.value, r.count, r.origin, r.errno] for r in records]
    os.write(SETUP["answer"], json.dumps({"records": reported, "asked": rules.asked, **answer}).encode())


if SETUP["started"]:
    start()
'''


GUEST = '''
def outcome(function, *args, **kwargs):
    """Run one operation: "refused", "done", or the name of any other error."""
    try:
        result = function(*args, **kwargs)
    except (PolicyError, RefusedImport):
        return "refused"
    except BaseException as error:
        return type(error).__name__
    if hasattr(result, "close"):
        result.close()
    return "done"
'''


class Ran:
    """What came of one guest: `records` as lists, `asked` as (capability, target), and what `finish` was given."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.records: list[list[Any]] = answer.pop("records")
        self.asked: list[tuple[str, str]] = [(one[0], one[1]) for one in answer.pop("asked")]
        self.denied = [(one[0], one[1]) for one in self.records]
        self.answer = answer


def run(
    source: str,
    *,
    allow: list[tuple[str, str]] | None = None,
    deny: list[tuple[str, str]] | None = None,
    verdict: str = "deny",
    compiled: dict[str, Any] | None = None,
    imports: bool = True,
    process_wide: bool = True,
    started: bool = True,
    cwd: Path | None = None,
    native: bool = NATIVE,
    python: str = sys.executable,
) -> Ran:
    """Run `source` as guest code in a process of its own; it ends with `finish(**answer)`."""
    audit = "__import__('pyisolate.native.audit', fromlist=['audit'])" if native else "StandIn()"
    write = os.memfd_create("answer")
    setup = {
        "answer": write,
        "allow": allow or [],
        "deny": deny or [],
        "verdict": verdict,
        "compiled": compiled or {},
        "imports": int(imports),
        "process_wide": process_wide,
        "started": started,
    }
    preamble = PREAMBLE.replace("@AUDIT@", audit).replace("@SETUP@", repr(json.dumps(setup)))
    guest = GUEST + textwrap.dedent(source)
    # the harness counts as library code, what is tested as the guest's
    text = (
        f"space = {{'__name__': '__main__', '__builtins__': __builtins__}}\n"
        f"exec(compile({preamble!r}, {STAND_IN!r}, 'exec'), space)\n"
        f"exec(compile({guest!r}, '<guest>', 'exec'), space)\n"
    )
    try:
        done = subprocess.run(
            [python, "-c", text],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[write],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        answer = os.pread(write, 1 << 26, 0)
    finally:
        os.close(write)
    assert answer, f"exit status {done.returncode}\n{done.stderr}"
    return Ran(json.loads(answer))
