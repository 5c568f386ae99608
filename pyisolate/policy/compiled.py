"""What a policy compiles to: plain, versioned tables that broker and kernel both read.

One compiler, one result, no meaning that depends on the running kernel. It is msgspec data, because the guest's
broker receives it over the wire.
"""

from __future__ import annotations

import msgspec

from ..capability import Capability
from ..capability import FsRight as FsRight
from ..capability import NetAction as NetAction
from ..choices import BetweenRequests
from ..decision import DenialCode, Mode

#: The origin of a program's rule that only what holds files has: its host is asked before it runs.
GATED = "gated"


class FsRule(msgspec.Struct, frozen=True, kw_only=True):
    """One path and the rights decided there. `allow` and `deny` are FsRight bits.

    `path` is absolute and normalised and covers itself and, if a directory, all below. The longest rule on the
    way to a path that speaks of the right decides; deny beats allow at equal length (but LIST holds at the path
    itself only). `text` is the rule as a policy file would state it; a deny without text is the edge of an implied
    grant (site-packages inside the standard library, native code of a module granted without it), which no policy
    states. `origin` tells which policy key it came from: fs, process, import, random, workspace, environment,
    system (an `@` variable), or gated.

    METADATA is changing mode, owner, times or attributes; looking at them needs any right. Bits are closed under what
    they need: WRITE comes with METADATA, EXEC with READ and MAP_EXEC.
    """

    path: str
    allow: int = 0
    deny: int = 0
    text: str = ""
    origin: str = "fs"


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


class WebRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the egress proxy may carry, by name. `host` is a name, or `*.` and what names end with.

    Without a method it speaks of TLS tunnels and of every request (a connect rule); with one (`*`: any) of HTTP
    requests, plain or over TLS (`tls`), to `path`, or to all paths that begin so where it ends with `*`.
    `port_low..port_high` is inclusive.
    """

    host: str
    port_low: int
    port_high: int
    method: str | None = None
    path: str = "/*"
    tls: bool = False
    allow: bool = True
    text: str = ""


class NamePattern(msgspec.Struct, frozen=True, kw_only=True):
    """A module name rule: `json` is itself and its submodules; `numpy.*` likewise; `*` is any."""

    name: str
    allow: bool = True
    text: str = ""


#: What a tmpfs counts in, and what a name costs at least.
PAGE_BYTES = 4096
#: Names that a workspace has room for beside one for each page: with its own directory's they are 16.
_NAMES_BESIDE = 15


def names_in(workspace_bytes: int) -> int:
    """Return how many names a workspace of this size has room for, where no limit says less."""
    return _NAMES_BESIDE + workspace_bytes // PAGE_BYTES


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in base units; None is "no limit of its own" (the supervisor's hard ceilings still apply)."""

    wall_s: float | None = 30.0
    cpu_s: float | None = 10.0
    memory_bytes: int | None = 256 << 20
    processes: int | None = 16
    open_files: int | None = 64
    file_size_bytes: int | None = 64 << 20
    #: of all files that the guest can write, and how many names it can make; only a workspace holds them
    disk_bytes: int | None = None
    files: int | None = None
    output_bytes: int | None = 1 << 20
    messages: int | None = 1000
    between_requests: BetweenRequests = "run"


class EgressLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one sandbox may ask of the egress proxy while it lives; None is no limit, but for connections.

    Bytes are those that pass, of tunnels with their TLS; `connections` are at a time (None: what the proxy gives each).
    """

    requests: int | None = None
    sent_bytes: int | None = None
    received_bytes: int | None = None
    connections: int | None = None


class SiteFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The packages of a policy's environment, which its guests import from in the place of the interpreter's own."""

    path: str
    #: names of its top-level modules
    modules: tuple[str, ...]


#: the workspace, and the names that may lead to it (policy/workspace.py)
_OWN_PLACES = ("/sandbox/", "/tmp/", "/dev/shm/")


