"""Denial reports, coalesced: the first of its kind at once, exact repeats as counts.

A guest that asks a million times for the same thing costs the host one frame per `WINDOW_NS`, and the counts stay
exact: each record's `count` is the denials it stands for that no earlier record did.
"""

from __future__ import annotations

import _thread
import logging
import time
from collections.abc import Callable, Hashable

from msgspec.structs import replace

from ..capability import CAPABILITY_NUMBER
from ..decision import Verdict
from ..records import REFUSALS, BrokerRecord
from ..telemetry.guest_records import escaped_record
from .interrupts import INTERRUPTS

_log = logging.getLogger("pyisolate.hooks")
#: How long repeats wait for company. Waiting repeats go out with the next operation after it, or at `flush`.
WINDOW_NS = 50_000_000
#: Kinds remembered at once; a guest that varies its targets beyond this reports each denial singly.
_KINDS = 64


class Coalescer:
    """Sits before `report`, which gets records fit for a frame (`escaped_record`).

    Thread-safe; `report` is called with the lock held, so records stay in order. `note` counts each refusal, before it
    is reported or waits, where the host sees it: a guest may end before it can report it (`native.audit.note_refusal`).
    """

    def __init__(
        self,
        report: Callable[[BrokerRecord], None],
        clock: Callable[[], int] = time.monotonic_ns,
        note: Callable[[int], None] | None = None,
    ) -> None:
        self._report, self._clock, self._note = report, clock, note
        self._lock = _thread.RLock()
        self._kinds: dict[Hashable, tuple[BrokerRecord, int]] = {}
        self._opened_ns = 0
        #: True while repeats wait; read without the lock on the hot path
        self.waiting = False
        #: Records that `report` could not deliver
        self.lost = 0

    def add(self, kind: Hashable, record: BrokerRecord) -> None:
        """Report a record, or count it as a repeat of its kind."""
        with INTERRUPTS, self._lock:
            if record.monotonic_ns - self._opened_ns >= WINDOW_NS:
                self._send_repeats()
                self._opened_ns = record.monotonic_ns
            self._note_refusal(record)
            known = self._kinds.get(kind)
            if known is not None:
                self._kinds[kind] = (record, known[1] + 1)
                self.waiting = True
                return
            if len(self._kinds) >= _KINDS:
                self._send_repeats()
                self._kinds.clear()
            self._kinds[kind] = (record, 0)
            self._deliver(record)

    def tick(self) -> None:
        """Send repeats that have waited for a window."""
        if self.waiting and self._clock() - self._opened_ns >= WINDOW_NS:
            self.flush()

    def flush(self) -> None:
        """Send every waiting repeat now."""
        if not self._kinds:
            return
        with INTERRUPTS, self._lock:
            self._send_repeats()

    def forget(self) -> None:
        """Drop what waits, and the lock that another thread may have held: for a forked child."""
        self._lock = _thread.RLock()
        self._kinds.clear()
        self.waiting = False

    def _send_repeats(self) -> None:
        self.waiting = False
        kept: dict[Hashable, tuple[BrokerRecord, int]] = {}
        waiting, self._kinds = self._kinds, kept
        for kind, (record, count) in waiting.items():
            if count:
                kept[kind] = (record, 0)  # still under way: its next repeats wait again
                self._deliver(replace(record, count=count))

    def _note_refusal(self, record: BrokerRecord) -> None:
        if self._note is not None and record.verdict in REFUSALS and not record.shadow:
            self._note(2 * CAPABILITY_NUMBER[record.capability] + (record.verdict is Verdict.WOULD_DENY))

    def _deliver(self, record: BrokerRecord) -> None:
        try:
            self._report(escaped_record(record))
        except Exception:  # a report that fails never masks or delays the refusal
            self.lost += record.count
            _log.warning("denial report failed: %s", record.capability, exc_info=True)
