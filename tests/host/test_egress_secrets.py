"""A credential that the proxy puts in is nowhere else: guest, cell and records of the host are searched for it."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

import pyisolate
from pyisolate import Supervisor
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from tests.host.egress_server import Server
from tests.host.egress_world import HOST, OWN_PROXY

pytestmark = pytest.mark.once
pytest.importorskip("trustme")

_SECRET, _PASSWORD = "sk-0123456789-the-real-one", "correct-horse-battery"
_SEEN = "a word that the guest said and"  # a control: what is searched holds what the guest does
_GUEST = (
    OWN_PROXY
    + """
import resource, socket, urllib.request
def get(url, **options):
    with urllib.request.urlopen(urllib.request.Request(url, **options)) as answer:
        return answer.read().decode() + str(answer.headers)
kept = []
def everywhere(*urls):
    for url in urls:
        try:
            kept.append(get(url))
        except OSError as error:
            kept.append(repr(error))
    return kept
"""
)


def _forms(value: str) -> list[bytes]:
    """Return a value as it may stand somewhere: as it is, and behind any one or two bytes in base64."""
    found = [value.encode(), value.encode("utf-16-le")]
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + value.encode())
        found.append(whole[4 if before else 0 : len(whole) // 4 * 4 - 4])
    return found


def _searched(texts: dict[str, bytes], value: str) -> list[str]:
    return [where for where, text in texts.items() if any(form in text for form in _forms(value))]


def _cell_of(sandbox: pyisolate.Sandbox) -> Iterator[int]:
    """Yield the processes of a cell: the guest's first and those above it, up to the zygote."""
    pid = sandbox.pid
    for _ in range(3):
        yield pid
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(re.findall(r"^PPid:\s*(\d+)", status, re.MULTILINE)[0])
        if pid in (0, 1, os.getpid()):
            return


def _memory(pid: int) -> bytes:
    """Return all that a process has mapped: what a core file of it would hold, and more."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if not rights.startswith("r") or line.rstrip().endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                continue
            start, end = (int(number, 16) for number in place.split("-"))
            with contextlib.suppress(OSError):  # past the end of a file
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)


def _core_limit(pid: int | str) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def test_a_credential_is_nowhere_but_in_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = tmp_path / "password"
    source.write_text(f"user:{_PASSWORD}\n")
    monkeypatch.setenv("EGRESS_SEARCHED_KEY", _SECRET)
    metrics, plain = Metrics(), Server()
    place = f"{HOST}:{plain.port}"
    policy = (
        pyisolate.Policy.preset("compute")
        .allow_import("@stdlib")
        .allow_connect(f"127.0.0.1:{plain.port}")
        .allow_http(f"GET {place}/*")
        .with_secret("bearer", "env:EGRESS_SEARCHED_KEY", f"bearer {place}/v1/*")
        .with_secret("basic", f"file:{source}", f"basic {place}/v2/*")
        .with_workspace("1MiB")
    )
    recorder = Recorder(metrics=metrics, audit=AuditLog(tmp_path / "audit.jsonl"), sinks=(), alerts=None)
    urls = [f"http://{place}/v{number}/{path}" for number in (1, 2, 3) for path in ("echo", "zipped", "away")]
    texts: dict[str, bytes] = {"policy": f"{policy.to_yaml()} {policy!r}".encode()}
    with Supervisor(pool_size=1, egress_hosts={HOST: ["127.0.0.1"]}, recorder=recorder) as supervisor:
        with supervisor.spawn("searched", policy) as sandbox:
            sandbox.exec(f"{_GUEST}\nkept.append({_SEEN!r} + ' looked for')")
            texts["answers"] = repr(sandbox.eval(f"everywhere(*{urls!r})")).encode()
            texts["environment"] = repr(sandbox.eval("dict(os.environ)")).encode()
            with pytest.raises(pyisolate.PolicyError) as denied:
                sandbox.exec(f"get('http://other.example.org:{plain.port}/{_SEEN.replace(' ', '-')}')")
            with pytest.raises(pyisolate.SandboxError) as broken:
                sandbox.exec(f"get({urls[1]!r})")
            for name, error in (("denial", denied.value), ("error", broken.value)):
                notes = getattr(error, "__notes__", [])
                texts[name] = f"{error} {error!r} {error.traceback} {notes} {vars(error)}".encode()
            texts["events"] = "".join(event.to_json() for event in sandbox.get_denial_events()).encode()
            texts["sandbox"] = f"{sandbox!r} {sandbox.stats!r} {sandbox.enforcement!r}".encode()
            assert sandbox.eval("resource.getrlimit(resource.RLIMIT_CORE)") == (0, 0)
            assert _core_limit(supervisor.diagnostics().proxy_pid) == ["0", "0"]  # type: ignore[arg-type]
            if os.geteuid() == 0:  # who may read what is not dumpable
                for pid in _cell_of(sandbox):
                    texts[f"environment of process {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
                memory = texts["memory of the guest"] = _memory(sandbox.pid)
                assert f"{_SEEN} looked for".encode() in memory
        texts["metrics"] = generate_latest(metrics.registry)
    recorder.shutdown()
    texts["audit"] = (tmp_path / "audit.jsonl").read_bytes()
    texts["log"] = "\n".join(record.getMessage() for record in caplog.records).encode()
    plain.close()
    sent = set(plain.authorized)
    assert {f"Bearer {_SECRET}", "Basic " + base64.b64encode(f"user:{_PASSWORD}".encode()).decode(), None} == sent
    assert _searched({"the requests": repr(sent).encode()}, _PASSWORD) == ["the requests"]  # the search finds
    assert _SEEN.replace(" ", "-").encode() in texts["events"]
    assert _SEEN.replace(" ", "-").encode() in texts["audit"]
    assert {value: _searched(texts, value) for value in (_SECRET, _PASSWORD)} == {_SECRET: [], _PASSWORD: []}
