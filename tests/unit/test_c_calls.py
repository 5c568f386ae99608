"""`make house` sees C files that call each other in a circle."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = Path("pyisolate/native/src")

ABOVE = """
#include "both.h"
SHARED int above(struct below *it) /* below(); "below()" is no call either */
{
	return it->below + sizeof "below()";
}
"""
BELOW = """
#include "both.h"
static int
alone(void)
{
	return above(NULL);
}
SHARED int below(void)
{
	return alone();
}
"""
HEADER = "SHARED int above(struct below *it);\nSHARED int below(void);\n"


def circles_of(monkeypatch: pytest.MonkeyPatch, folder: Path, above: str) -> list[list[str]]:
    monkeypatch.setattr(sys, "path", [str(ROOT / ".make"), *sys.path])
    import c_calls
    import house

    (folder / SOURCES).mkdir(parents=True, exist_ok=True)
    for name, text in (("above.c", above), ("below.c", BELOW), ("both.h", HEADER)):
        (folder / SOURCES / name).write_text(text)
    return house.circles(c_calls.graph(folder))


def test_files_that_call_each_other_are_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not circles_of(monkeypatch, tmp_path, ABOVE)  # the control: one calls the other, and a header declares both
    called_back = ABOVE.replace("it->below", "it->below + below()")
    assert circles_of(monkeypatch, tmp_path, called_back) == [[str(SOURCES / name) for name in ("above.c", "below.c")]]
