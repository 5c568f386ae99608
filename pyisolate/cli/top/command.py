"""`pyisolate top`: sandboxes, processor time, memory, refusals by capability and the last refusals, live.

Figures come from the `/metrics` that a supervisor serves (`pyisolate.serve_metrics()`), names and targets from the
audit log: metrics carry neither, by design.
"""

from __future__ import annotations

import contextlib
import select
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from ..exit_status import FOUND
from .state import DEFAULT_URL, Watch


@click.command()
@click.option("--url", default=None, metavar="URL", help=f"A supervisor's metrics (default: {DEFAULT_URL}).")
@click.option("--audit-log", "log", metavar="FILE", envvar="PYISOLATE_AUDIT_LOG", help="Its audit log, for the last "
              "refusals (default: PYISOLATE_AUDIT_LOG).")  # fmt: skip
@click.option("-i", "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, metavar="SECONDS")
@click.option("-n", "--count", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
@click.option("--once", is_flag=True, help="Print one frame and stop; also when stdout is no terminal.")
def top(url: str | None, log: str | None, interval: float, count: int | None, once: bool) -> None:
    """Watch sandboxes and refusals live. q or Ctrl-C ends it.

    The supervisor must serve its metrics (pyisolate.serve_metrics(), or `run --metrics-port`). With only an audit log,
    pass --url ''.
    """
    from ..terminal import frame_stdout, live_stdout

    watch = Watch(DEFAULT_URL if url is None else (url or None), log)
    console = frame_stdout() if once else live_stdout()
    if once or not console.is_terminal:
        _once(console, watch)
        return
    from rich.live import Live

    from .view import draw

    watch.refresh()
    with (
        _keys() as pressed,
        contextlib.suppress(KeyboardInterrupt),
        Live(draw(watch, console.size), console=console, screen=True, auto_refresh=False) as live,
    ):
        frames = 1
        while count is None or frames < count:
            if pressed(interval):
                return
            watch.refresh()
            live.update(draw(watch, console.size), refresh=True)
            frames += 1
        pressed(interval)


def _once(console: Any, watch: Watch) -> None:
    from .view import draw

    watch.refresh()
    if watch.log is not None:
        time.sleep(0.3)  # the follower's first reading
    if watch.problem and watch.url is not None and not watch.now.time:
        click.echo(f"pyisolate: {watch.problem}", err=True)
        click.echo("  hint: the supervisor must call pyisolate.serve_metrics(); or name another --url", err=True)
        raise SystemExit(FOUND)
    console.print(draw(watch, console.size))


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Yield a function that waits some seconds and tells whether q was pressed."""
    if not sys.stdin.isatty():
        yield lambda seconds: time.sleep(seconds)
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([descriptor], [], [], left)
            if ready and sys.stdin.read(1) in ("q", "Q", "\x03", ""):
                return True
        return False

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
