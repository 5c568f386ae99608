"""One attack, tried and judged from outside; and its control, which must get through."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import SandboxError
from .attacks import Attack
from .scene import VARIABLE, Scene

if TYPE_CHECKING:
    from ...policy import Policy
    from ...supervisor.supervisor import Supervisor
    from ...telemetry.event import DenialEvent


@dataclass
class Trial:
    """What became of one attack. `problems` is empty when it was refused, recorded, and its control worked."""

    attack: Attack
    event: DenialEvent | None = None
    events: list[DenialEvent] = field(default_factory=list)
    ended: str = ""
    control: str = ""
    duration_s: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class _Run:
    loot: str
    error: SandboxError | None
    evidence: str
    events: list[DenialEvent]


def attempt(supervisor: Supervisor, policy: Policy, attack: Attack, scene: Scene) -> Trial:
    """Try an attack under a policy that does not grant it, then under one that does, where there is one."""
    started = time.monotonic()
    trial = Trial(attack)
    confined = attack.policy(policy, scene)
    run = _run(supervisor, confined, attack, scene, {})
    _judge(trial, run, scene)
    if attack.control is not None:
        options = {"env": {VARIABLE: scene.token}} if attack.control_options.get("env") else {}
        granted = _run(supervisor, attack.control(confined, scene), attack, scene, options)
        if scene.token in granted.loot or granted.evidence:
            trial.control = "works when granted"
        else:
            why = f": {granted.error}" if granted.error else ""
            trial.problems.append(f"control: it does not work even where it is granted{why}")
    trial.duration_s = time.monotonic() - started
    return trial


def _run(supervisor: Supervisor, policy: Policy, attack: Attack, scene: Scene, options: dict[str, Any]) -> _Run:
    scene.reset()
    error: SandboxError | None = None
    loot: list[str] = []
    with supervisor.spawn(attack.name, policy, **options) as sandbox:
        try:
            result = sandbox.exec(f"S = {scene.for_guest()!r}\n{attack.source}", filename="<attack>", timeout=20)
            loot += [str(result.value), result.stdout, result.stderr]
        except SandboxError as raised:
            error = raised
            loot += [str(raised), getattr(raised, "stdout", ""), getattr(raised, "traceback", "")]
        evidence = attack.evidence(scene, sandbox)
        events = sandbox.get_denial_events()
    return _Run("\n".join(loot), error, evidence, events)


def _judge(trial: Trial, run: _Run, scene: Scene) -> None:
    attack = trial.attack
    trial.events = run.events
    trial.ended = type(run.error).__name__ if run.error else ""
    if scene.token in run.loot:
        trial.problems.append("it got through: the secret came back")
    if run.evidence:
        trial.problems.append(f"it got through: {run.evidence}")
    if attack.ends and trial.ended != attack.ends:
        trial.problems.append(f"it ended with {trial.ended or 'success'}, not {attack.ends}: {run.error or ''}")
    if attack.capabilities:
        trial.event = next((event for event in run.events if event.capability in attack.capabilities), None)
        if trial.event is None:
            seen = ", ".join(str(event) for event in run.events) or "none"
            wanted = " or ".join(attack.capabilities)
            trial.problems.append(f"no event of {wanted} (events: {seen}; error: {run.error})")
        elif not attack.ends and not run.error and "environ" not in attack.source:
            trial.problems.append("its event exists, but the guest saw no refusal")
