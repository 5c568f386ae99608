"""Printing outcomes as a table that fits a terminal, notes below the line they belong to."""

from __future__ import annotations

from .figures import Figure, Outcome

_HEADINGS = ("what", "figure", "samples", "compared with", "ratio", "budget", "verdict")
_SCALES = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")), "B": ((1e6, "MB"), (1e3, "kB"), (1, "B"))}


def quantity(value: float, unit: str) -> str:
    """Return a value with a unit of a readable size."""
    for size, name in _SCALES.get(unit, ()):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}" if value / size < 1000 else f"{value / size:.0f} {name}"
    if unit in _SCALES:
        return f"{value:.3g} {unit}"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}") + (f" {unit}" if unit else "")


def ratio_text(ratio: float | None) -> str:
    """Return a ratio as `1/87` below a fifth, else as a factor."""
    if ratio is None:
        return ""
    return f"1/{1 / ratio:.1f}" if 0 < ratio < 0.2 else f"{ratio:.3f}x" if ratio < 1.1 else f"{ratio:.2f}x"


def _cells(figure: Figure) -> tuple[str, ...]:
    against = (
        "" if figure.reference is None else f"{figure.reference.what}: {quantity(figure.reference.value, figure.unit)}"
    )
    verdict = {True: "met", False: "MISSED", None: "unclear"}[figure.met] if figure.budget else ""
    value = quantity(figure.value, figure.unit)
    return (figure.what, value, figure.spread, against, ratio_text(figure.ratio), figure.budget, verdict)


def render(outcomes: dict[str, Outcome]) -> str:
    """Return the whole table, then what was left out and the count of budgets."""
    rows = {name: [_cells(figure) for figure in outcome.figures] for name, outcome in outcomes.items()}
    every = [_HEADINGS, *(row for group in rows.values() for row in group)]
    widths = [max(len(row[column]) for row in every) for column in range(len(_HEADINGS))]
    lines = [_line(_HEADINGS, widths), "  ".join("-" * width for width in widths)]
    for name, group in rows.items():
        for row, figure in zip(group, outcomes[name].figures, strict=True):
            lines.append(_line(row, widths))
            lines += [f"    {text}" for text in figure.note.splitlines()]
    lines += [f"not run: {skipped.what}: {skipped.why}" for outcome in outcomes.values() for skipped in outcome.skipped]
    judged = [figure for outcome in outcomes.values() for figure in outcome.figures if figure.budget]
    counts = {
        verdict: [figure.what.strip() for figure in judged if figure.met is verdict] for verdict in (True, False, None)
    }
    lines.append(f"budgets: {len(counts[True])} met")
    if counts[False]:
        lines.append(f"         {len(counts[False])} missed: {'; '.join(counts[False])}")
    if counts[None]:
        lines.append(f"         {len(counts[None])} unclear, the machine is too noisy: {'; '.join(counts[None])}")
    return "\n".join(lines)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
