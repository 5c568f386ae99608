"""No technique gets out of a sandbox, each leaves its event, and each would work where nothing forbids it."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator

import pytest

from tests.escape.configurations import CONFIGURATIONS, ROOT, chosen
from tests.escape.harness import Judge
from tests.escape.technique import Technique, load
from tests.require import require

TECHNIQUES = load()


#: What means nothing in a thread is no test there; its file says why.
PAIRS = [
    pytest.param(name, technique, id=f"{name}-{technique.key}")
    for name in chosen()
    for technique in TECHNIQUES
    if CONFIGURATIONS[name].isolation == "process" or technique.thread.outcome != "not run"
]


class Judges:
    """One supervisor under attack at a time: a fixture with parameters would be made anew for every technique."""

    def __init__(self) -> None:
        self._judge: Judge | None = None

    def of(self, name: str) -> Judge:
        """Return the judge of a configuration, closing that of the one before."""
        if self._judge is None or self._judge.configuration.name != name:
            self.close()
            configuration = CONFIGURATIONS[name]
            why = configuration.left_out()
            require("root" if "root" in why else "user", not why, why)
            self._judge = Judge(configuration)
            self._judge.__enter__()
        return self._judge

    def close(self) -> None:
        """End what runs."""
        if self._judge is not None:
            self._judge.__exit__()
            self._judge = None


@pytest.fixture(scope="session")
def judges() -> Iterator[Judges]:
    found = Judges()
    yield found
    found.close()


@pytest.mark.leaks("a technique that takes its host over makes the judge replace it; the session's check sees the rest")
@pytest.mark.parametrize(("name", "technique"), PAIRS)
def test_technique(judges: Judges, name: str, technique: Technique) -> None:
    outcome = judges.of(name).attempt(technique)
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
