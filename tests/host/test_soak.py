"""Many sandboxes one after the other: descriptors, memory and processes stay flat, and no refusal is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import hostile, soaking

#: `make soak` runs this many; the short form is for each `make test`.
SANDBOXES = int(os.environ.get("PYISOLATE_SOAK_SANDBOXES", "20000"))
SHORT = 1500


def test_a_short_soak_stays_flat_and_loses_nothing(tmp_path: Path) -> None:
    readings, account = soaking.work(SHORT, 5, tmp_path / "audit.jsonl")
    account.check()
    assert account.suppressed > 0
    assert account.store_lost > 0
    soaking.check_flat(readings[1:], growth_bytes=16 << 20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_thousand_sandboxes_stay_flat_and_lose_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    log("")
    readings, account = soaking.work(SANDBOXES, 20, tmp_path / "audit.jsonl", log)
    log(str(account))
    account.check()
    # By the half, the bounded memories of what ended are full: 20,000 events, 10,000 names.
    soaking.check_flat(readings[1:], growth_bytes=64 << 20)
    soaking.check_flat(readings[10:], growth_bytes=8 << 20)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_four_hostile_guests_cost_twenty_honest_ones_at_most_twice_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def log(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    log("")
    alone, beside = hostile.measure(seconds=3.0, turns=5, log=log)
    assert hostile.ratio(alone, beside) <= hostile.WORST
    # The first turn warms caches.
    assert alone[-1].rss_bytes - alone[1].rss_bytes < 8 << 20
    assert alone[-1].descriptors <= alone[1].descriptors
