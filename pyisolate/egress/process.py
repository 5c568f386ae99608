"""The supervisor's side of the egress proxy: its process, the sandboxes that it knows, the refusals that it reports.

The supervisor keeps the listening socket: a proxy that died is replaced at the same address, and no other
process can take that in between. Until then connections wait.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from ..capability import Capability
from ..errors import EnforcementError
from ..native import interpreter
from ..native.threads import Thread
from ..policy.compiled import CompiledPolicy, FsRight, FsRule, NetAction, NetRule
from ..policy.secrets import Injection
from ..records import Asked, BrokerRecord
from . import messages
from .authority import Authority, new_authority
from .bundles import VARIABLES, Bundles
from .listening import Lead, Listening
from .messages import Admit, Answered, Applied, Counted, Dismiss, Led, Questioned, Refused, Serving, Start
from .meter import Carried
from .use import Use

_log = logging.getLogger("pyisolate.egress")
#: A proxy that does not serve by then, or does not take an order, is broken (seconds).
_START_S = 30.0
_ORDER_S = 5.0
#: Between two starts of a proxy that dies (seconds).
_AGAIN_S = 1.0
#: What is read at a time: a request's end does not wait for a proxy that never stops.
_MOST_READS = 64
#: What a lookup of names may read.
_READABLE = ("/etc", "/usr", "/lib", "/lib64", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
#: asyncio makes room of 256 KiB for each read: from memory that stays, instead of a mapping each (mallopt(3)).
_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 20)}
#: By which clients find a proxy; aiohttp looks for those of WebSockets by their scheme.
_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "WS_PROXY", "WSS_PROXY")
#: The user in a proxy's address. Who speaks is known by the password.
_USER = "sandbox"
#: Takes a sandbox's id, empty where none is known, what its guest was refused, and the question asked about it, or 0.
#: Must not wait for a guest.
RefusedSink = Callable[[str, BrokerRecord, int], None]
#: Takes a sandbox's id and a question of its guest's. Must not wait. LookupError: it is not known.
AskedSink = Callable[[str, Asked], None]
#: Takes a policy's name and what was carried under it since the last time.
CarriedSink = Callable[[str, Carried], None]
_Sink = Callable[[Refused | Counted | Questioned], None]


class ProxyTraits(msgspec.Struct, frozen=True):
    """Whom the proxy runs as (None: as the supervisor), and names whose addresses are not looked up.

    `authorities`: whom it trusts over TLS (PEM); None: whom this machine does. `lead`: has whose connections to it are
    written down; None: all are known by their passwords alone.
    """

    uid: int | None
    gid: int
    hosts: Mapping[str, tuple[str, ...]]
    authorities: str | None = None
    lead: Lead | None = None


class Entrance(msgspec.Struct, frozen=True):
    """One sandbox's way to the proxy: its password, and where its policy opens TLS, whom its guest then trusts."""

    token: str
    authority: Authority | None = None
    #: the file in which the guest finds the authority
    bundle: str | None = None

    def __repr__(self) -> str:
        return "<Entrance>"


class _Link:
    """The control socket of one proxy process, and what has come on it."""

    def __init__(self, control: socket.socket) -> None:
        self.control, self.lock = control, threading.RLock()
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._applied = 0
        self._more = threading.Condition(self.lock)

    def wait_serving(self) -> None:
        """Return once the proxy serves. Raises OSError, BadReport."""
        while (report := next(self._feed(self.control.recv(self._missing())), None)) is None:
            pass
        if not isinstance(report, Serving):
            raise messages.BadReport("its first word is not that it serves")

    def send(self, order: Admit | Dismiss | Answered) -> None:
        """Send an order. Raises OSError."""
        with self._sending:
            self.control.sendall(messages.encode(order))

    def take(self, sink: _Sink) -> bool:
        """Hand on what has come; False at the end, or where it breaks the protocol."""
        with self.lock:
            for _ in range(_MOST_READS):
                try:
                    # not recv: a socket with a timeout waits in it, whatever its flags
                    for report in self._feed(os.read(self.control.fileno(), 1 << 16)):
                        if isinstance(report, Refused | Counted | Questioned):
                            sink(report)
                        elif isinstance(report, Applied):
                            self._applied = report.number
                            self._more.notify_all()
                except BlockingIOError:
                    return True
                except messages.BadReport as error:
                    _log.error("the egress proxy breaks the protocol and is replaced: %s", error)
                    return False
                except OSError:
                    return False
            return True

    def wait_applied(self, number: int, sink: _Sink) -> None:
        """Return once an order is in force. Raises OSError where the proxy ends, or takes too long."""
        deadline = time.monotonic() + _ORDER_S
        while self.take(sink) and time.monotonic() < deadline:
            with self._more:
                if self._applied >= number or (self._more.wait(0.02) and self._applied >= number):
                    return
        raise OSError("it does not take its orders")

    def _missing(self) -> int:
        """Return how many bytes of a frame are still to come: what follows it is for the reader, which waits for it."""
        head, got = messages.LENGTH.size, len(self._buffer)
        return head - got if got < head else head + messages.LENGTH.unpack_from(self._buffer)[0] - got

    def _feed(self, data: bytes) -> Iterator[messages.Report]:
        """Return each report that is whole: those before one that breaks the protocol count."""
        if not data:
            raise OSError("it has ended")
        self._buffer += data
        head = messages.LENGTH.size
        while len(self._buffer) >= head:
            (length,) = messages.LENGTH.unpack_from(self._buffer)
            if length > messages.MAX_REPORT_BYTES:
                raise messages.BadReport(f"a report of {length} bytes")
            if len(self._buffer) < head + length:
                break
            report = messages.decode_report(bytes(self._buffer[head : head + length]))
            del self._buffer[: head + length]
            yield report


