"""One catalogue of capabilities: every layer's group, mode, floor and number are its."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from pyisolate import Policy
from pyisolate.capability import (
    ASKED,
    CATALOGUE,
    FLOOR,
    MODE_GROUPS,
    Capability,
    FsRight,
    generated_files,
    of_family,
)
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.kernel.seccomp.table import compile_table
from pyisolate.native import notify
from pyisolate.policy import compile_policy
from pyisolate.policy.broker import Broker

ROOT = Path(__file__).resolve().parents[2]
#: What the broker decides for each, without facts: none of them is granted by an empty policy.
TARGETS = {"fs": "/nowhere", "net": "192.0.2.1:1", "import": "nothing", "process": "/nowhere"}


def test_every_capability_has_one_row_and_numbers_are_never_shared() -> None:
    assert list(CATALOGUE) == list(Capability)
    assert [entry.number for entry in CATALOGUE.values()] == list(range(1, len(Capability) + 1))
    for capability, entry in CATALOGUE.items():
        assert (entry.group in MODE_GROUPS) or capability.family in ("kernel", "limit", "control"), capability
    rights = [entry.right for c, entry in CATALOGUE.items() if c.family == "fs" and entry.right is not None]
    assert sorted(rights) == [r for r in FsRight if r <= FsRight.EXEC]
    assert of_family("random") == (Capability.RANDOM_READ,)
    assert FLOOR.isdisjoint(ASKED) is False  # hooks ask about some of the floor, for a better message


@pytest.mark.parametrize("path", sorted(generated_files()))
def test_the_c_side_is_written_from_the_catalogue(path: str) -> None:
    written = (ROOT / path).read_text()
    assert written == generated_files()[path], "run python -m pyisolate.capability"


def test_the_native_code_was_built_with_these_numbers() -> None:
    assert {c.name: entry.number for c, entry in CATALOGUE.items()} == notify.CAPABILITY_NUMBERS


def _policy(mode: str, group: str | None, other: str) -> Policy:
    modes = {} if group is None else {group: other}
    return Policy.from_dict({"version": 1, "name": "m", "extends": "none", "mode": mode, "modes": modes})


MODES = [
    pytest.param(mode, group, other, id=f"{mode}, {group}: {other}")
    for (mode, other), group in itertools.product(
        (("monitor", "enforce"), ("enforce", "monitor")), (None, *MODE_GROUPS)
    )
]


def _expected(capability: Capability, mode: str, group: str | None, other: str) -> Mode:
    return Mode(other if CATALOGUE[capability].group == group else mode)


@pytest.mark.parametrize(("mode", "group", "other"), MODES)
def test_broker_and_listener_follow_the_catalogues_group(mode: str, group: str | None, other: str) -> None:
    compiled = compile_policy(_policy(mode, group, other))
    broker, acts = Broker(compiled), compile_table(compiled, serial=1).acts
    for capability, entry in CATALOGUE.items():
        act = acts[entry.number]
        decision = broker.decide(capability, TARGETS.get(capability.family, "x"), inside=False)
        if entry.floor:
            assert act == notify.ACT_FLOOR, capability
            assert (decision.verdict, decision.code) == (Verdict.DENY, DenialCode.ALWAYS_DENIED), capability
            continue
        expected = _expected(capability, mode, group, other)
        assert act == (notify.ACT_WATCH if expected is Mode.MONITOR else notify.ACT_DENY), capability
        if capability.family in ("limit", "control") or decision.code is DenialCode.ALWAYS_DENIED:
            continue
        if decision.verdict is not Verdict.ALLOW:
            wanted = Verdict.WOULD_DENY if expected is Mode.MONITOR else Verdict.DENY
            assert decision.verdict is wanted, capability


@pytest.mark.parametrize(("mode", "group", "other"), MODES)
def test_bpf_tables_follow_the_catalogues_group(mode: str, group: str | None, other: str) -> None:
    tables = pytest.importorskip("pyisolate.kernel.bpf.tables")
    bits = tables.monitored(compile_policy(_policy(mode, group, other)))
    grouped: dict[str, str] = {}
    text = generated_files()["bpf/group_of.bpf.h"]
    current: list[str] = []
    for line in text.splitlines():
        if found := re.search(r"case PYI_(\w+):", line):
            current.append(found[1])
        elif found := re.search(r"return PYI_GROUP_(\w+);", line):
            grouped.update(dict.fromkeys(current, found[1]))
            current = []
    for capability, entry in CATALOGUE.items():
        if entry.floor or entry.group not in MODE_GROUPS:
            assert capability.name not in grouped, capability
            continue
        watched = bool(bits & tables.Group[grouped[capability.name]])
        assert watched is (_expected(capability, mode, group, other) is Mode.MONITOR), capability
