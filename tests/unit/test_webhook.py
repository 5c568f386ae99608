"""The webhook against a real HTTP server that fails, stalls, breaks off and restarts."""

from __future__ import annotations

import http.server
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.sinks.webhook import WebhookSink
from tests.telemetry_events import event


class Receiver:
    """A real server. `script`: what to do with each request in turn (status, or a callable); then 200."""

    def __init__(self, port: int = 0) -> None:
        self.batches: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script: list[int | Callable[[http.server.BaseHTTPRequestHandler], None]] = []
        self.requests = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.requests += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                step = outer.script.pop(0) if outer.script else 200
                if callable(step):
                    step(self)
                    return
                if 200 <= step < 300:
                    outer.batches.append(json.loads(body))
                    outer.headers.append(dict(self.headers))
                self.send_response(step)
                if 300 <= step < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: object) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None: ...

        self.server = Server(("127.0.0.1", port), Handler)
        self.port: int = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1/events"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def events(self) -> list[str]:
        return [e["target"] for batch in self.batches for e in batch["events"]]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Make:
    def __init__(self) -> None:
        self.sinks: list[WebhookSink] = []
        self.metrics = Metrics()

    def __call__(self, url: str, **options: object) -> WebhookSink:
        fast = {"metrics": self.metrics, "retry_base_s": 0.01, "retry_cap_s": 0.05, "linger_s": 0.02, "timeout_s": 0.5}
        self.sinks.append(WebhookSink(url, **{**fast, "flush_timeout_s": 0.5, **options}))
        return self.sinks[-1]

    def dropped(self, reason: str) -> float:
        return self.metrics.webhook_dropped.value(reason)


@pytest.fixture
def make() -> Iterator[Make]:
    maker = Make()
    yield maker
    for sink in maker.sinks:
        sink.close()
        if sink._thread is not None:
            sink._thread.join(5)


def send(sink: WebhookSink, count: int, start: int = 0) -> list[str]:
    targets = [f"/{n}" for n in range(start, start + count)]
    for target in targets:
        sink.emit(event(target=target))
    return targets


def test_events_arrive_in_order_in_batches_with_the_key(receiver: Receiver, make: Make) -> None:
    sink = make(receiver.url, key="s3cr3t-key", batch_size=10)
    targets = send(sink, 95)
    assert sink.flush(5)
    assert receiver.events == targets
    assert len(receiver.batches) <= 15
    assert all(headers["Authorization"] == "Bearer s3cr3t-key" for headers in receiver.headers)
    assert receiver.batches[0]["schema"] == "pyisolate.denial/1"
    assert "s3cr3t-key" not in repr(sink) + str(receiver.batches)


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_in_trouble_is_tried_again_with_the_same_batch(receiver: Receiver, make: Make, status: int) -> None:
    receiver.script = [status, status, status]
    sink = make(receiver.url)
    targets = send(sink, 3)
    assert sink.flush(5)
    assert receiver.events == targets
    assert receiver.requests >= 4


