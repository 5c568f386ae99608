"""A policy as the listener's C thread reads it, and what it knows of each system call."""

from __future__ import annotations

import os
import resource

from ...capability import CAPABILITY_NUMBER, CATALOGUE, FLOOR, Capability
from ...choices import CellKind
from ...decision import Mode
from ...limits.rlimit import within_host
from ...native import notify as native
from ...policy import workspace
from ...policy.asking import CARRIED, WRITES, asks_about_programs
from ...policy.compiled import CompiledPolicy, FsRight
from .filter import capability_of, syscall_numbers
from .syscalls import PATH_ARGUMENT, REPORTED_WHEN_FULL


def compile_table(
    policy: CompiledPolicy,
    *,
    serial: int,
    kind: CellKind = "cell",
    full: bool = False,
    shadow: native.Policy | None = None,
) -> native.Policy:
    """Return a policy's table for the listener; `serial` comes back in records.

    `kind` is "cell", "native" (a cell that makes its sockets and connections itself) or "thread".
    """
    rules, unix_rules = [], []
    for index, rule in enumerate(policy.net):
        if rule.unix_path is None:
            rules.append(
                native.Rule(rule.action, rule.allow, rule.address, rule.prefix, rule.port_low, rule.port_high, index)
            )
        elif len(path := os.fsencode(rule.unix_path)) <= 107:  # sockaddr_un.sun_path; a longer one names nothing
            unix_rules.append(native.UnixRule(rule.action, rule.allow, path, index))
    if Capability.NET_CONNECT in policy.ask:
        rules += [
            native.Rule(native.ASKED_ABOUT, True, rule.address, rule.prefix, rule.port_low, rule.port_high, -1)
            for rule in policy.ask_rules.connect
        ]
    return native.Policy(
        _flags(policy, kind, full=full),
        serial,
        bytes(_acts(policy, kind)),
        rules,
        unix_rules,
        shadow=shadow,
        open_files=within_host(resource.RLIMIT_NOFILE, policy.limits.open_files),
        file_size=within_host(resource.RLIMIT_FSIZE, policy.limits.file_size_bytes),
    )


def _flags(policy: CompiledPolicy, kind: CellKind, *, full: bool) -> int:
    flags = {"cell": native.FLAG_CELL, "native": native.FLAG_CELL | native.FLAG_NATIVE_NET}.get(kind, 0)
    flags |= native.FLAG_FULL if full else 0
    flags |= native.FLAG_ASK_CONNECT if Capability.NET_CONNECT in policy.ask else 0
    flags |= native.FLAG_ASK_BY_RULE if policy.ask_rules.connect else 0
    # not of a policy for a sandbox thread: the plan has taken it out of `ask` there
    if policy.mode_of("fs") is Mode.ENFORCE:
        flags |= native.FLAG_ASK_READ if Capability.FS_READ in policy.ask else 0
        flags |= native.FLAG_ASK_WRITE if WRITES & set(policy.ask) else 0
        flags |= native.FLAG_ASK_NAMES if {Capability.FS_CREATE, Capability.FS_DELETE} & set(policy.ask) else 0
        flags |= native.FLAG_ASK_METADATA if Capability.FS_METADATA in policy.ask else 0
    if asks_about_programs(policy):
        flags |= native.FLAG_ASK_EXEC
    # in monitor mode the guest sees the host's /dev and /proc, where these names lead on
    flags |= native.FLAG_OWN_NAMES if kind != "thread" and policy.mode_of("fs") is not Mode.MONITOR else 0
    flags |= native.FLAG_MONITOR_FILES if policy.mode_of("fs") is Mode.MONITOR else 0
    if kind == "cell" and policy.own_sockets:
        leading = workspace.links(policy)
        flags |= native.FLAG_OWN_SOCKETS
        flags |= (native.FLAG_OWN_TMP if "/tmp" in leading else 0) | (
            native.FLAG_OWN_SHM if "/dev/shm" in leading else 0
        )
    flags |= native.FLAG_MONITOR_NET if policy.mode_of("net") is Mode.MONITOR else 0
    return flags


#: What a sandbox thread shares with the host: its process's directory, mask, timers, and whom it may signal.
_OF_HOST = frozenset({Capability.FS_METADATA, Capability.PROCESS_SIGNAL})


def _acts(policy: CompiledPolicy, kind: CellKind) -> bytearray:
    """What becomes of a refused call of each capability that no rule speaks of address by address."""
    acts = bytearray(native.CAPABILITIES)
    granted = {
        Capability.PROCESS_FORK: policy.allow_fork,
        # Landlock and the root view decide which files; here only whether there are any
        Capability.PROCESS_EXEC: Capability.PROCESS_EXEC in policy.ask
        or any(rule.allow & FsRight.EXEC for rule in policy.fs),
        Capability.RANDOM_READ: policy.allow_random,
        Capability.MEMORY_EXEC: policy.any_code,
        Capability.IMPORT_NATIVE: policy.any_native,
    }
    for capability, number in CAPABILITY_NUMBER.items():
        mode = policy.mode_of(CATALOGUE[capability].group)
        if capability in FLOOR or (kind == "thread" and capability in _OF_HOST):
            acts[number] = native.ACT_FLOOR
        elif granted.get(capability) or capability in policy.switches:
            acts[number] = native.ACT_ALLOW
        else:
            acts[number] = native.ACT_WATCH if mode is Mode.MONITOR else native.ACT_DENY
    return acts


def call_tables() -> tuple[bytes, bytes, bytes]:
    """Return capability, traits and path argument by system call number."""
    capability = bytearray([CAPABILITY_NUMBER[Capability.KERNEL_SYSCALL]] * native.SYSCALLS)
    traits = bytearray(native.SYSCALLS)
    path_argument = bytearray(b"\xff" * native.SYSCALLS)  # -1
    for number, name in syscall_numbers().items():
        capability[number] = CAPABILITY_NUMBER[REPORTED_WHEN_FULL.get(name) or capability_of(name)]
        traits[number] = (
            native.TRAIT_KNOWN
            | (native.TRAIT_REPORTED if name in REPORTED_WHEN_FULL else 0)
            | (native.TRAIT_NAMING if name in CARRIED else 0)
        )
        path_argument[number] = PATH_ARGUMENT.get(name, 0xFF)
    return bytes(capability), bytes(traits), bytes(path_argument)
