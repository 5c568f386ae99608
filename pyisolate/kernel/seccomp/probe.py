"""Proof that notification works here: a child under the filter asks for sockets, and sees what the listener says."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ...decision import Mode
from ...native import seccomp
from ...native.descriptors import receive
from ...native.result import cause_of, is_shortage
from ...policy.compiled import CompiledPolicy, NetAction, NetRule
from ...records import KernelRecord
from ..probe_child import Child, is_short_of_memory, say
from .filter import cell_program

if TYPE_CHECKING:
    from .listener import Listener

_PATIENCE_S = 5.0


#: The calls that the child tries and names in its answer.
_CALLS = ("packet", "udp", "sent", "elsewhere")


class Proof(NamedTuple):
    """What the child saw, as text, or the problem and the errno that it came from, if one did."""

    text: str = ""
    problem: str = ""
    errno: int | None = None
    detail: dict[str, Any] = {}  # noqa: RUF012 - never changed


def probe_live(make_listener: Callable[[Callable[[KernelRecord], None]], Listener]) -> Proof:
    """Run the probe. The child asks for a packet socket (refused always) and a UDP socket that reaches no peer."""
    records: list[KernelRecord] = []
    program = cell_program()  # compiled here: the child of a process with threads should not
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as held:
        held.callback(ours.close)
        held.callback(theirs.close)
        listener = make_listener(records.append)
        held.callback(listener.close)
        child = Child(lambda: _child(ours, theirs, program))
        held.callback(child.end)
        theirs.close()
        proof = _watch(child, ours, listener, records)
        if proof.problem and proof.errno is None and is_short_of_memory():
            return proof._replace(problem=f"{proof.problem}, as where memory is short", errno=errno.ENOMEM)
        return proof


def _watch(child: Child, ours: socket.socket, listener: Listener, records: list[KernelRecord]) -> Proof:
    ours.settimeout(_PATIENCE_S)
    try:
        first, descriptors, dropped = receive(ours, 1, 1)
        if dropped:
            return Proof(problem="the listener of the probe's child was dropped on the way", errno=errno.EMFILE)
        if not descriptors:
            child.heard(first + _words(ours))
            return Proof(problem="the kernel gave no listener")
        try:
            listener.start()
        except BaseException:
            os.close(descriptors[0])
            raise
        listener.attach(descriptors[0], "probe", _policy())
        said = json.loads(child.heard(_words(ours)))
        listener.drain_now("probe")
        return _judge(said, records, listener.lost("probe"))
    except TimeoutError:
        return Proof(problem=f"the probe's child did not answer within {_PATIENCE_S:.0f} s")
    except OSError as error:
        return Proof(problem=cause_of(error), errno=error.errno)


def _policy() -> CompiledPolicy:
    """A policy with one connect grant: INET sockets are given, everything else is refused."""
    rule = NetRule(action=NetAction.CONNECT, address=b"\x7f\x00\x00\x01", prefix=32, port_low=9, port_high=9)
    return CompiledPolicy(name="probe", version="probe", mode=Mode.ENFORCE, net=(rule,))


def _outcomes(said: dict[str, Any]) -> str:
    """Say in words what became of each call. ENOMEM also stands for the listener's lack of descriptors."""
    words = {0: "done", errno.ENOMEM: f"{os.strerror(errno.EMFILE)}, or {os.strerror(errno.ENOMEM)}"}
    return ", ".join(f"{name}: {words.get(value) or os.strerror(value)}" for name, value in said.items())


def _shortage_among(said: dict[str, Any]) -> int | None:
    """Return the errno of a shortage that one of the calls met, or None.

    To a guest, the listener's own lack of descriptors is ENOMEM (notify_take_fd).
    """
    met = next((said[call] for call in _CALLS if is_shortage(said.get(call))), None)
    return errno.EMFILE if met == errno.ENOMEM else met


def _judge(said: dict[str, Any], records: list[KernelRecord], lost: int) -> Proof:
    short = _shortage_among(said)
    if said.get("packet") != errno.EPERM:
        return Proof(problem=f"a packet socket was not refused by the listener: {_outcomes(said)}", errno=short)
    if said.get("udp") != 0 or said.get("sent") != _unconfined():
        return Proof(problem=f"a granted socket could not be made or used: {_outcomes(said)}", errno=short)
    if said.get("elsewhere") != errno.EACCES:
        return Proof(problem=f"an address that was not granted was not refused: {_outcomes(said)}", errno=short)
    if lost:  # two records fill no ring: there was no memory for one
        return Proof(problem=f"{lost} records were lost: {os.strerror(errno.ENOMEM)}", errno=errno.ENOMEM)
    if len(records) != 2:
        return Proof(problem=f"{len(records)} records arrived, not 2")
    return Proof(text="saw a packet socket and an address refused and recorded, and a granted one used", detail=said)


def _unconfined() -> int:
    """Return what this process gets where the child had a grant: not 0 in a network namespace whose `lo` is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        return datagrams.connect_ex(("127.0.0.1", 9))


def _words(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(4096):
        parts.append(part)
    return b"".join(parts)


def _child(ours: socket.socket, theirs: socket.socket, program: bytes) -> None:
    """Forked: report and exit, whatever happens."""

    def tried() -> bytes:
        said: dict[str, int] = {}
        ours.close()
        seccomp.install_and_send(program, theirs.fileno(), b".")
        said["packet"] = _errno_of(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM).close())
        made: list[socket.socket] = []
        said["udp"] = _errno_of(lambda: made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        if made:
            said["sent"] = _errno_of(lambda: made[0].connect(("127.0.0.1", 9)))
            said["elsewhere"] = _errno_of(lambda: made[0].connect(("127.0.0.1", 10)))
            made[0].close()
        return json.dumps(said).encode()

    say(theirs.fileno(), tried)


def _errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0