class EgressProxy:
    """One supervisor's proxy, started with the first policy that grants a name. Thread-safe."""

    def __init__(
        self, traits: ProxyTraits, on_refused: RefusedSink, on_carried: CarriedSink, on_asked: AskedSink
    ) -> None:
        self._traits, self._on_refused, self._on_carried, self._on_asked = traits, on_refused, on_carried, on_asked
        self._lock = threading.RLock()
        self._listening: Listening | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._link: _Link | None = None
        self._tenants: dict[str, Admit] = {}
        self._use = Use()
        self._bundles: Bundles | None = None
        #: the file of each sandbox that has one
        self._bundle_of: dict[str, str] = {}
        self._started_at = 0.0
        #: how many orders were given
        self._orders = 0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Its process id, None where none runs."""
        return None if (process := self._process) is None else process.pid

    # -- policies and sandboxes -----------------------------------------------------------------------------

    def lead_to(self, compiled: CompiledPolicy) -> CompiledPolicy:
        """Return the tables with the proxy's own address granted. Starts the proxy. Raises EnforcementError."""
        with self._lock:
            self._ensure()
            assert self._listening is not None
            port = self._listening.port
            fs = compiled.fs
            if compiled.inspect_tls:
                self._bundles = self._bundles or _new_bundles()
                own = FsRule(path=self._bundles.path, allow=int(FsRight.READ), text="egress proxy", origin="system")
                fs = tuple(sorted((*fs, own), key=lambda rule: rule.path))
        address = socket.inet_aton("127.0.0.1")
        rule = NetRule(
            action=NetAction.CONNECT, address=address, prefix=32, port_low=port, port_high=port, text="egress proxy"
        )
        return msgspec.structs.replace(compiled, fs=fs, net=(rule, *compiled.net))

    def enter(self, name: str, compiled: CompiledPolicy) -> Entrance:
        """Return a new sandbox's way in, to be admitted or left. Raises EnforcementError."""
        import secrets  # loads OpenSSL, and few first starts have a proxy

        token = secrets.token_urlsafe(24)
        if not compiled.inspect_tls:
            return Entrance(token)
        authority = new_authority(name)
        with self._lock:
            if self._bundles is None:
                raise EnforcementError("egress proxy: the supervisor is closed", missing="egress proxy")
            try:
                bundle = self._bundles.put(authority.certificate, others=_tunnels(compiled))
            except OSError as error:
                raise EnforcementError(f"open TLS of sandbox {name!r}: {error}", missing="egress proxy") from error
        return Entrance(token, authority, bundle)

    def leave(self, entrance: Entrance) -> None:
        """Take back a way in that no sandbox was admitted by."""
        with self._lock:
            if entrance.bundle is not None and self._bundles is not None:
                self._bundles.remove(entrance.bundle)

    def environment(self, entrance: Entrance) -> dict[str, str]:
        """Return the variables by which clients of HTTP find the proxy, say who they are, and know whom to trust."""
        assert self._listening is not None
        url = f"http://{_USER}:{entrance.token}@127.0.0.1:{self._listening.port}"
        found = {named: url for one in _VARIABLES for named in (one, one.lower())}
        found |= dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")
        return found if entrance.bundle is None else found | dict.fromkeys(VARIABLES, entrance.bundle)

    def admit(
        self,
        key: str,
        entrance: Entrance,
        compiled: CompiledPolicy,
        secrets: tuple[Injection, ...] = (),
        led: Led | None = None,
    ) -> None:
        """Let a sandbox use the proxy, as its policy says. Raises EnforcementError."""
        order = Admit(
            key=key,
            token=entrance.token,
            policy=_of_proxy(compiled),
            secrets=secrets,
            authority=entrance.authority,
            led=led or Led(),
        )
        with self._lock:
            if entrance.bundle is not None:
                self._bundle_of[key] = entrance.bundle
            self._admit(order)

    def _admit(self, order: Admit) -> None:
        self._ensure()
        self._orders += 1
        order = msgspec.structs.replace(order, number=self._orders)
        self._tenants[order.key] = order
        self._use.name(order.key, order.policy.name)
        self._send(order)

    def change(self, key: str, compiled: CompiledPolicy, secrets: tuple[Injection, ...]) -> None:
        """Another policy is in force in a sandbox; what it has open is closed.

        A proxy that does not take it is ended, and its successor knows nothing else.
        """
        with self._lock, contextlib.suppress(EnforcementError):
            if (known := self._tenants.get(key)) is not None:
                self._admit(msgspec.structs.replace(known, policy=_of_proxy(compiled), secrets=secrets))

    def dismiss(self, key: str) -> None:
        """A sandbox has ended."""
        with self._lock:
            if (bundle := self._bundle_of.pop(key, None)) is not None and self._bundles is not None:
                self._bundles.remove(bundle)
            if self._tenants.pop(key, None) is not None and self._link is not None:
                with contextlib.suppress(EnforcementError):
                    self._send(Dismiss(key=key))

    # -- its process ----------------------------------------------------------------------------------------

    def _ensure(self) -> None:
        if self._closed:
            raise EnforcementError("egress proxy: the supervisor is closed", missing="egress proxy")
        if self._link is not None:
            return
        try:
            self._listening = self._listening or Listening(self._traits.lead)
            self._start(self._listening)
        except (OSError, RuntimeError, messages.BadReport) as error:  # RuntimeError: no thread to read it
            self._drop()
            raise EnforcementError(
                f"start egress proxy: {error}",
                missing="egress proxy",
                hint="its traceback is on this process's stderr; policies without names do not need it",
            ) from error

    def _start(self, listening: Listening) -> None:
        self._started_at = time.monotonic()
        self._use.begin()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link = link = _Link(ours)
        descriptors = (theirs.fileno(), listening.tcp.fileno(), listening.led)
        with theirs:
            self._process = interpreter.start(
                ["-m", "pyisolate.egress", *map(str, descriptors)],
                descriptors,
                {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "RES_OPTIONS": "timeout:2 attempts:2", **_MEMORY},
            )
        traits = self._traits
        start = Start(
            host_pid=os.getpid(),
            uid=traits.uid,
            gid=traits.gid,
            hosts=dict(traits.hosts),
            readable=_readable(),
            admitted=tuple(self._tenants.values()),
            authorities=traits.authorities,
        )
        ours.settimeout(_START_S)
        ours.sendall(messages.encode(start))
        link.wait_serving()
        ours.settimeout(_ORDER_S)
        Thread(target=self._read, args=(link,), name="pyisolate-egress").start()

    def _send(self, order: Admit | Dismiss) -> None:
        assert self._link is not None
        try:
            self._link.send(order)
            if isinstance(order, Admit):
                self._link.wait_applied(order.number, self._hand_on)
        except OSError as error:
            self._drop()
            raise EnforcementError(f"egress proxy: {error}", missing="egress proxy", hint="try again") from error

    def _drop(self) -> None:
        """Forget a proxy that died, or is broken: it is ended."""
        process, self._process = self._process, None
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(OSError):
                link.control.shutdown(socket.SHUT_RDWR)  # its reader wakes, and closes it
        if process is not None:
            with contextlib.suppress(PermissionError):  # of another user; it ends with its control socket
                process.send_signal(signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)

    # -- refusals -------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take in every refusal that has been reported: those that a guest has been answered are among them."""
        if (link := self._link) is not None:
            link.take(self._hand_on)

    def _read(self, link: _Link) -> None:
        poller = select.poll()
        poller.register(link.control, select.POLLIN)
        try:
            while poller.poll() and link.take(self._hand_on):
                pass
        finally:  # whatever it was: without a reader no refusal has its event
            self._replace(link)
            with link.lock:
                link.control.close()

    def connections(self, key: str) -> int | None:
        """Return how many connections a sandbox has to the proxy, None where it is not led to it."""
        return self._use.connections(key) if key in self._tenants else None

    def spent_s(self, key: str) -> float:
        """Return the processor time that the proxy took for a sandbox, half a second late."""
        return self._use.spent_s(key)

    def _hand_on(self, report: Refused | Counted | Questioned) -> None:
        if isinstance(report, Counted):
            self._hand_on_counted(report)
        elif isinstance(report, Questioned):
            self._hand_on_question(report)
        else:
            self._hand_on_refusal(report)

    def _hand_on_counted(self, report: Counted) -> None:
        try:
            if (counted := self._use.count(report)) is not None:
                self._on_carried(*counted)
        except Exception:
            _log.exception("what the egress proxy has carried could not be counted")

    def _hand_on_question(self, asked: Questioned) -> None:
        # below 0: the listener's questions have the other numbers
        question = Asked(number=-asked.number, capability=Capability.NET_HTTP, target=asked.target)
        try:
            self._on_asked(asked.key, question)
            return
        except LookupError:
            pass
        except Exception:
            _log.exception("a question of the egress proxy could not be put; it is refused")
        try:
            Thread(target=self.answer, args=(asked.key, asked.number, False), daemon=False).start()
        except RuntimeError:  # no more threads
            self.answer(asked.key, asked.number, False)

    def answer(self, key: str, number: int, allow: bool) -> None:
        """Answer a question about a request, if it still waits. It may take a while where the proxy is slow."""
        if (link := self._link) is not None:
            with contextlib.suppress(OSError):  # it has ended, and with it what waits
                link.send(Answered(key=key, number=number, allow=allow))

    def _hand_on_refusal(self, refused: Refused) -> None:
        key = refused.key if refused.key in self._tenants else ""
        record = msgspec.structs.replace(refused.record, monotonic_ns=time.monotonic_ns())
        try:
            self._on_refused(key, record, refused.question)
        except Exception:
            _log.exception("a refusal of the egress proxy could not be recorded; it stands")

    def _replace(self, link: _Link) -> None:
        """Start another proxy in place of one that has ended by itself."""
        with self._lock:
            if self._closed or self._link is not link:
                return
            self._drop()
            _log.error("the egress proxy has ended; another one takes its place")
        time.sleep(max(0.0, self._started_at + _AGAIN_S - time.monotonic()))
        with self._lock, contextlib.suppress(EnforcementError):  # then the next sandbox that needs it meets the error
            if not self._closed and self._tenants:
                self._ensure()

    # -- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End it. Idempotent."""
        with self._lock:
            self._closed = True
            self._drop()
            if self._listening is not None:
                self._listening.close()
            if self._bundles is not None:
                self._bundles.close()
                self._bundles = None

    def abandon(self) -> None:
        """In a forked child of the host: close the copies; the proxy is the parent's."""
        self._lock, self._closed = threading.RLock(), True
        if self._link is not None:
            self._link.control.close()
        if self._listening is not None:
            self._listening.close()
        if self._bundles is not None:
            self._bundles.abandon()
        if self._process is not None:
            self._process.returncode = self._process.returncode or 0  # another process's child: no warning, no wait
        self._process = self._link = self._listening = self._bundles = None
        self._tenants.clear()


def _readable() -> tuple[str, ...]:
    return (*_READABLE, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())


def _new_bundles() -> Bundles:
    try:
        return Bundles()
    except OSError as error:
        raise EnforcementError(f"open TLS: make a place for certificates: {error}", missing="egress proxy") from error


def _tunnels(compiled: CompiledPolicy) -> bool:
    """Tell whether a guest may speak TLS that the proxy does not open, so that it needs this machine's authorities."""
    by_address = any(rule.allow and rule.text != "egress proxy" and not rule.unix_path for rule in compiled.net)
    return by_address or any(rule.allow and rule.method is None for rule in compiled.web)


def _of_proxy(compiled: CompiledPolicy) -> CompiledPolicy:
    """Return what the proxy needs of a policy: the rules of the network, without its own address."""
    return CompiledPolicy(
        name=compiled.name,
        version=compiled.version,
        generation=compiled.generation,
        mode=compiled.mode_of("net"),
        net=tuple(rule for rule in compiled.net if rule.text != "egress proxy"),
        web=compiled.web,
        egress=compiled.egress,
        inspect_tls=compiled.inspect_tls,
        pinned_hosts=compiled.pinned_hosts,
        ask=compiled.ask,
        ask_rules=compiled.ask_rules,
    )
