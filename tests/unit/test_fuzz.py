"""Every parser of what others write, on kept inputs and on those that a coverage-guided fuzzer makes of them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable
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


def fuzz(names: Iterable[str], seconds: float, work: Path) -> dict[str, tuple[str, str]]:
    """Run atheris in a process of its own; return of each target its status, and what was printed."""
    require("atheris", importlib.util.find_spec("atheris") is not None, "pip install atheris")
    command = [sys.executable, "-m", "tests.fuzz", *names, "--seconds", str(max(1, int(seconds))), "--work", str(work)]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=TESTS.parent, env=env, capture_output=True, text=True, errors="replace", check=False
    )
    told = re.findall(r"^-- (\w+)\n(.*?)^-- \1 ended with (-?\d+)$", done.stdout, re.MULTILINE | re.DOTALL)
    assert [name for name, _, _ in told] == list(names), done.stdout[-3000:] + done.stderr[-3000:]
    return {name: (status, said) for name, said, status in told}


def check_found_nothing(name: str, fuzzed: dict[str, tuple[str, str]], work: Path) -> None:
    """Show what was found of one target; it stays in `work`."""
    status, said = fuzzed[name]
    statistics = [line for line in said.splitlines() if line.startswith(("stat::", "Done", "#"))]
    print("\n".join(statistics[-12:]))
    assert any(line.startswith("Done") for line in statistics), said[-3000:]
    failing = [path for path in work.glob(f"{name}.*-*") if path.is_file()]
    shown = [f"{path}: {path.read_bytes()[:2000]!r}" for path in failing]
    assert status == "0", "\n".join([*shown, said[-3000:]])
    assert not shown


@pytest.fixture(scope="module")
def shortly(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, tuple[str, str]], Path]:
    """All targets for a moment each, by one process: half of such a run is spent on instrumenting the package."""
    work = tmp_path_factory.mktemp("fuzz")
    return fuzz(TARGETS, SHORT_S, work), work


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_while(name: str, shortly: tuple[dict[str, tuple[str, str]], Path]) -> None:
    check_found_nothing(name, *shortly)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_for_as_long_as_asked(name: str, fuzz_seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    work = TESTS.parent / ".cache/fuzz"
    work.mkdir(parents=True, exist_ok=True)
    with capsys.disabled():
        print(f"\n{name}, {fuzz_seconds:.0f} s:", flush=True)
        check_found_nothing(name, fuzz([name], fuzz_seconds, work), work)
