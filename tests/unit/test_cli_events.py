"""`events` and `top`: reading logs and metrics, and the frame at every size."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from pyisolate.capability import Capability
from pyisolate.cli import event_source as sources
from pyisolate.cli import main
from pyisolate.cli.top import command as top
from pyisolate.cli.top import view as frame
from pyisolate.decision import Verdict
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.sinks.audit import AuditLog
from tests.telemetry_events import CONTEXT, event


def invoke(*args: str) -> Any:
    return CliRunner().invoke(main.cli, list(args))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path)
    for name in ("a", "b"):
        audit.emit(event(target=f"/srv/{name}"))
    audit.emit(event(capability=Capability.NET_CONNECT, target="10.0.0.1:80", origin="x.py:1 in f"))
    audit.close()
    return path


def test_show_prints_one_line_an_event(log: Path) -> None:
    lines = invoke("events", "show", str(log)).output.splitlines()
    assert len(lines) == 3
    assert "fs.read /srv/a" in lines[0]
    assert lines[2].endswith("at x.py:1 in f")


def test_show_filters_and_gives_back_the_logs_own_json(log: Path) -> None:
    output = invoke("events", "show", "--json", "--capability", "fs.*", "-n", "1", str(log)).output
    (document,) = [json.loads(line) for line in output.splitlines()]
    assert document["target"] == "/srv/b"
    assert document["schema"] == "pyisolate.denial/1"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--target", "/srv/*"), 2),
        (("--code", "NOT_GRANTED"), 3),
        (("--policy", "other"), 0),
        (("--sandbox", "report"), 3),
        (("--since", "1h"), 3),
        (("--since", "2100-01-01"), 0),
    ],
)
def test_each_filter_filters(log: Path, options: tuple[str, ...], count: int) -> None:
    output = invoke("events", "show", "--json", *options, str(log)).output
    assert len([line for line in output.splitlines() if line.startswith("{")]) == count


@pytest.mark.parametrize(("words", "where"), [("ocsf", ("metadata", "uid")), ("ecs", ("event", "id"))])
def test_events_are_given_in_the_words_of_others(log: Path, words: str, where: tuple[str, str]) -> None:
    ours = [json.loads(line)["event_id"] for line in log.read_text().splitlines()]
    for command in (("show",), ("tail", "--timeout", "0.1")):
        lines = invoke("events", *command, "--as", words, str(log)).output.splitlines()
        assert [json.loads(line)[where[0]][where[1]] for line in lines] == ours


def test_stats_tell_refused_from_would_be_refused(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "log")
    audit.emit(event(target="/srv/a"))
    audit.emit(event(target="/srv/b", verdict=Verdict.WOULD_DENY, count=3))
    audit.close()
    assert "1 operations refused, 3 would have been" in invoke("events", "stats", str(tmp_path / "log")).output
    found = json.loads(invoke("events", "stats", "--json", str(tmp_path / "log")).output)
    assert (found["total"], found["would_deny"]) == (4, 3)


def test_a_torn_line_is_no_event(log: Path) -> None:
    with log.open("a") as file:
        file.write(event().to_json()[:40])
    shown = invoke("events", "show", str(log)).output.splitlines()
    assert len(shown) == 4
    assert shown[-1] == f"pyisolate: {log}: 1 line is no event"


def test_a_file_that_is_no_audit_log_is_told(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"\xff\xfe\n{}\n")
    for command in ("show", "stats"):
        assert "other: 2 lines are no event" in invoke("events", command, str(tmp_path / "other")).output


def test_verbose_shows_the_suggestion_as_a_rule(log: Path) -> None:
    output = invoke("events", "show", "-v", str(log)).output
    assert "code: NOT_GRANTED" in output


def test_a_missing_log_is_an_error_with_a_reason(tmp_path: Path) -> None:
    answer = invoke("events", "show", str(tmp_path / "none"))
    assert answer.exit_code == 1
    assert "no such file" in answer.output


def test_without_a_log_usage_is_explained(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    monkeypatch.delenv("PYISOLATE_AUDIT_LOG", raising=False)
    assert invoke("events", "show").exit_code == 2
    monkeypatch.setenv("PYISOLATE_AUDIT_LOG", str(log))
    assert invoke("events", "show").exit_code == 0


def test_stats_count_duplicates(log: Path) -> None:
    audit = AuditLog(log)
    audit.emit(event(target="/srv/a", count=5))
    audit.close()
    document = json.loads(invoke("events", "stats", "--json", str(log)).output)
    assert document["total"] == 8
    assert document["rows"][0] == {"capability": "fs.read", "code": "NOT_GRANTED", "count": 7}
    table = invoke("events", "stats", "--by", "target", str(log)).output
    assert "8 operations refused" in table
    assert invoke("events", "stats", "--by", "nonsense", str(log)).exit_code == 2


def test_tail_shows_the_newest_then_what_comes(log: Path) -> None:
    """Written while tail runs, across a rotation: every event once."""

    def write() -> None:
        time.sleep(0.1)
        audit = AuditLog(log, max_bytes=1500)
        for number in range(6):
            audit.emit(event(target=f"/later/{number}"))
            time.sleep(0.05)
        audit.close()

    writer = threading.Thread(target=write)
    writer.start()
    output = invoke("events", "tail", "--json", "-n", "2", "--timeout", "1", str(log)).output
    writer.join()
    targets = [json.loads(line)["target"] for line in output.splitlines()]
    assert targets == ["/srv/b", "10.0.0.1:80", *(f"/later/{number}" for number in range(6))]


def test_tail_waits_for_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"

    def write() -> None:
        time.sleep(0.3)
        audit = AuditLog(path)
        audit.emit(event())
        audit.close()

    writer = threading.Thread(target=write)
    writer.start()
    output = invoke("events", "tail", "--timeout", "1", str(path)).output
    writer.join()
    assert "/etc/shadow" in output


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    audit = AuditLog(path)
    audit.emit(event(target="/x\x1b[2J\n[bold]y"))
    audit.close()
    output = invoke("events", "show", str(path)).output
    assert "\x1b" not in output
    assert "[bold]y" in output, "markup of a hostile name is text"
    assert len(output.splitlines()) == 1


# -- top ---------------------------------------------------------------------------------------------------------


def reading(**counts: float) -> sources.Reading:
    metrics = Metrics()
    for capability, count in counts.items():
        metrics.denial(event(capability=Capability(capability.replace("_", ".", 1)), count=int(count)))
    metrics.exited("closed", "p", 1.5, "s")
    from prometheus_client import generate_latest

    return sources.read_metrics(generate_latest(metrics.registry).decode())


def test_a_scrape_is_read_by_label() -> None:
    found = reading(fs_read=3, net_connect=2)
    assert found.by(0) == {"fs.read": 3, "net.connect": 2}
    assert found.by(1) == {"NOT_GRANTED": 5}
    assert found.exits == {"closed": 1}
    assert found.cpu == {"p": 1.5}


def watch(refusals: list[DenialEvent]) -> top.Watch:
    made = top.Watch("http://127.0.0.1:1/metrics", None)
    made.before, made.now = reading(fs_read=1), reading(fs_read=11, net_connect=2, process_exec=1)
    made.before.time, made.now.time = 100.0, 102.0
    made.now.sandboxes = {("process", "idle"): 3, ("process", "running"): 1, ("thread", "idle"): 2}
    made.now.memory = {"p": 12 << 20}
    made.log = "audit.jsonl"
    made.refusals.extend(refusals)
    return made


@pytest.mark.parametrize(("width", "height"), [(80, 24), (60, 16), (200, 50)])
def test_the_frame_fits_and_holds_what_matters(width: int, height: int) -> None:
    long = event(target="/a" * 150)
    would = event(CONTEXT, verdict=Verdict.WOULD_DENY, target="/etc/motd")
    console = Console(width=width, height=height, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(frame.draw(watch([long, would]), console.size))
        text = console.export_text()
    lines = text.splitlines()
    assert len(lines) == height
    assert max(len(line) for line in lines) <= width
    for wanted in ("sandboxes", "3 idle", "1 running", "fs.read", "net.connect", "12.0 MiB", "/etc/motd"):
        assert wanted in text, wanted
    assert ("5.0/s" in text) is (width >= 80)


def test_once_without_a_supervisor_says_how_to_get_one() -> None:
    answer = invoke("top", "--once", "--url", "http://127.0.0.1:9/metrics")
    assert answer.exit_code == 1
    assert "serve_metrics" in answer.output


def test_rates_need_two_scrapes_and_survive_a_restart() -> None:
    made = top.Watch(None, None)
    assert made.rate(5, None) is None
    made.before = sources.Reading(time=1)
    made.now = sources.Reading(time=3)
    assert made.rate(5, 1) == 2
    assert made.rate(1, 5) is None
