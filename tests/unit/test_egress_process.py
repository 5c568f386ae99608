"""The proxy's process: look-ups that no sandbox takes from others, counts by policy, calls that it may not make."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.egress import messages
from pyisolate.egress.authority import new_authority
from pyisolate.egress.bundles import Bundles
from pyisolate.egress.lookups import SHARE, Lookups
from pyisolate.egress.meter import Carried
from pyisolate.egress.process import EgressProxy, ProxyTraits, _Link
from pyisolate.egress.use import Use
from pyisolate.errors import EnforcementError
from pyisolate.records import Asked, BrokerRecord


def test_a_sandbox_whose_names_never_answer_waits_alone() -> None:
    answered = threading.Event()
    asked: list[str] = []

    def look_up(host: str) -> list[str]:
        asked.append(host)
        if host.startswith("slow"):
            answered.wait(10)
        return ["192.0.2.1"]

    async def run() -> None:
        lookups = Lookups(look_up, most=2 * SHARE)
        slow = [asyncio.ensure_future(lookups.find("hostile", f"slow{n}.test")) for n in range(40)]
        given_up = asyncio.ensure_future(lookups.find("hostile", "slow.given-up"))
        await asyncio.sleep(0)
        given_up.cancel()
        for number in range(20):
            assert await asyncio.wait_for(lookups.find("another", f"{number}.test"), 5) == ["192.0.2.1"]
        assert sum(host.startswith("slow") for host in asked) == SHARE
        answered.set()
        assert await asyncio.gather(*slow) == [["192.0.2.1"]] * 40
        assert "slow.given-up" not in asked

    asyncio.run(run())


def test_what_was_carried_is_counted_once_and_under_its_policy() -> None:
    use = Use()
    use.name("a", "p")

    def counted(key: str, requests: int) -> messages.Counted:
        return messages.Counted(key=key, carried=Carried(requests=requests, sent_bytes=7 * requests), connections=3)

    assert use.count(counted("a", 2)) == ("p", Carried(requests=2, sent_bytes=14))
    assert use.count(counted("a", 5)) == ("p", Carried(requests=3, sent_bytes=21))
    assert use.count(counted("a", 1)) == ("p", Carried())  # a proxy that takes back what it said
    assert use.count(counted("unknown", 5)) is None
    use.begin()
    assert use.count(counted("a", 1)) == ("p", Carried(requests=1, sent_bytes=7))
    assert (use.connections("a"), use.connections("unknown")) == (3, 0)
    with pytest.raises(messages.BadReport):
        messages.decode_report(messages.encode(counted("a", -1))[4:])


_CALLS = """
import ctypes, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
attempts = {
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
    "kill": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "rename": lambda: os.rename("/nowhere", "/elsewhere"),
}
def errno_of(attempt):
    try:
        if attempt() == 0:
            os._exit(0)  # a fork's child
    except OSError as error:
        return error.errno
    return 0
from pyisolate.egress import calls
if sys.argv[1] == "restricted":
    calls.restrict()
else:
    del attempts["exec"]
