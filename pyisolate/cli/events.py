"""`pyisolate events`: read the audit log of refusals: all of it, as it grows, or summed up."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .event_source import Filter, audit_path, matching, newest_and_following, parse_since
from .exit_status import FOUND

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent

_F = TypeVar("_F", bound=Callable[..., Any])


def _filters(function: _F) -> _F:
    for option, text in (
        ("--since", "Only events of this age or younger: 10m, 2h, 1d, or since an ISO time."),
        ("--target", "Only targets that match this pattern."),
        ("--code", "Only this code, such as NOT_GRANTED."),
        ("--policy", "Only this policy's events."),
        ("--sandbox", "Only this sandbox's events."),
        ("--capability", "Only these capabilities; a pattern such as 'fs.*'."),
    ):
        function = click.option(option, metavar="PATTERN" if option != "--since" else "TIME", help=text)(function)
    return function


def _filter(options: dict[str, Any]) -> Filter:
    since = parse_since(options.pop("since"))
    names = ("capability", "sandbox", "policy", "code", "target")
    return Filter(since=since, **{name: options.pop(name) for name in names})


def _vocabulary(function: _F) -> _F:
    text = "One JSON object a line in the words of OCSF or ECS, for a forwarder."
    return click.option("--as", "vocabulary", type=click.Choice(["ocsf", "ecs"]), help=text)(function)


@click.group()
def events() -> None:
    """Read the audit log of refusals.

    LOG is the file that an AuditLog (or `run --audit-log`, or PYISOLATE_AUDIT_LOG) writes; rotated files are read too.
    """


@events.command()
@click.argument("log", required=False)
@click.option("-n", "--last", type=int, metavar="N", help="Only the newest N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, as in the log.")
@_vocabulary
@click.option("-v", "--verbose", is_flag=True, help="Every field of every event.")
@_filters
def show(
    log: str | None, last: int | None, as_json: bool, vocabulary: str | None, verbose: bool, **options: Any
) -> None:
    """Print the events of LOG, oldest first."""
    from collections import deque

    wanted = _filter(options)
    found: Any = matching(_read(audit_path(log)), wanted)
    if last is not None:
        found = deque(found, maxlen=max(0, last))
    if as_json or vocabulary:
        for event in found:
            click.echo(_document(event, vocabulary))
        return
    from .terminal import stdout

    console = stdout()
    count = 0
    for event in found:
        count += 1
        for line in _details(event) if verbose else [_line(event)]:
            console.print(line, markup=False, soft_wrap=True)
    if not count:
        click.echo("pyisolate: no such events", err=True)


@events.command()
@click.argument("log", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@_vocabulary
@click.option("-n", "--last", type=int, default=10, show_default=True, metavar="N", help="Begin with the newest N.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS",
              help="End after this time without an event.")  # fmt: skip
@_filters
def tail(
    log: str | None, as_json: bool, vocabulary: str | None, last: int, timeout: float | None, **options: Any
) -> None:
    """Print the newest events of LOG, and then each new one as it comes, across rotations."""
    from .terminal import stdout

    wanted, console = _filter(options), stdout()
    try:
        for event in newest_and_following(audit_path(log), wanted, last, timeout):
            if as_json or vocabulary:
                click.echo(_document(event, vocabulary))
            else:
                console.print(_line(event), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        raise SystemExit(0) from None


@events.command()
@click.argument("log", required=False)
@click.option("--by", "keys", multiple=True, metavar="FIELD", help="Fields to count by (default: capability, code).")
@click.option("-n", "--top", "limit", type=int, default=20, show_default=True, metavar="N", help="Rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_filters
def stats(log: str | None, keys: tuple[str, ...], limit: int, as_json: bool, **options: Any) -> None:
    """Count the refusals of LOG, duplicates included."""
    from ..telemetry.event import DenialEvent

    fields = keys or ("capability", "code")
    for name in fields:
        if name not in DenialEvent.__struct_fields__:
            raise click.UsageError(f"--by {name}: events have no such field; see docs/protocol.md.")
    wanted = _filter(options)
    counts: Counter[tuple[str, ...]] = Counter()
    first = last = None
    would = 0
    for event in matching(_read(audit_path(log)), wanted):
        would += event.count if event.would_deny else 0
        counts[tuple(str(getattr(event, name)) for name in fields)] += event.count
        first, last = first or event.time, event.time
    if as_json:
        _stats_json(fields, counts, limit, first, last, would)
    else:
        _stats_table(fields, counts, limit, would)


def _stats_json(fields: tuple[str, ...], counts: Counter[Any], limit: int, first: Any, last: Any, would: int) -> None:
    import json

    rows = [{**dict(zip(fields, key, strict=True)), "count": count} for key, count in counts.most_common(limit)]
    totals = {"total": counts.total(), "would_deny": would, "first": first, "last": last}
    click.echo(json.dumps({**totals, "rows": rows}, indent=2))


def _stats_table(fields: tuple[str, ...], counts: Counter[Any], limit: int, would: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from .terminal import stdout

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in fields:
        table.add_column(name, overflow="fold")
    table.add_column("count", justify="right")
    for key, count in counts.most_common(limit):
        table.add_row(*(Text(part) for part in key), str(count))
    console = stdout()
    console.print(table)
    rest = len(counts) - limit
    more = f" ({rest} more rows: --top)" if rest > 0 else ""
    monitored = f", {would} would have been" if would else ""
    console.print(f"{counts.total() - would} operations refused{monitored}{more}", style="bold")


def _read(path: str) -> Any:
    from ..telemetry.sinks.audit_reader import read_events

    others = itertools.count()
    try:
        yield from read_events(path, on_other=lambda: next(others))
    except OSError as error:
        from .terminal import fail

        fail(error, FOUND)
    if number := next(others):
        click.echo(f"pyisolate: {path}: {number} line{'s are' if number > 1 else ' is'} no event", err=True)


def _document(event: DenialEvent, vocabulary: str | None) -> str:
    if vocabulary is None:
        return event.to_json()
    import json

    from ..telemetry import formats as mapping

    return json.dumps(mapping.to_ocsf(event) if vocabulary == "ocsf" else mapping.to_ecs(event))


def _line(event: DenialEvent) -> str:
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    word = "would deny" if event.would_deny else "denied"
    return f"{clock}  {event.sandbox}  {word}  {event}"


def _details(event: DenialEvent) -> list[str]:
    from .terminal import suggestion_text

    lines = [_line(event)]
    for key, value in event.to_dict().items():
        if value not in (None, "", False):
            text = suggestion_text(value) if key == "suggestion" else value
            lines.append(f"    {key}: {text}")
    return lines
