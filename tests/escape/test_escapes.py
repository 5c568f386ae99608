"""No technique gets out of a sandbox, each leaves its event, and each would work where nothing forbids it."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator

import pytest
from require import require

from tests.escape.configurations import CONFIGURATIONS, ROOT, chosen
from tests.escape.harness import Judge
from tests.escape.technique import Technique, load

TECHNIQUES = load()


#: What means nothing in a thread is no test there; its file says why.
PAIRS = [
    pytest.param(name, technique, id=f"{name}-{technique.key}")
    for name in chosen()
    for technique in TECHNIQUES
    if CONFIGURATIONS[name].isolation == "process" or technique.thread.outcome != "not run"
]


@pytest.fixture(scope="session")
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    """One supervisor under attack for each configuration."""
    configuration = CONFIGURATIONS[request.param]
    why = configuration.left_out()
    require("root" if "root" in why else "user", not why, why)
    with Judge(configuration) as judge:
        if judge.host is None:
            judge._renew()
        yield judge


@pytest.mark.leaks("a technique that takes its host over makes the judge replace it; the session's check sees the rest")
@pytest.mark.parametrize(("judge", "technique"), PAIRS, indirect=["judge"])
def test_technique(judge: Judge, technique: Technique) -> None:
    outcome = judge.attempt(technique)
    assert outcome.good, "\n".join(outcome.problems)


def test_the_threat_model_counts_every_family() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    counted = {name: int(count) for name, count in re.findall(r"`(\w+)` \((\d+)\)", text)}
    assert counted == collections.Counter(technique.group for technique in TECHNIQUES)
    assert f"{len(TECHNIQUES)} techniques in {len(counted)} families" in text


def test_there_are_enough_and_no_two_alike() -> None:
    assert len(TECHNIQUES) >= 200
    assert len({technique.key for technique in TECHNIQUES}) == len(TECHNIQUES)
    assert len({technique.title for technique in TECHNIQUES}) == len(TECHNIQUES)
    assert all(technique.source for technique in TECHNIQUES)