print({name: errno_of(attempt) for name, attempt in attempts.items()})
import asyncio
async def work():
    async with asyncio.timeout(5):
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        await asyncio.get_running_loop().getaddrinfo("localhost", 1)
asyncio.run(work())
"""


def test_the_proxy_may_make_the_calls_that_it_needs_and_no_others() -> None:
    def outcome(how: str) -> dict[str, int]:
        done = subprocess.run([sys.executable, "-c", _CALLS, how], capture_output=True, text=True, check=True)
        return dict(eval(done.stdout.splitlines()[0]))

    assert set(outcome("restricted").values()) == {1}  # EPERM
    assert 1 not in {code for name, code in outcome("free").items() if name in ("fork", "kill", "memory", "rename")}


def test_an_authority_needs_a_library_and_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(EnforcementError, match="cryptography") as caught:
        new_authority("agent")
    assert "pyisolate-kernel[tls]" in str(caught.value.hint)


def test_what_a_killed_supervisor_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyisolate.egress.bundles._PLACES", (str(tmp_path),))
    held = Bundles()
    left, young = (tmp_path / f"pyisolate-authorities-{name}" for name in ("left", "young"))
    for path in (left, young):
        path.mkdir()
        (path / "x.pem").touch()
    for old in (left, Path(held.path)):
        os.utime(old, (1, 1))
    other = Bundles()
    assert not left.exists()
    assert young.exists()
    bundle = Path(held.put("certificate\n", others=False))
    assert bundle.read_text() == "certificate\n"
    assert bundle.stat().st_mode & 0o777 == 0o444
    held.remove(str(bundle))
    assert list(Path(held.path).iterdir()) == []
    held.close()
    other.close()
    assert list(tmp_path.iterdir()) == [young]


def _refused(target: str) -> messages.Refused:
    record = BrokerRecord(sequence=0, capability=Capability.NET_HTTP, target=target, verdict=Verdict.DENY)
    return messages.Refused(key="a", record=record)


class _Reading:
    """A proxy's supervisor, whose end of the control socket is read; `theirs` is the end of the proxy."""

    def __init__(self, on_asked: Callable[[str, Asked], None]) -> None:
        self.refused: list[str] = []
        ours, self.theirs = socket.socketpair()
        ours.settimeout(5)
        self.theirs.settimeout(5)
        self.proxy = EgressProxy(ProxyTraits(None, 0, {}), self._on_refused, lambda *_: None, on_asked)
        self.proxy._link = self.link = _Link(ours)
        self.thread = threading.Thread(target=self.proxy._read, args=(self.link,))
        self.thread.start()

    def _on_refused(self, _key: str, record: BrokerRecord, _question: int) -> None:
        self.refused.append(record.target)

    def say(self, *reports: messages.Report) -> None:
        self.theirs.sendall(b"".join(map(messages.encode, reports)))

    def answer(self) -> messages.Order:
        (length,) = messages.LENGTH.unpack(self.theirs.recv(messages.LENGTH.size, socket.MSG_WAITALL))
        return messages.decode_order(self.theirs.recv(length, socket.MSG_WAITALL))

    def end(self) -> None:
        self.theirs.close()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.mark.parametrize("threads", [True, False], ids=["", "no more threads"])
def test_a_question_that_cannot_be_put_is_refused_and_what_follows_is_recorded(
    monkeypatch: pytest.MonkeyPatch, threads: bool
) -> None:
    def on_asked(_key: str, asked: Asked) -> None:
        raise LookupError if asked.number == -1 else RuntimeError("the supervisor is closed")

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    reading = _Reading(on_asked)
    if not threads:
        monkeypatch.setattr(threading.Thread, "start", start)
    for number in (1, 2):
        reading.say(messages.Questioned(key="a", number=number, target="GET a.test/"))
        assert reading.answer() == messages.Answered(key="a", number=number, allow=False)
    reading.say(_refused("GET a.test/"))
    reading.end()
    assert reading.refused == ["GET a.test/"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_proxy_that_nobody_reads_any_more_is_replaced() -> None:
    def on_asked(_key: str, _asked: Asked) -> None:
        raise SystemExit

    reading = _Reading(on_asked)
    reading.say(messages.Questioned(key="a", number=1, target="GET a.test/"))
    reading.thread.join(5)
    assert reading.proxy._link is None
    reading.end()


def test_refusals_before_a_report_that_breaks_the_protocol_are_recorded() -> None:
    reading = _Reading(lambda *_: None)
    reading.say(_refused("GET a.test/1"), _refused("GET a.test/2"), messages.Questioned(key="a", number=0, target=""))
    reading.thread.join(5)
    assert reading.refused == ["GET a.test/1", "GET a.test/2"]
    assert reading.proxy._link is None
    reading.end()


def test_what_comes_right_after_the_first_word_is_not_lost() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(messages.encode(messages.Serving(confined=("seccomp",))) + messages.encode(_refused("GET a/")))
        link, taken = _Link(ours), list[object]()
        ours.settimeout(5)
        link.wait_serving()
        assert link.take(taken.append)
        assert len(taken) == 1
