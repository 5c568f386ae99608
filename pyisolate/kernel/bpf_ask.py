"""Ask the kernel's tables what they would say of an operation that was not attempted."""

from __future__ import annotations

import ipaddress

from ..capability import Capability
from ..decision import Verdict
from ..native import libbpf
from ..policy.compiled import FsRight, NetAction
from .bpf_records import VERDICTS
from .bpf_tables import KernelRight, net_key, path_key

_RIGHTS = {
    Capability.FS_READ: FsRight.READ,
    Capability.FS_WRITE: FsRight.WRITE,
    Capability.FS_CREATE: FsRight.CREATE,
    Capability.FS_DELETE: FsRight.DELETE,
    Capability.FS_METADATA: FsRight.METADATA,
    Capability.FS_EXEC: FsRight.EXEC,
    Capability.PROCESS_EXEC: FsRight.EXEC,
    Capability.IMPORT_NATIVE: FsRight.MAP_EXEC,
    Capability.RANDOM_READ: FsRight.READ,
}
_ACTIONS = {
    Capability.NET_CONNECT: NetAction.CONNECT,
    Capability.NET_SEND: NetAction.CONNECT,
    Capability.NET_BIND: NetAction.BIND,
    Capability.NET_LISTEN: NetAction.BIND,
}


def ask(program: libbpf.Program, policy: int, capability: Capability, target: str) -> Verdict:
    """Run the asking program on one question."""
    ffi = libbpf.interface()
    question = ffi.new("struct pyi_ask *")
    question.policy = policy
    if not _fill(ffi, question, capability, target):
        return Verdict.UNAVAILABLE
    if program.run(question) != 0:
        return Verdict.UNAVAILABLE
    return VERDICTS[question.verdict]


def _fill(ffi: object, question: object, capability: Capability, target: str) -> bool:
    view = memoryview(libbpf.interface().buffer(question)).cast("B")
    offset = libbpf.interface().offsetof
    right: FsRight | KernelRight | None = _RIGHTS.get(capability)
    unix = target.removeprefix("unix:") if target.startswith("unix:") else None
    if unix is not None and capability in (*_ACTIONS, Capability.IPC_UNIX):
        bind = _ACTIONS.get(capability) is NetAction.BIND
        right, target = KernelRight.UNIX_BIND if bind else KernelRight.UNIX_CONNECT, unix
    if right is not None and target.startswith("/"):
        key, length = path_key(target)
        start = offset("struct pyi_ask", "path")
        view[start : start + len(key)] = key
        question.kind, question.rights, question.bytes = 1, int(right), length  # type: ignore[attr-defined]
        return True
    if capability is Capability.PROCESS_FORK:
        question.kind = 3  # type: ignore[attr-defined]
        return True
    if capability not in _ACTIONS or unix is not None:
        return False
    host, _, port = target.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    key = net_key((getattr(address, "ipv4_mapped", None) or address).packed)
    start = offset("struct pyi_ask", "net")
    view[start : start + len(key)] = key
    question.kind, question.port, question.action = 2, int(port), int(_ACTIONS[capability])  # type: ignore[attr-defined]
    return True
