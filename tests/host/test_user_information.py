"""What a refusal or an exception of the guest says, wherever the host shows it, holds no password of a URL."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

import pyisolate
from pyisolate.choices import Isolation
from pyisolate.telemetry.sinks.audit import AuditLog

PATHS = {
    "open": "open('/http://user:SECRET@host/x')",
    "connect": "import socket; socket.getaddrinfo('user:SECRET@host', 80)",
}


@pytest.mark.parametrize("source", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_no_password_in_error_event_and_audit(source: str, isolation: Isolation, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with (
        pyisolate.Supervisor(pool_size=0, audit=AuditLog(log)) as supervisor,
        supervisor.spawn("secrets", isolation=isolation, enforcement="best_effort") as sandbox,
    ):
        with pytest.raises(pyisolate.PolicyError) as caught:
            sandbox.exec(source)
        events = sandbox.get_denial_events()
    written = log.read_text()
    assert len(events) == 1
    assert "***@host" in events[0].target  # positive control: it is the refusal's event
    assert "***@host" in written
    if "http" in source:  # the guest's traceback, which shows the line of its source
        assert "/***@host" in caught.value.traceback
        assert "SECRET" not in caught.value.traceback
    (note,) = caught.value.__notes__
    assert "line 1, in <module>" in note
    assert source not in note
    for text in (note, str(caught.value), repr(caught.value), events[0].to_json(), str(events[0]), written):
        assert "SECRET" not in text


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_no_password_in_what_a_guest_raised(isolation: Isolation) -> None:
    source = """
class Unreachable(Exception): pass
try:
    raise ValueError('first: http://user:SECRET@one/')
except ValueError:
    raise Unreachable('mail me@work\\n2: postgres://user:SECRET@two/base')
"""
    with (
        pyisolate.Supervisor(pool_size=0) as supervisor,
        supervisor.spawn("raises", isolation=isolation, enforcement="best_effort") as sandbox,
        pytest.raises(pyisolate.GuestError) as caught,
    ):
        sandbox.exec(source)
    error = caught.value
    assert (error.type_name, error.message) == ("Unreachable", "mail me@work\n2: postgres://***@two/base")
    assert "ValueError: first: http://***@one/" in error.traceback  # the control: the guest's, to its cause
    logged = "".join(traceback.format_exception(error))
    assert "postgres://***@two/base" in logged
    for text in (str(error), repr(error), error.traceback, logged):
        assert "SECRET" not in text