class AskRules(msgspec.Struct, frozen=True, kw_only=True):
    """Of which operations of a capability in `ask` the host is asked; where a capability has none here, of all."""

    connect: tuple[NetRule, ...] = ()
    web: tuple[WebRule, ...] = ()
    #: files and directories
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    #: programs: as the policy names them, and where that leads
    programs: tuple[str, ...] = ()

    @property
    def files(self) -> dict[Capability, tuple[str, ...]]:
        """Return those about files, by capability."""
        return {
            Capability.FS_READ: self.read,
            Capability.FS_WRITE: self.write,
            Capability.FS_CREATE: self.create,
            Capability.FS_DELETE: self.delete,
            Capability.FS_METADATA: self.metadata,
        }


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
    #: the rule that denies it, where one does
    denied_fork: str | None = None
    imports: tuple[NamePattern, ...] = ()
    natives: tuple[NamePattern, ...] = ()
    #: what granted modules may import besides (the standard library, required distributions), but not the guest
    transitive: tuple[NamePattern, ...] = ()
    allow_jit: bool = False
    #: capabilities that a section grants whole, for whatever target; cells only
    switches: tuple[Capability, ...] = ()
    allow_random: bool = True
    random_seed: int | None = None
    #: granted host name -> addresses (text) pinned by the supervisor at compile time
    pinned_hosts: dict[str, tuple[str, ...]] = {}
    limits: Limits = Limits()
    #: what the egress proxy may carry by name; each rule that covers a request counts, and one that denies decides
    web: tuple[WebRule, ...] = ()
    egress: EgressLimits = EgressLimits()
    #: the proxy opens the TLS of hosts that https rules or secrets speak of, with a certificate authority per sandbox
    inspect_tls: bool = False
    #: the host is asked about these where no rule speaks of them
    ask: tuple[Capability, ...] = ()
    ask_rules: AskRules = AskRules()
    #: size of the tmpfs that each sandbox gets for its own (policy/workspace.py); None: none
    workspace_bytes: int | None = None
    #: it is a directory of the host's, where others may have sockets
    shared_workspace: bool = False
    #: None: the interpreter's own packages
    site: SiteFiles | None = None
    #: rule's text -> what the policy says of it
    reasons: dict[str, str] = {}

    @property
    def any_native(self) -> bool:
        """True where native code of any origin is granted."""
        return any(pattern.name == "*" and pattern.allow for pattern in self.natives)

    @property
    def any_code(self) -> bool:
        """True where memory may be written and then run."""
        return self.allow_jit or self.any_native

    @property
    def workspace_room(self) -> tuple[int, int] | None:
        """Bytes and names of a workspace, as the tmpfs counts them: what is written, and the smaller of two bounds."""
        if self.workspace_bytes is None:
            return None
        size, limits = self.workspace_bytes, self.limits
        disk = size if limits.disk_bytes is None else max(PAGE_BYTES, limits.disk_bytes // PAGE_BYTES * PAGE_BYTES)
        names = names_in(size)
        return min(size, disk), names if limits.files is None else min(names, limits.files)

    @property
    def own_sockets(self) -> bool:
        """True where the guest's processes may have unix sockets in the workspace to reach one another.

        Not beside what grants other sockets: where one of those can be put in a descriptor's place, no call on it is
        left to the guest. Nor beside a rule that denies one of them: a guest renames what is its own.
        """
        if self.workspace_bytes is None or self.shared_workspace or not self.allow_fork or self.ask:
            return False
        if any(not rule.allow and (rule.unix_path or "").startswith(_OWN_PLACES) for rule in self.net):
            return False
        return not any(rule.allow and rule.unix_path is None for rule in self.net)

    def unresolved(self) -> tuple[str, ...]:
        """Return the granted hosts that have no address."""
        return tuple([host for host, addresses in self.pinned_hosts.items() if not addresses])

    def denied_modules(self) -> frozenset[str]:
        """Return the modules that rules deny."""
        return frozenset([pattern.name for pattern in self.imports if not pattern.allow])

    def denying(self, capability: Capability, code: DenialCode | None) -> str | None:
        """Return the rule that denies a capability as a whole: of that the kernel's tables know `not granted` alone."""
        whole = capability is Capability.PROCESS_FORK and code is DenialCode.NOT_GRANTED
        return self.denied_fork if whole else None

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