@pytest.mark.parametrize("status", [400, 401, 404, 301, 307])
def test_a_refusal_or_redirect_drops_the_batch_and_counts_it(
    receiver: Receiver, make: Make, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.script = [status]
    sink = make(receiver.url, key="s3cr3t-key")
    with caplog.at_level(logging.WARNING, "pyisolate"):
        sink.emit(event(count=7))
        assert sink.flush(5)
    assert make.dropped("rejected") == 7
    assert receiver.requests == 1
    assert "s3cr3t-key" not in caplog.text
    assert str(status) in caplog.text


def test_a_connection_that_breaks_off_is_tried_again(receiver: Receiver, make: Make) -> None:
    def cut(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True

    receiver.script = [cut, cut]
    sink = make(receiver.url)
    targets = send(sink, 2)
    assert sink.flush(5)
    assert receiver.events == targets


def test_a_server_that_stalls_is_left_and_tried_again(receiver: Receiver, make: Make) -> None:
    gate = threading.Event()

    def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
        gate.wait(10)
        handler.close_connection = True

    receiver.script = [stall]
    sink = make(receiver.url, timeout_s=0.2)
    started = time.monotonic()
    targets = send(sink, 2)
    assert time.monotonic() - started < 0.1  # emitting waits for nobody
    assert sink.flush(5)
    gate.set()
    assert receiver.events == targets


def test_an_answer_without_end_is_not_read_to_the_end(receiver: Receiver, make: Make) -> None:
    def flood(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            handler.close_connection = True

    receiver.script = [flood]
    sink = make(receiver.url)
    send(sink, 1)
    assert sink.flush(5)
    targets = send(sink, 1, start=1)
    assert sink.flush(5)
    assert receiver.events == targets


def test_a_server_that_restarts_gets_everything_once_it_is_back(make: Make) -> None:
    first = Receiver()
    sink = make(first.url)
    sent = send(sink, 5)
    assert sink.flush(5)
    first.close()
    sent += send(sink, 5, start=5)
    time.sleep(0.2)
    second = Receiver(first.port)
    try:
        sent += send(sink, 5, start=10)
        assert sink.flush(5)
        assert first.events + second.events == sent
    finally:
        second.close()
    assert make.metrics.webhook_dropped.total() == 0


def test_nobody_listening_fills_the_queue_and_no_more(make: Make) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sink = make(f"http://127.0.0.1:{port}/", queue_limit=50, batch_size=10, flush_timeout_s=0.2)
    started = time.monotonic()
    send(sink, 1000)
    assert time.monotonic() - started < 1
    assert 930 <= make.dropped("queue_full") <= 950
    sink.close()
    assert time.monotonic() - started < 3
    assert make.metrics.webhook_dropped.total() == 1000


def test_a_batch_that_is_too_old_is_given_up(make: Make, receiver: Receiver) -> None:
    receiver.script = [500] * 1000
    sink = make(receiver.url, max_age_s=0.1)
    send(sink, 3)
    assert sink.flush(5)
    assert make.dropped("expired") == 3


def test_one_thread_whatever_the_flood(make: Make, receiver: Receiver) -> None:
    before = threading.active_count()
    sink = make(receiver.url)
    peak = 0
    for number in range(2000):
        sink.emit(event(target=f"/{number}"))
        peak = max(peak, sum(t.name == "pyisolate-webhook" for t in threading.enumerate()))
    assert sink.flush(10)
    assert peak == 1
    assert len(receiver.events) == 2000
    assert before >= 1


def test_closing_keeps_its_deadline_while_the_server_stalls(make: Make, receiver: Receiver) -> None:
    gate = threading.Event()
    receiver.script = [lambda handler: gate.wait(10) and None] * 3
    sink = make(receiver.url, timeout_s=30, flush_timeout_s=0.3)
    send(sink, 4)
    started = time.monotonic()
    sink.close()
    assert time.monotonic() - started < 1
    assert make.dropped("shutdown") == 4
    sink.emit(event())
    assert make.dropped("closed") == 1
    gate.set()


def test_the_end_of_the_process_flushes(receiver: Receiver) -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parents[2])]!r}\n"
        "from tests.telemetry_events import event\n"
        "from pyisolate.telemetry.sinks.webhook import WebhookSink\n"
        f"sink = WebhookSink({receiver.url!r}, linger_s=60)\n"
        "for n in range(5): sink.emit(event(target=f'/{n}'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    assert receiver.events == [f"/{n}" for n in range(5)]


def test_a_forked_child_sends_its_own_events_only(make: Make, receiver: Receiver) -> None:
    sink = make(receiver.url, linger_s=0.3)
    sink.emit(event(target="/parent"))
    child = os.fork()
    if child == 0:
        try:
            sink.emit(event(target="/child"))
            os._exit(0 if sink.flush(5) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert sink.flush(5)
    assert sorted(receiver.events) == ["/child", "/parent"]


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("ftp://host/", {}, "http"),
        ("http:///x", {}, "http"),
        ("http://user:pw@host/", {}, "key_file"),
        ("http://host/", {"key": "two words"}, "printable"),
        ("http://host/", {"key": "line\nbreak"}, "printable"),
        ("http://host/", {"key": "a", "key_file": "/dev/null"}, "keep one"),
        ("http://host/", {"key_file": "/no/such"}, "No such file"),
    ],
)
def test_bad_options_are_refused_without_showing_the_key(url: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        WebhookSink(url, **options)
    assert options.get("key", "-") not in str(caught.value) or options.get("key") == "a"


def test_a_key_file_is_read_and_a_querys_key_not_shown(tmp_path: Path, make: Make, receiver: Receiver) -> None:
    (tmp_path / "key").write_text("file-key\n")
    sink = make(receiver.url + "?token=hidden", key_file=tmp_path / "key")
    send(sink, 1)
    assert sink.flush(5)
    assert receiver.headers[0]["Authorization"] == "Bearer file-key"
    assert "hidden" not in repr(sink)
