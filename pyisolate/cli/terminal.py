"""What all commands print with: the two consoles, errors with their hint, and denials as rows of a table."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import SandboxError

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent

#: Columns of what is no terminal: wider than any row.
_WIDE = 1 << 14
#: Colour of a verdict or status; everything else is plain.
STYLES = {
    "deny": "bold red",
    "would_deny": "yellow",
    "allow": "green",
    "unavailable": "dim",
    "not_consulted": "magenta",
    "not_reached": "dim",
}


class _Piped:
    """A stream for programs and files: no blanks at the end of a line, which pad a table's last column."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        lines = text.split("\n")
        self._stream.write("\n".join([*(line.rstrip(" ") for line in lines[:-1]), lines[-1]]))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def stdout() -> Console:
    """Return a console for results; made per call, because tests and pipes replace the stream.

    Where stdout is no terminal a row of a table stays one line, as `grep` and `cut` take it, unless COLUMNS says how
    wide it is.
    """
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(file=cast(TextIO, _Piped(sys.stdout)), highlight=False, soft_wrap=False, width=_WIDE)


def frame_stdout() -> Console:
    """Return a console for what fills a screen, also where stdout is none."""
    return Console(file=sys.stdout, highlight=False)


def live_stdout() -> Console:
    """Return a console that follows the terminal's size: COLUMNS and LINES would pin it to what it was at the start."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return Console(file=sys.stdout, highlight=False, _environ=environment)


def stderr() -> Console:
    """Return a console for what is said about the run."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def progress(text: str) -> contextlib.AbstractContextManager[object]:
    """Say on stderr what takes its time, while it does; nothing where that is no terminal."""
    console = stderr()
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


def fail(error: BaseException | str, status: int) -> NoReturn:
    """Print an error on stderr, its hint on a line of its own, and exit."""
    complain(error)
    raise SystemExit(status)


def complain(error: BaseException | str) -> None:
    """Print an error on stderr, its hint on a line of its own."""
    console = stderr()
    text, hint = (error.summary, error.hint) if isinstance(error, SandboxError) else (str(error), None)
    console.print(Text.assemble(("pyisolate: ", "bold red"), text))
    if hint:
        console.print(Text.assemble(("  hint: ", "bold"), hint))


def show_trace(error: BaseException) -> None:
    """Print the guest's traceback on stderr, where a line of the guest's ran (`-m` of a refused module has none)."""
    trace = getattr(error, "traceback", "")
    if "\n  File " in trace:
        click.echo(trace.rstrip(), err=True)


class Failure(click.ClickException):
    """An error that a command ends with, printed as all of them are."""

    def show(self, file: Any = None) -> None:
        """Print it on stderr."""
        complain(self.message)


def verdict(word: Any) -> Text:
    """Return a verdict in its colour."""
    return Text(str(word), style=STYLES.get(str(word), ""))


def refused_by(event: DenialEvent) -> str:
    """Return the layers that refused: `broker`, `kernel (landlock)` or both."""
    layers = []
    if event.broker_decision in ("deny", "would_deny"):
        layers.append("broker")
    if event.kernel_decision in ("deny", "would_deny"):
        layers.append(event.kernel_enforcer or "kernel")
    return " + ".join(layers) or "none"


def suggestion_text(suggestion: Mapping[str, Any] | None) -> str:
    """Return a suggestion as one line of a policy file, or why there is none."""
    if suggestion is None:
        return "-"
    import yaml

    lines = []
    for key, value in suggestion.items():
        flow = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False, allow_unicode=True)
        lines.append(f"{key}: {flow.strip()}")
    return "; ".join(lines)


def denial_table(events: Iterable[DenialEvent], *, title: str | None = None) -> Table:
    """Return refusals as a table: capability, target, refused by, where, count."""
    table = Table(title=title, box=None, pad_edge=False, title_justify="left", header_style="bold")
    table.add_column("capability", no_wrap=True)
    table.add_column("target", overflow="fold")
    table.add_column("refused by", overflow="fold")
    table.add_column("code", overflow="fold")
    table.add_column("where", overflow="fold")
    table.add_column("count", justify="right")
    for event in events:
        table.add_row(
            Text(event.capability),
            Text(event.target),
            Text(refused_by(event), style="yellow" if event.would_deny else "red"),
            Text(event.code),
            Text(event.origin or ""),
            str(event.count),
        )
    return table


def bytes_text(size: float | None) -> str:
    """Return a size for people: 1.5 MiB."""
    if size is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
