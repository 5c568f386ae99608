"""What a zygote's cells make lies together: the holes between what it has in use are filled."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Leaves holes, one after each object that stays: small objects, which CPython places, and larger ones, which the C
#: library places. Prints over how many pages 32 new ones of each size are strewn.
_PROGRAM = """
import sys
from pyisolate.native import holes
SIZES = (40, 200, 480, 700, 2000)
made = [bytes(size) for size in SIZES for _ in range(4000)]
kept = made[::2]
del made
if sys.argv[1] == "filled":
    holes.fill()
for size in SIZES:
    new = [bytes(size) for _ in range(32)]
    print(len({id(one) >> 12 for one in new}))
"""


def _pages(how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_what_is_made_after_it_lies_together() -> None:
    assert _pages("filled") == [pytest.approx(size * 32 / 4096 + 1, abs=1.5) for size in (40, 200, 480, 740, 2040)]


def test_what_is_made_without_it_is_strewn() -> None:
    """The control: 32 objects, each in a hole, lie on twice the pages at least."""
    strewn, together = _pages("left"), _pages("filled")
    assert [a > 1.6 * b for a, b in zip(strewn, together, strict=True)] == [True] * len(strewn)
