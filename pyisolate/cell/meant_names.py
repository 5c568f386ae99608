"""The name that was probably meant, for what guests are shown of a NameError or AttributeError on CPython 3.11.

There the interpreter finds it while it prints the error of a script, in C alone (Python/suggestions.c); from 3.12 on
`traceback` does. The costs and bounds are the interpreter's, so that the same name comes out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

_MOVE, _CASE = 2, 1
_MOST_NAMES, _LONGEST = 750, 40


def did_you_mean(error: BaseException | None) -> str:
    """Return ". Did you mean: 'name'?", or "" where nothing is near or `traceback` itself says it."""
    if sys.version_info >= (3, 12) or not isinstance(error, (NameError, AttributeError)):
        return ""
    try:
        found = _meant(error)
    except BaseException:  # `dir` of a guest's object runs code of the guest
        return ""
    return "" if found is None else f". Did you mean: {found!r}?"


def _meant(error: NameError | AttributeError) -> str | None:
    name = error.name
    if type(name) is not str:
        return None
    if isinstance(error, AttributeError):
        return None if error.obj is None else nearest(name, dir(error.obj))
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    for names in (frame.f_code.co_varnames, frame.f_globals, frame.f_builtins):
        if (found := nearest(name, names)) is not None:
            return found
    return None


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of the names that takes the fewest changes to become `name`; None where all take many."""
    candidates = [one for one in names if type(one) is str and one != name]
    if len(candidates) >= _MOST_NAMES:
        return None
    best: str | None = None
    least = _MOVE * 2 * max(len(name), _MOST_NAMES)
    for one in candidates:
        most = min((len(name) + len(one) + 3) * _MOVE // 6, least - 1)
        if (cost := _distance(name, one, most)) <= most:
            best, least = one, cost
    return best


def _distance(a: str, b: str, most: int) -> int:
    """Return what it costs to turn one into the other, or more than `most`: a letter moved 2, a capital changed 1."""
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    if max(len(a), len(b)) > _LONGEST or abs(len(a) - len(b)) * _MOVE > most:
        return most + 1
    above = [column * _MOVE for column in range(len(b) + 1)]
    for row, letter in enumerate(a, start=1):
        line = [row * _MOVE]
        for column, other in enumerate(b, start=1):
            changed = 0 if letter == other else _CASE if letter.lower() == other.lower() else _MOVE
            line.append(min(above[column] + _MOVE, line[-1] + _MOVE, above[column - 1] + changed))
        above = line
    return above[-1]
