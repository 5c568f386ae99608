"""Sampling: sides that take turns, and the quantiles of what they took."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from statistics import median

Side = Callable[[], float]


def timed(action: Callable[[], object]) -> Side:
    """Return a side that measures one call of `action` (seconds)."""

    def side() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return side


def batch(action: Callable[[], object], count: int) -> Side:
    """Return a side that measures the mean of `count` calls (seconds)."""

    def side() -> float:
        started = time.perf_counter()
        for _ in range(count):
            action()
        return (time.perf_counter() - started) / count

    return side


def take_turns(rounds: int, *sides: Side) -> list[list[float]]:
    """Sample every side `rounds` times, in turns and in alternating order; return one list of samples per side."""
    samples: list[list[float]] = [[] for _ in sides]
    order = list(range(len(sides)))
    gc.collect()
    for _ in range(rounds):
        for index in order:
            samples[index].append(sides[index]())
        order.reverse()
    return samples


def quantile(samples: Sequence[float], fraction: float) -> float:
    """Return the sample below which `fraction` of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def spread(samples: Sequence[float], scale: float = 1e6, *, tail: bool = True) -> str:
    """Describe samples: least, p99 (or greatest where there are too few), and how many."""
    high = ("p99", quantile(samples, 0.99)) if tail and len(samples) >= 100 else ("max", max(samples))
    return f"min {min(samples) * scale:.4g}, {high[0]} {high[1] * scale:.4g}, n={len(samples)}"


__all__ = ["Side", "batch", "median", "quantile", "spread", "take_turns", "timed"]
