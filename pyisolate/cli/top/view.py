"""One frame of `top`, for a terminal of any size from 60 columns and 16 lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..terminal import bytes_text, refused_by

if TYPE_CHECKING:
    from .state import Watch

#: Lines that the header, the panels' borders and their table headings take.
_HEADER_LINES = 3
_FRAME_LINES = 3
_NARROW = 100


def draw(watch: Watch, size: Any) -> RenderableType:
    """Return the whole frame: a header, policies and capabilities side by side, the last refusals below."""
    width, height = size
    body = max(8, height - _HEADER_LINES)
    upper = max(5, body // 2)
    lower = body - upper
    layout = Layout(size=height)
    layout.split_column(
        Layout(_header(watch, width), size=_HEADER_LINES),
        Layout(name="upper", size=upper),
        Layout(_refusals(watch, lower - _FRAME_LINES, width), size=lower),
    )
    layout["upper"].split_row(
        Layout(_policies(watch, upper - _FRAME_LINES), ratio=1),
        Layout(_capabilities(watch, upper - _FRAME_LINES, width // 2), ratio=1),
    )
    return layout


def _header(watch: Watch, width: int) -> RenderableType:
    now = watch.now
    total = sum(now.denials.values())
    before = None if watch.before is None else sum(watch.before.denials.values())
    states: dict[str, int] = {}
    for (isolation, state), count in now.sandboxes.items():
        key = state if isolation == "process" else f"{state} ({isolation})"
        states[key] = states.get(key, 0) + int(count)
    order = sorted(states, key=lambda state: (not state.startswith("running"), state))
    words = ", ".join(f"{states[state]} {state}" for state in order if states[state]) or "none"
    first = Text.assemble(
        ("pyisolate top", "bold"),
        f"  {time.strftime('%H:%M:%S')}  sandboxes ",
        (words, "bold cyan"),
        overflow="ellipsis",
    )
    first.append(f"  memory {bytes_text(sum(now.memory.values()))}")
    second = Text.assemble("refused ", (f"{total:.0f}", "bold red"), f" ({_rate(watch.rate(total, before))})")
    second.append(f"  ended {sum(now.exits.values()):.0f}  events lost {now.lost:.0f}")
    if now.alerts:
        second.append(f"  ALERT {', '.join(now.alerts)}", style="bold white on red")
    third = (
        Text(watch.problem, style="bold yellow") if watch.problem else Text(watch.url or watch.log or "", style="dim")
    )
    for line in (first, second, third):
        line.truncate(width, overflow="ellipsis")
    return Group(first, second, third)


def _policies(watch: Watch, rows: int) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    table.add_column("policy", overflow="ellipsis", no_wrap=True, ratio=1)
    for name in ("memory", "cpu", "refused"):
        table.add_column(name, justify="right", no_wrap=True)
    now, denials = watch.now, watch.now.by(2)
    names = sorted({*now.memory, *now.cpu, *denials}, key=lambda name: (-now.memory.get(name, 0), name))
    for name in names[: max(0, rows)]:
        used = now.cpu.get(name, 0.0)
        rate = watch.rate(used, None if watch.before is None else watch.before.cpu.get(name))
        cpu = f"{used:.1f} s" if rate is None else f"{rate * 100:.0f} %"
        table.add_row(Text(name), bytes_text(now.memory.get(name)), cpu, f"{denials.get(name, 0):.0f}")
    return Panel(table, title="policies", title_align="left", border_style="dim")


def _capabilities(watch: Watch, rows: int, width: int) -> RenderableType:
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    table.add_column("capability", no_wrap=True, overflow="ellipsis")
    table.add_column("refused", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    bar = max(0, width - 42)
    if bar >= 5:
        table.add_column("", no_wrap=True, width=bar)
    sums = watch.now.by(0)
    before = None if watch.before is None else watch.before.by(0)
    most = max(sums.values(), default=0) or 1
    for name, value in sorted(sums.items(), key=lambda item: (-item[1], item[0]))[: max(0, rows)]:
        rate = watch.rate(value, None if before is None else before.get(name, 0.0))
        cells: list[RenderableType] = [Text(name), f"{value:.0f}", _rate(rate)]
        if bar >= 5:
            cells.append(Text("█" * max(1, round(bar * value / most)), style="red"))
        table.add_row(*cells)
    return Panel(table, title="refused by capability", title_align="left", border_style="dim")


def _refusals(watch: Watch, rows: int, width: int) -> RenderableType:
    title = "last refusals"
    if watch.log is None:
        text = Text("name the audit log (--audit-log FILE) to see what was refused", style="dim")
        return Panel(text, title=title, title_align="left", border_style="dim")
    table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
    wide = width >= _NARROW
    table.add_column("time", no_wrap=True)
    table.add_column("sandbox", no_wrap=True, overflow="ellipsis", max_width=24 if wide else 14)
    table.add_column("capability", no_wrap=True)
    table.add_column("target", no_wrap=True, overflow="ellipsis", ratio=1)
    if wide:
        table.add_column("refused by", no_wrap=True, overflow="ellipsis", max_width=28)
        table.add_column("code", no_wrap=True)
    table.add_column("x", justify="right", no_wrap=True)
    for event in list(watch.refusals)[::-1][: max(0, rows)]:
        cells = [
            Text(time.strftime("%H:%M:%S", time.localtime(event.time))),
            Text(event.sandbox),
            Text(event.capability, style="yellow" if event.would_deny else "red"),
            Text(event.target),
        ]
        if wide:
            cells += [Text(refused_by(event)), Text(event.code)]
        table.add_row(*cells, str(event.count))
    return Panel(table, title=title, title_align="left", border_style="dim")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}/s"
