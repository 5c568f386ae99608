"""The audit log: every line that was written is whole, and no torn line is ever read back as an event."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.errors import SandboxError
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog, backups_of
from pyisolate.telemetry.sinks.audit_reader import follow_events, parse_line, read_events
from tests.telemetry_events import event


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    made = AuditLog(path, metrics=Metrics())
    yield made
    made.close()


def test_one_event_is_one_line_and_reads_back_equal(log: AuditLog, path: Path) -> None:
    events = [event(target=f"/{n}\n\udcff") for n in range(3)]
    for one in events:
        log.emit(one)
    assert [json.loads(line)["event_id"] for line in path.read_text().splitlines()] == [e.event_id for e in events]
    assert list(read_events(path)) == events


def test_nobody_else_can_read_it(log: AuditLog, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.touch(mode=0o644)
    AuditLog(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "nowhere"])
def test_what_is_no_regular_file_is_refused_at_once(path: Path, kind: str) -> None:
    if kind == "symlink":
        path.symlink_to(path.with_name("other"))
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = path / "no" / "such"
    with pytest.raises(SandboxError, match="audit log, on"):
        AuditLog(path)


def test_a_torn_tail_is_fenced_and_never_read_as_an_event(path: Path) -> None:
    whole, torn = event(target="/whole"), event(target="/torn")
    path.write_bytes(whole.to_json().encode() + b"\n" + torn.to_json().encode()[:-40])
    assert list(read_events(path)) == [whole]
    log = AuditLog(path)
    after = event(target="/after")
    log.emit(after)
    log.close()
    assert list(read_events(path)) == [whole, after]


def test_half_a_line_of_another_process_is_fenced_by_one_that_goes_on(log: AuditLog, path: Path) -> None:
    log.emit(event(target="/1"))
    with path.open("ab") as file:
        file.write(b'{"event_id": "half')  # it was killed here
    log.emit(event(target="/2"))
    assert [e.target for e in read_events(path)] == ["/1", "/2"]


def test_every_prefix_of_a_line_is_no_event() -> None:
    line = event().to_json().encode()
    assert parse_line(line) is not None
    assert all(parse_line(line[:n]) is None for n in range(len(line)))


@pytest.mark.parametrize("line", [b"", b"{}", b"null", b"[" * 100_000, b'{"event_id":1}', b"\xff\xfe", b"0"])
def test_foreign_lines_are_left_out(line: bytes, path: Path) -> None:
    one = event()
    path.write_bytes(line + b"\n" + one.to_json().encode() + b"\n")
    assert list(read_events(path)) == [one]


def test_a_deleted_or_moved_file_is_made_again(log: AuditLog, path: Path) -> None:
    log.emit(event(target="/1"))
    path.unlink()
    log.emit(event(target="/2"))
    path.rename(path.with_name("moved"))
    log.emit(event(target="/3"))
    assert [e.target for e in read_events(path)] == ["/3"]
    assert [e.target for e in read_events(path.with_name("moved"))] == ["/2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_deleted_directory_is_an_error_and_lines_follow_when_it_is_back(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = AuditLog(directory / "a.jsonl")
    (directory / "a.jsonl").unlink()
    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        log.emit(event(target="/1"))
    directory.mkdir()
    log.emit(event(target="/2"))
    log.close()
    assert [e.target for e in read_events(directory / "a.jsonl")] == ["/1", "/2"]


def test_rotation_by_size_keeps_every_event_in_order(path: Path) -> None:
    log = AuditLog(path, max_bytes=5000, backups=1000)
    for number in range(200):
        log.emit(event(target=f"/{number}"))
    log.close()
    assert len(backups_of(path)) > 20
    assert [e.target for e in read_events(path)] == [f"/{n}" for n in range(200)]
    assert all(stat.S_IMODE(os.stat(name).st_mode) == 0o600 for name in backups_of(path))
    assert path.stat().st_size < 7000


def test_a_lock_that_keeps_the_log_from_rotating_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AuditLog(path, max_bytes=2000)
    with open(path, "rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        for number in range(30):
            log.emit(event(target=f"/{number}"))
        assert backups_of(path) == []
        assert [one.getMessage().split(":")[0] for one in caplog.records] == [
            f"audit log {path} is due for rotation and grows"
        ]
    log.emit(event(target="/last"))
    assert len(backups_of(path)) == 1
    log.close()


def test_only_so_many_backups_are_kept(path: Path) -> None:
    log = AuditLog(path, max_bytes=2000, backups=3)
    for number in range(100):
        log.emit(event(target=f"/{number}"))
    log.close()
    assert len(backups_of(path)) == 3
    targets = [e.target for e in read_events(path)]
    assert targets[-1] == "/99"
    assert targets == [f"/{n}" for n in range(100 - len(targets), 100)]


def test_rotation_by_time(path: Path) -> None:
    log = AuditLog(path, max_age_s=0.05)
    log.emit(event(target="/1"))
    time.sleep(0.1)
    log.emit(event(target="/2"))
    log.close()
    assert len(backups_of(path)) == 1
    assert [e.target for e in read_events(path, rotated=False)] == ["/2"]


def test_threads_share_one_log(path: Path) -> None:
    log = AuditLog(path, max_bytes=50_000, backups=1000)
    threads = [
        threading.Thread(target=lambda t=t: [log.emit(event(target=f"/{t}/{n}")) for n in range(200)] and None)
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert {e.target for e in read_events(path)} == {f"/{t}/{n}" for t in range(4) for n in range(200)}


WRITER = """
import sys
sys.path[:0] = {paths!r}
from tests.telemetry_events import event
from pyisolate.telemetry.sinks.audit import AuditLog
log = AuditLog(sys.argv[1], max_bytes=int(sys.argv[4]), backups=10_000, fsync="never")
for number in range(int(sys.argv[3])):
    one = event(target=f"/{{sys.argv[2]}}/{{number}}")
    log.emit(one)
    print(one.event_id, flush=True)
