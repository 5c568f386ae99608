"""The metrics of all processes of one service as one: in files, as prometheus-client's multi-process mode reads them.

With `PROMETHEUS_MULTIPROC_DIR` set, each process adds what it counts to a mapped file of that directory at once, and
nothing is lost when it dies, of whatever. A process holds a lock on its files while it lives. The next one goes on in
the file of a dead one, so that there are never more files than processes lived at a time. Gauges have files of their
own, are written every few seconds, and go once their process is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from .counters import Family, Labels

_log = logging.getLogger("pyisolate.telemetry")
#: prometheus-client's, which have no types
_open_mapped: Any = MmapedDict
_merge: Any = MultiProcessCollector.merge

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: Reserved on the disk at once: a mapped file that the disk has no room for kills its process (SIGBUS, mmap(2)).
_RESERVED_BYTES = 1 << 20
_TRIES = 10
#: Gauges of which one process's value is enough; all others are sums over the processes.
_GREATEST = ("pyisolate_alert_active", "pyisolate_build_info", "pyisolate_enforcement_info")


class _File:
    """One mapped file of samples, locked while this process uses it."""

    def __init__(self, path: str) -> None:
        """Open or make it. Raises BlockingIOError where a living process has it, OSError where it cannot be had."""
        self.path = path
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._lock), os.stat(path, follow_symlinks=False)):
                raise BlockingIOError("it was removed while it was opened")
            if os.fstat(self._lock).st_size == 0:
                os.posix_fallocate(self._lock, 0, _RESERVED_BYTES)
            self._samples = _open_mapped(path)
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, key: str, amount: float) -> None:
        value, _ = self._samples.read_value(key)
        self._samples.write_value(key, value + amount, time.time())

    def put(self, key: str, value: float) -> None:
        self._samples.write_value(key, value, time.time())

    def close(self) -> None:
        """Let go of it. Of a forked child's copies: the lock stays the parent's."""
        self._samples.close()
        os.close(self._lock)


class SharedMetrics:
    """What this process adds to the directory, and the sums over all that is there. Thread-safe; never raises.

    Where the directory cannot be used, that is logged, and `broken` is true from then on.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.broken = False
        self._files: dict[str, _File] = {}
        self.renew_after_fork()

    def close(self) -> None:
        """Let the files go: their gauges end, and their counts are the next process's to go on with."""
        with self._lock:
            self._close_files()

    def _close_files(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            with contextlib.suppress(OSError, BufferError):
                file.close()

    def renew_after_fork(self) -> None:
        """Begin files of this process's own; those of the parent stay the parent's."""
        self._close_files()
        self._lock = threading.Lock()
        self._gauges: dict[tuple[str, str], float] = {}
        self._sums: dict[str, float] = {}

    def add(self, family: Family, sample: str, labels: Labels, amount: float, le: str | None = None) -> None:
        """Add to one sample of a counter or histogram (`le`: of this bucket)."""
        names, values = family.labels, labels
        if le is not None:
            names, values = (*names, "le"), (*values, le)
        key = mmap_key(family.name, sample, list(names), list(values), family.documentation)
        with self._lock, self._failing_once():
            if not self.broken:
                self._file(family.kind).add(key, amount)

    def publish(self, families: Iterable[Metric], totals: Iterable[str]) -> None:
        """Write the gauges among the families, and of the counters named in `totals` what was added since."""
        with self._lock, self._failing_once():
            if not self.broken:
                self._publish(families, frozenset(totals))

    def _publish(self, families: Iterable[Metric], totals: frozenset[str]) -> None:
        self._remove_dead()
        shown: dict[tuple[str, str], float] = {}
        for family in families:
            if family.type == "gauge":
                mode = "livemax" if family.name in _GREATEST else "livesum"
                shown |= {(f"gauge_{mode}", key): value for key, value in _samples(family)}
            elif family.name in totals:
                for key, value in _samples(family):
                    self._file("counter").add(key, value - self._sums.get(key, 0.0))
                    self._sums[key] = value
        for gone in self._gauges.keys() - shown.keys():
            shown[gone] = 0.0
        for (kind, key), value in shown.items():
            self._file(kind).put(key, value)
        self._gauges = shown

    def collect(self) -> Iterator[Metric]:
        """Return pyisolate's metrics over all processes, those that have died included."""
        yield from _merge(self._paths("*"))

    @contextlib.contextmanager
    def _failing_once(self) -> Iterator[None]:
        """A refusal must not fail because others cannot see its count: log that, and stop."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            self.broken = True
            _log.error("%s, on %s: %s: this process shows its own metrics only", VARIABLE, self.directory, error)

    def _paths(self, kind: str) -> list[str]:
        return sorted(glob.glob(f"{glob.escape(self.directory)}/{kind}_pyisolate-*.db"))

    def _file(self, kind: str) -> _File:
        """Return this process's file: that of a dead process, whose counts go on, or a new one."""
        if kind not in self._files:
            self._files[kind] = self._of_dead_process(kind) or self._new(kind)
        return self._files[kind]

    def _of_dead_process(self, kind: str) -> _File | None:
        for path in [] if kind.startswith("gauge") else self._paths(kind):
            with contextlib.suppress(OSError):  # its process lives, or it is another user's
                return _File(path)
        return None

    def _new(self, kind: str) -> _File:
        for _ in range(_TRIES):  # another process may find it before it is locked
            with contextlib.suppress(BlockingIOError):
                return _File(os.path.join(self.directory, f"{kind}_pyisolate-{os.urandom(8).hex()}.db"))
        raise BlockingIOError("other processes take every new file")

    def _remove_dead(self) -> None:
        """Remove the gauges of dead processes: their files are not locked."""
        mine = {file.path for file in self._files.values()}
        for path in self._paths("gauge_*"):
            if path not in mine:
                with contextlib.suppress(OSError):
                    _remove_unlocked(path)


def _remove_unlocked(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(descriptor)


def _samples(family: Metric) -> Iterator[tuple[str, float]]:
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = dict(sample.labels)
            yield (
                mmap_key(family.name, sample.name, list(labels), list(labels.values()), family.documentation),
                sample.value,
            )


def from_environment() -> SharedMetrics | None:
    """Return where this process shares its metrics, None where the environment names no directory."""
    directory = os.environ.get(VARIABLE)
    return SharedMetrics(os.path.abspath(directory)) if directory else None
