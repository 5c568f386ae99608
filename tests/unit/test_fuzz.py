"""Every parser of what others write, on kept inputs and on those that a coverage-guided fuzzer makes of them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.require import require

TESTS = Path(__file__).resolve().parent.parent
CORPUS = TESTS / "fuzz/corpus"
SHORT_S = 1


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before(name: str) -> None:
    """Seeds, the kept corpus, and every input that once failed (it is kept there too)."""
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    for data in (*TARGETS[name].seeds, *(path.read_bytes() for path in kept)):
        TARGETS[name].check(data)


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000


@pytest.mark.parametrize("name", TARGETS)
def test_mixtures_of_seeds_and_words(name: str) -> None:
    target = TARGETS[name]
    pieces = st.sampled_from([*target.seeds, *target.words]) | st.binary(max_size=12)

    @given(st.sampled_from(target.seeds), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 9), pieces)))
    @settings(max_examples=60, database=None)
    def check(seed: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        for place, length, piece in changes:
            place %= len(seed) + 1
            seed = seed[:place] + piece + seed[place + length :]
        target.check(seed)

    check()


def fuzz(name: str, seconds: float, work: Path) -> None:
    """Run atheris in a process of its own; what it found stays in `work`, and is shown here."""
    require("atheris", importlib.util.find_spec("atheris") is not None, "pip install atheris")
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(max(1, int(seconds))), "--work", str(work)]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=TESTS.parent, env=env, capture_output=True, text=True, errors="replace", check=False
    )
    statistics = [line for line in done.stderr.splitlines() if line.startswith(("stat::", "Done", "#"))]
    print("\n".join(statistics[-12:]))
    failing = [path for path in work.glob(f"{name}.*-*") if path.is_file()]
    shown = [f"{path}: {path.read_bytes()[:2000]!r}" for path in failing]
    assert done.returncode == 0, "\n".join([*shown, done.stdout[-3000:], done.stderr[-3000:]])
    assert not shown


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_while(name: str, tmp_path: Path) -> None:
    fuzz(name, SHORT_S, tmp_path)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_for_as_long_as_asked(name: str, fuzz_seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    work = TESTS.parent / ".cache/fuzz"
    work.mkdir(parents=True, exist_ok=True)
    with capsys.disabled():
        print(f"\n{name}, {fuzz_seconds:.0f} s:", flush=True)
        fuzz(name, fuzz_seconds, work)
