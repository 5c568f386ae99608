"""Run targets under atheris (libFuzzer, guided by coverage). An input that fails is saved, and printed.

python -m tests.fuzz TARGET... --seconds 60 [--work DIR] [--keep]

`--work` (default .cache/fuzz) holds what is found on the way, for the next run; `--keep` then puts the smallest inputs
that reach as much into tests/fuzz/corpus, which belongs to the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import atheris

with atheris.instrument_imports(include=["pyisolate", "tests.fuzz.targets"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
KEPT = HERE / "corpus"
#: Longest input, and the slowest that is no defect (seconds): a loaded machine is none.
MAX_BYTES, TOO_SLOW_S = 4096, 20
#: Longest input that is kept in the repository.
KEPT_BYTES = 1500


def arguments(name: str, seconds: int, work: Path) -> list[str]:
    """Return libFuzzer's arguments; prepares its folders."""
    target = TARGETS[name]
    found, seeds = work / name, work / f"{name}.seeds"
    found.mkdir(parents=True, exist_ok=True)
    seeds.mkdir(exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (seeds / str(number)).write_bytes(seed)
    options = {
        "max_total_time": seconds, "max_len": MAX_BYTES, "timeout": TOO_SLOW_S, "rss_limit_mb": 2048,
        "artifact_prefix": f"{work}/{name}.", "print_final_stats": 1,
    }  # fmt: skip
    if target.words:
        dictionary = work / f"{name}.dict"
        quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        dictionary.write_text("".join(f'"{word}"\n' for word in quoted))
        options["dict"] = str(dictionary)
    return [*(f"-{key}={value}" for key, value in options.items()), *map(str, (found, seeds, KEPT / name))]


def keep(name: str, work: Path) -> None:
    """Choose into the kept corpus, smallest first, each input that takes a step no other takes."""
    check = TARGETS[name].check
    candidates = {path.read_bytes() for folder in (KEPT / name, work / name) for path in folder.iterdir()}
    seen: set[tuple[str, int, int]] = set()
    for path in (KEPT / name).iterdir():
        path.unlink()
    for data in sorted(candidates, key=lambda one: (len(one), one)):
        if len(data) <= KEPT_BYTES and not (steps := _steps(check, data)) <= seen:
            seen |= steps
            (KEPT / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _steps(check: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int]]:
    """Return the pairs of lines that one input makes follow each other in the package."""
    steps = set()

    def enter(frame: FrameType, _event: str, _value: object) -> Callable[[FrameType, str, object], Any] | None:
        path, last = frame.f_code.co_filename, frame.f_lineno
        if "/pyisolate/" not in path:
            return None

        def line(frame: FrameType, event: str, _value: object) -> Any:
            nonlocal last
            if event == "line":
                steps.add((path, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    sys.settrace(enter)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return steps


def fuzz(name: str, seconds: int, work: Path) -> None:
    """Look for inputs that fail, and end with the status that says whether there was one."""
    atheris.Setup([sys.argv[0], *arguments(name, seconds, work)], TARGETS[name].check)
    atheris.Fuzz()


def in_turn(names: list[str], seconds: int, work: Path) -> int:
    """Fuzz each in a fork of this process: to instrument the package takes seconds. Return how many failed."""
    failed = 0
    for name in names:
        print(f"-- {name}", flush=True)
        if (pid := os.fork()) == 0:
            os.dup2(1, 2)  # where its name stands
            fuzz(name, seconds, work)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        failed += status != 0
        print(f"-- {name} ended with {status}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="of each")
    parser.add_argument("--work", type=Path, default=HERE.parent.parent / ".cache/fuzz")
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    if not chosen.keep:
        return min(in_turn(chosen.targets, chosen.seconds, chosen.work), 1)
    for name in chosen.targets:
        (KEPT / name).mkdir(parents=True, exist_ok=True)
        keep(name, chosen.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
