"""What one frame of `pyisolate top` is drawn from."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ...native.threads import Thread
from ..event_source import Filter, Reading, newest_and_following, read_metrics, scrape

if TYPE_CHECKING:
    from ...telemetry.event import DenialEvent

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
            Thread(target=self._follow, args=(log,)).start()

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