"""
PATHS = [str(Path(__file__).parents[2])]


def writer(path: Path, name: str, count: int, max_bytes: int = 1 << 30) -> subprocess.Popen[str]:
    code = WRITER.format(paths=PATHS)
    arguments = [sys.executable, "-c", code, str(path), name, str(count), str(max_bytes)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_processes_share_one_log_across_rotations(path: Path) -> None:
    children = [writer(path, name, 300, 20_000) for name in "abc"]
    shown = {line for child in children for line in child.communicate()[0].split()}
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(shown) == 900
    assert {e.event_id for e in read_events(path)} == shown


@pytest.mark.slow
def test_a_kill_at_any_moment_tears_no_event_and_loses_none_that_was_shown(path: Path) -> None:
    rng = random.Random(4)
    shown: set[str] = set()
    for run in range(6):
        child = writer(path, str(run), 100_000, 100_000)
        assert child.stdout is not None
        lines = [child.stdout.readline().strip() for _ in range(rng.randrange(1, 300))]
        time.sleep(rng.random() * 0.01)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().split("\n")[:-1]
        child.stdout.close()
        child.wait()
        shown.update(line for line in lines if line)
    logged = [e.event_id for e in read_events(path)]
    assert shown <= set(logged)
    assert len(logged) == len(set(logged))
    assert len(logged) - len(shown) <= 6  # at most the one between the write and the print


def test_a_full_disk_is_an_error_and_lines_follow_when_there_is_room(path: Path) -> None:
    log = AuditLog(path, metrics=Metrics())
    log.emit(event(target="/0"))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A file size limit in the middle of the next line: the same short write, then errno, as a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 300, limit[1]))
        for number in range(1, 4):
            with pytest.raises(OSError) as caught:
                log.emit(event(target=f"/{number}"))
            assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        assert [e.target for e in read_events(path)] == ["/0"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    log.emit(event(target="/4"))
    log.close()
    assert [e.target for e in read_events(path)] == ["/0", "/1", "/2", "/3", "/4"]


def test_what_the_disk_refuses_for_too_long_is_lost_and_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    log = AuditLog(path, metrics=metrics)
    monkeypatch.setattr("pyisolate.telemetry.sinks.audit.BACKLOG_LINES", 10)
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for number in range(15):
        with pytest.raises(OSError):
            log.emit(event(target=f"/{number}"))
    monkeypatch.setattr(os, "write", real)
    log.close()
    assert log.lost == 5 == metrics.lost.value("audit")
    assert [e.target for e in read_events(path)] == [f"/{n}" for n in range(5, 15)]


@pytest.mark.parametrize(("policy", "syncs"), [("never", 0), ("interval", 1), ("always", 10)])
def test_the_fsync_policy_is_kept(path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, syncs: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fdatasync", calls.append)
    log = AuditLog(path, fsync=policy, fsync_interval_s=60)
    for _ in range(10):
        log.emit(event())
    assert len(calls) == syncs
    log.close()


@pytest.mark.parametrize("options", [{"fsync": "maybe"}, {"max_bytes": 0}, {"backups": -1}])
def test_options_that_make_no_sense_are_refused(path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="audit log"):
        AuditLog(path, **options)


def test_after_close_it_says_so(log: AuditLog) -> None:
    log.close()
    log.close()
    with pytest.raises(SandboxError, match="closed"):
        log.emit(event())


@pytest.mark.slow
def test_following_crosses_rotation_and_deletion(path: Path) -> None:
    log = AuditLog(path, max_bytes=3000, backups=100)
    log.emit(event(target="/old"))
    seen: list[str] = []
    ready = threading.Event()

    def follow() -> None:
        events = follow_events(path, poll_s=0.005, timeout=1)
        ready.set()
        seen.extend(e.target for e in events)

    thread = threading.Thread(target=follow)
    thread.start()
    ready.wait()
    time.sleep(0.1)
    for number in range(20):
        log.emit(event(target=f"/{number}"))
        time.sleep(0.02)
    path.unlink()
    log.emit(event(target="/last"))
    thread.join()
    log.close()
    assert seen == [*(f"/{n}" for n in range(20)), "/last"]


def test_following_leaves_out_no_file_that_was_rotated_away_unread(path: Path) -> None:
    """More than one rotation between two looks: the reader waits, as a busy machine may have it."""
    with contextlib.closing(AuditLog(path, max_bytes=3000, backups=100)) as log:
        for number in range(20):
            log.emit(event(target=f"/older/{number}"))
        followed = follow_events(path, poll_s=0.005, timeout=0.2, from_start=True)
        seen = [next(followed).target]
        for number in range(20):
            log.emit(event(target=f"/{number}"))
        assert len(backups_of(path)) > 6
        seen += [one.target for one in followed]
    assert [target for target in seen if "older" not in target] == [f"/{number}" for number in range(20)]
    assert len([target for target in seen if "older" in target]) < 10  # those of the file that was read alone


def test_reading_nothing_says_so(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="audit log"):
        list(read_events(path))


def test_a_forked_child_writes_its_own_lines_and_not_the_parents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(path)
    log.emit(event(target="/parent"))
    with log._lock:
        child = os.fork()
        if child == 0:
            try:
                log.emit(event(target="/child"))
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    log.close()
    assert [e.target for e in read_events(path)] == ["/parent", "/child"]


def test_the_recorder_writes_the_line_before_it_returns(path: Path) -> None:
    recorder = Recorder(metrics=Metrics(), audit=AuditLog(path), sinks=(), alerts=None)
    for number in range(100):
        one = recorder.record(event(target=f"/{number}"))
        assert list(read_events(path))[-1] == one
    recorder.shutdown()
