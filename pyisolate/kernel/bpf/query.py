"""Ask the kernel's tables what they would say of an operation that was not attempted."""

from __future__ import annotations

import ipaddress

from ...capability import CATALOGUE, Capability, FsRight, NetAction
from ...decision import Verdict
from ...native import bpf_maps
from ...native.libbpf import Program
from ...policy.addresses import destination
from .records import VERDICTS
from .tables import KernelRight, net_key, path_key


def ask(program: Program, policy: int, capability: Capability, target: str) -> Verdict:
    """Run the asking program on one question. UNAVAILABLE: the tables hold no answer to it."""
    answer = _answer(program, policy, capability, target)
    return Verdict.UNAVAILABLE if answer is None else VERDICTS[answer]


def _answer(program: Program, policy: int, capability: Capability, target: str) -> int | None:
    entry = CATALOGUE[capability]
    right: FsRight | KernelRight | None = entry.right
    if capability is Capability.RANDOM_READ:  # reading /dev/urandom, there
        right = FsRight.READ
    unix = target.removeprefix("unix:") if target.startswith("unix:") else None
    if unix is not None and entry.action is not None:
        bind = entry.action is NetAction.BIND
        right, target = KernelRight.UNIX_BIND if bind else KernelRight.UNIX_CONNECT, unix
    if right is not None and target.startswith("/"):
        return bpf_maps.ask_path(program, policy, entry.number, int(right), *path_key(target))
    if capability is Capability.PROCESS_FORK:
        return bpf_maps.ask_fork(program, policy, entry.number)
    if entry.action is None or capability is Capability.IPC_UNIX or unix is not None:
        return None
    host, _, port = target.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    packed = (getattr(address, "ipv4_mapped", None) or address).packed
    key = net_key(destination(packed) if entry.action is NetAction.CONNECT else packed)
    return bpf_maps.ask_net(program, policy, entry.number, int(entry.action), key, int(port))
