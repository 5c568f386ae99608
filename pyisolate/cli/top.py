"""`pyisolate top`: sandboxes, processor time, memory, refusals by capability and the last refusals, live.

Figures come from the `/metrics` that a supervisor serves (`pyisolate.serve_metrics()`), names and targets from the
audit log: metrics carry neither, by design.
"""

from __future__ import annotations

import contextlib
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from .exit_status import FOUND
from .sources import Filter, Reading, newest_and_following, read_metrics, scrape

if TYPE_CHECKING:
    from ..telemetry.event import DenialEvent

DEFAULT_URL = "http://127.0.0.1:9464/metrics"
#: Refusals kept for the last panel; a screen shows fewer.
_KEPT = 200


class Watch:
    """Everything that one frame is drawn from. `refresh` scrapes; the audit log is followed by a thread."""

    def __init__(self, url: str | None, log: str | None) -> None:
        self.url, self.log = url, log
        self.now = Reading()
        self.before: Reading | None = None
        self.problem = ""
        self.refusals: deque[DenialEvent] = deque(maxlen=_KEPT)
        if log is not None:
            threading.Thread(target=self._follow, args=(log,), daemon=True).start()

    def _follow(self, log: str) -> None:
        try:
            for event in newest_and_following(log, Filter(), _KEPT):
                self.refusals.append(event)
        except OSError as error:
            self.problem = f"audit log: {error}"

    def refresh(self) -> None:
        """Scrape once. A supervisor that is away is a message, not an end."""
        if self.url is None:
            return
        try:
            reading = read_metrics(scrape(self.url))
        except (OSError, ValueError) as error:
            self.problem = f"{self.url}: {getattr(error, 'reason', error)}"
            return
        self.before, self.now, self.problem = (self.now if self.now.time else None), reading, ""

    def rate(self, now: float, before: float | None) -> float | None:
        """Return the growth per second since the last scrape; None before there were two, or after a restart."""
        if self.before is None or before is None or now < before:
            return None
        passed = self.now.time - self.before.time
        return (now - before) / passed if passed > 0 else None


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
    from .terminal import live_stdout, stdout

    watch = Watch(DEFAULT_URL if url is None else (url or None), log)
    console = stdout() if once else live_stdout()
    if once or not console.is_terminal:
        _once(console, watch)
        return
    from rich.live import Live

    from .frame import draw

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
    from .frame import draw

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
