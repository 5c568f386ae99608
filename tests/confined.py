"""Run a function under the real filter with a real listener, and see what both sides saw."""

from __future__ import annotations

import json
import os
import signal
import socket
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

from pyisolate.capability import Capability
from pyisolate.decision import Verdict
from pyisolate.kernel import namespaces
from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.native import process
from pyisolate.native import seccomp as native_seccomp
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NetAction, NetRule
from pyisolate.records import KernelRecord
from tests.in_child import become


class Seen(NamedTuple):
    """`value` as the function returned it, and what the listener recorded and counted."""

    value: Any
    records: list[KernelRecord]
    counters: dict[tuple[Capability, Verdict], int]
    lost: int

    @property
    def refusals(self) -> list[tuple[str, str, str]]:
        """Capability, target and code of each record."""
        return [(r.capability.value, r.target, r.code.value if r.code else "") for r in self.records]


class ChildFailed(AssertionError):
    """The child raised; the text is its traceback."""


def policy(*net: NetRule, executes: bool = False, **fields: Any) -> CompiledPolicy:
    """Return a policy of net rules."""
    fs = (FsRule(path="/usr/bin", allow=FsRight.EXEC),) if executes else ()
    return CompiledPolicy(name="test", version="1", net=net, fs=fs, **fields)


def rule(action: str, target: str, allow: bool = True) -> NetRule:
    """Return a rule from `connect` or `bind` and "address/prefix:low-high"."""
    host, _, ports = target.rpartition(":")
    host, _, prefix = host.replace("[", "").replace("]", "").partition("/")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.inet_pton(family, host)
    low, _, high = ports.partition("-")
    return NetRule(
        action=NetAction[action.upper()],
        address=address,
        prefix=int(prefix or len(address) * 8),
        port_low=int(low),
        port_high=int(high or low),
        allow=allow,
        text=f"{action}: {target}" if allow else f"deny {action}: {target}",
    )


@contextmanager
def cell(
    function: Callable[[], Any],
    compiled: CompiledPolicy,
    *,
    listener: Listener,
    name: str = "cell",
    uid: int | None = None,
    namespaced: bool = True,
    program: bytes | None = None,
    full: bool = False,
    kind: str = "cell",
):
    """Start `function` under the filter; yields a callable that waits for its value."""
    ours, theirs = socket.socketpair()
    program = program or seccomp.cell_program(full=full)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _parent_of_cell(function, program, theirs, uid, namespaced)
    theirs.close()
    ours.settimeout(60)
    try:
        _data, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            raise ChildFailed(_rest(ours) or "no listener")
        listener.attach(descriptors[0], name, compiled, full=full, kind=kind)

        def value() -> Any:
            answer = json.loads(_rest(ours) or '{"error": "the child died"}')
            listener.drain_now(name)
            if "error" in answer:
                raise ChildFailed(answer["error"])
            return answer["value"]

        yield value
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        listener.detach(name)


def confined(function: Callable[[], Any], compiled: CompiledPolicy, **options: Any) -> Seen:
    """Run `function` in a cell of its own with a listener of its own."""
    records: list[KernelRecord] = []
    listener = Listener(records.append)
    listener.start()
    try:
        with cell(function, compiled, listener=listener, **options) as wait:
            value = wait()
            return Seen(value, records, listener.counters("cell"), listener.lost("cell"))
    finally:
        listener.close()


def _parent_of_cell(
    function: Callable[[], Any], program: bytes, peer: socket.socket, uid: int | None, namespaced: bool
) -> None:
    """As the zygote does: become the user, then make the cell. Ends with the cell; never returns."""
    try:
        process.set_pdeathsig(signal.SIGKILL)
        if uid is not None:
            become(uid)
        own = os.getuid(), os.getgid()
        pid, _ = process.clone_cell(namespaces.ALL if namespaced else 0)
        if pid:
            os.waitpid(pid, 0)
            os._exit(0)
        if namespaced:
            process.write_id_maps(*own)
        process.set_pdeathsig(signal.SIGKILL)
        process.set_dumpable(True)
        native_seccomp.install_and_send(program, peer.fileno(), b".")
        answer = {"value": function()}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    os.write(peer.fileno(), json.dumps(answer).encode())
    os._exit(0)


def _rest(peer: socket.socket) -> str:
    parts = []
    while part := peer.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()
