"""What a policy compiles to: plain, versioned tables that broker and kernel both read.

One compiler, one result, no meaning that depends on the running kernel. It is msgspec data, because the guest's
broker receives it over the wire.
"""

from __future__ import annotations

import enum

import msgspec

from ..decision import Mode


class FsRight(enum.IntFlag):
    """Rights of a file rule, one bit per `fs.*` capability. Shared with the BPF programs: never renumber."""

    READ = 1
    WRITE = 2
    CREATE = 4
    DELETE = 8
    METADATA = 16
    EXEC = 32
    #: executable mappings of native modules (import.native); not a policy key of its own
    MAP_EXEC = 64
    #: listing this one directory (not what lies below), so that importlib finds granted modules in a site directory
    LIST = 128


class FsRule(msgspec.Struct, frozen=True, kw_only=True):
    """One path and the rights decided there. `allow` and `deny` are FsRight bits.

    `path` is absolute and normalised and covers itself and, if a directory, all below. The longest rule on the
    way to a path that speaks of the right decides; deny beats allow at equal length (but LIST holds at the path
    itself only). `text` is the rule as a policy file would state it; a deny without text is the edge of an implied
    grant (site-packages inside the standard library, native code of a module granted without it), which no policy
    states. `origin` tells which policy key it came from: fs, process, import, random, or system (an `@` variable).

    METADATA is changing mode, owner, times or attributes; looking at them needs any right. Bits are closed under what
    they need: WRITE comes with METADATA, EXEC with READ and MAP_EXEC.
    """

    path: str
    allow: int = 0
    deny: int = 0
    text: str = ""
    origin: str = "fs"


class NetAction(enum.IntEnum):
    """What a net rule speaks of. Shared with the BPF programs and the notification listener: never renumber."""

    CONNECT = 1
    BIND = 2


class NetRule(msgspec.Struct, frozen=True, kw_only=True):
    """One address range and port range for connect (and datagram send) or bind (and listen).

    `address` is 4 or 16 network-order bytes; `prefix` counts its fixed bits; `port_low..port_high` is inclusive;
    0..0 on a bind rule means "any port that the kernel picks". `host` names the pinned host it came from, if any.
    A unix socket rule has `unix_path` set and an empty address.
    """

    action: int
    address: bytes = b""
    prefix: int = 0
    port_low: int = 0
    port_high: int = 65535
    allow: bool = True
    host: str | None = None
    unix_path: str | None = None
    text: str = ""


class NamePattern(msgspec.Struct, frozen=True, kw_only=True):
    """A module name rule: `json` is itself and its submodules; `numpy.*` likewise; `*` is any."""

    name: str
    allow: bool = True
    text: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in base units; None is "no limit of its own" (the supervisor's hard ceilings still apply)."""

    wall_s: float | None = 30.0
    cpu_s: float | None = 10.0
    memory_bytes: int | None = 256 << 20
    processes: int | None = 16
    open_files: int | None = 64
    file_size_bytes: int | None = 64 << 20
    output_bytes: int | None = 1 << 20
    messages: int | None = 1000


class CompiledPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides. `version` is the policy's content hash; `generation` counts reloads."""

    name: str
    version: str
    generation: int = 1
    mode: Mode = Mode.ENFORCE
    #: rule groups ("fs", "net", "process", "import", "random") whose mode differs from `mode`
    group_modes: dict[str, Mode] = {}
    #: one rule a path, sorted by path
    fs: tuple[FsRule, ...] = ()
    #: in matching order: for one action and family the first rule that covers address and port decides
    net: tuple[NetRule, ...] = ()
    allow_fork: bool = False
    imports: tuple[NamePattern, ...] = ()
    natives: tuple[NamePattern, ...] = ()
    #: what granted modules may import besides (the standard library, required distributions), but not the guest
    transitive: tuple[NamePattern, ...] = ()
    allow_random: bool = True
    random_seed: int | None = None
    #: granted host name -> addresses (text) pinned by the supervisor at compile time
    pinned_hosts: dict[str, tuple[str, ...]] = {}
    limits: Limits = Limits()

    def mode_of(self, group: str) -> Mode:
        """Return the mode in force for a rule group."""
        return self.group_modes.get(group, self.mode)


def effective_rights(rules: tuple[FsRule, ...]) -> dict[str, int]:
    """Return path -> every right in force there, inherited ones included (LIST aside).

    With this table the longest path alone decides: look up the nearest path at or above, then test the bit.
    """
    own = {rule.path: rule for rule in rules}
    table: dict[str, int] = {}
    for path in sorted(own, key=len):
        rule, parent, inherited = own[path], path, 0
        while parent != "/":
            parent = parent[: parent.rfind("/")] or "/"
            if parent in table:
                inherited = table[parent] & ~FsRight.LIST
                break
        table[path] = int((inherited | rule.allow) & ~rule.deny)
    return table
