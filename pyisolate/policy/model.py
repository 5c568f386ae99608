"""The policy model: an immutable value that says what a guest may do, the same on every machine and kernel.

`policy.Policy` is what users have: this, and learning.

A policy is kept in one canonical form (rules sorted, merged, contradictions settled as "deny wins"), so builders
commute, equal policies are equal objects, and `version` is a hash of the content.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from ..capability import Capability
from ..decision import Mode
from ..errors import PolicySyntaxError
from . import parse, units
from .asking import entries_of, read_ask
from .compiled import EgressLimits, Limits
from .reader import Where
from .rules import (
    EXEC,
    FILE_RIGHTS,
    FORK,
    MODE_GROUPS,
    FileRule,
    ImportRule,
    NetworkRule,
    ProcessRule,
    Rule,
    canonical_files,
    canonical_others,
)
from .schema import net_rule_target, read_fields, read_mode
from .secrets import Secret, canonical_secrets, secret
from .sections import INSPECT_TLS, SECTIONS, read_egress, read_environment, read_limits, read_seed, switched
from .workspace import workspace_size
from .yaml_writer import to_yaml

PathText = str | os.PathLike[str]
#: Rules of one policy: each takes time to compile (docs/benchmarks.md), and to decode in a cell.
MAX_RULES_IN_ALL = 50_000


_P = TypeVar("_P", bound="PolicyModel")


class PolicyModel(msgspec.Struct, frozen=True, kw_only=True, dict=True, repr_omit_defaults=True):
    """What a guest may do. Every builder returns a new policy; nothing is granted that no rule grants.

    The most specific rule decides; at equal length deny beats allow, whichever was added first.
    """

    name: str = "policy"
    mode: Mode = Mode.ENFORCE
    #: rule groups whose mode differs from `mode`: ("fs", Mode.MONITOR), ...
    modes: tuple[tuple[str, Mode], ...] = ()
    files: tuple[FileRule, ...] = ()
    network: tuple[NetworkRule, ...] = ()
    #: how much of the egress proxy's service one sandbox may have
    egress: EgressLimits = EgressLimits()
    #: the egress proxy reads HTTP over TLS of hosts that https rules or secrets speak of
    inspect_tls: bool = False
    processes: tuple[ProcessRule, ...] = ()
    imports: tuple[ImportRule, ...] = ()
    #: memory that is written and then run, whatever made the code
    jit: bool = False
    #: capabilities that a section grants whole
    switches: tuple[Capability, ...] = ()
    random: bool = True
    random_seed: int | None = None
    limits: Limits = Limits()
    #: capabilities, and rules as text ("connect 10.0.0.0/8:443"), that the host is asked about where no rule decides
    ask: tuple[str, ...] = ()
    #: credentials that the egress proxy puts into requests; no values
    secrets: tuple[Secret, ...] = ()
    #: bytes of memory that a sandbox has for its files, for itself alone; None: none
    workspace: int | None = None
    #: directory of the environment whose packages guests import; None: the interpreter's own
    environment: str | None = None

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        force(self, "modes", tuple(sorted({g: m for g, m in self.modes if m is not self.mode}.items())))
        force(self, "files", canonical_files(self.files))
        force(self, "network", canonical_others(self.network))
        force(self, "processes", canonical_others(self.processes))
        force(self, "imports", canonical_others(self.imports))
        force(self, "secrets", canonical_secrets(self.secrets))
        force(self, "ask", read_ask(entries_of(self.ask)))
        if (count := len(self.rules)) > MAX_RULES_IN_ALL:
            raise PolicySyntaxError(
                f"policy: {count} rules, and {MAX_RULES_IN_ALL} are the most",
                hint='grant packages with all that is in them ("package.*"), and directories in the place of files',
            )

    def __repr__(self) -> str:
        return f"<Policy {self.name!r} {self.version} {self.mode}: {len(self.rules)} rules>"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule, in canonical order; `rule.text` is what a policy file would say."""
        return (*self.files, *self.network, *self.processes, *self.imports)

    @cached_property
    def version(self) -> str:
        """Hash of the content, 16 hexadecimal digits: equal policies have equal versions."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        digest: str = _sha256()(canonical.encode()).hexdigest()
        return digest[:16]

    # -- in and out -----------------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return a shipped policy: compute, data, none, readonly, shell, web-client or web-names."""
        shipped: Self = _shipped(cls)(name)
        return shipped

    @classmethod
    def load(cls, path: PathText) -> Self:
        """Read a policy file; the suffix tells YAML (default), TOML or JSON. Raises PolicySyntaxError, OSError."""
        data, lines = parse.parse_path(Path(path))
        return cls.from_data(data, file=str(path), lines=lines)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the policy that plain data of the policy file's shape describes. Raises PolicySyntaxError."""
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any, *, file: str | None = None, lines: Mapping[Where, int] | None = None) -> Self:
        """Return the policy of a file's data. `lines` maps key paths to 1-based lines, for errors."""
        return cls(**read_fields(data, empty=cls(), preset=cls.preset, file=file, lines=lines))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data of the policy file's shape; `from_dict` gives an equal policy back."""
        data: dict[str, Any] = {"version": 1, "name": self.name, "mode": str(self.mode)}
        if self.modes:
            data["modes"] = {group: str(mode) for group, mode in self.modes}
        for key, rules in (("fs", self.files), ("net", self.network), ("process", self.processes)):
            if rules:
                data[key] = [rule.fragment() for rule in rules]
        if self.imports:
            data["import"] = _import_lists(self.imports)
        data |= {one.key: stated for one in SECTIONS if (stated := one.write(self)) is not None}
        return data

    def to_yaml(self) -> str:
        """Return the policy as the text of a policy file."""
        return to_yaml(self)

    # -- grants ---------------------------------------------------------------------------------------------------

    def allow_read(self, path: PathText) -> Self:
        """Grant reading, listing and looking at `path` and all below it."""
        return self._with_file(path, allow=("read",))

    def allow_write(self, path: PathText) -> Self:
        """Grant writing, creating, deleting and changing metadata at and below `path`; reading is `allow_read`."""
        return self._with_file(path, allow=("write", "create", "delete"))

    def allow_exec(self, path: PathText) -> Self:
        """Grant running the program at `path` (or below it) with the libraries it is linked to; implies fork."""
        return self._with("processes", ProcessRule(operation=EXEC, path=units.path(path, variables=False)))

    def allow_fork(self) -> Self:
        """Grant child processes; threads need no grant."""
        return self._with("processes", ProcessRule(operation=FORK))

    def allow_connect(self, target: str) -> Self:
        """Grant connecting and sending to "host-or-cidr:port", "*:port" or "unix:/path".

        "*.example.org:443" grants TLS to all names below, through the egress proxy alone.
        """
        return self._with_net("connect", target, True)

    def allow_http(self, target: str) -> Self:
        """Grant requests through the egress proxy: "GET api.example.org/v1/*", or "GET https://...", which it opens."""
        return self._with_net("http", target, True)

    def allow_bind(self, target: str) -> Self:
        """Grant binding and listening on "address:port" (port 0: any that the kernel picks) or "unix:/path"."""
        return self._with_net("bind", target, True)

    def allow_import(self, *names: str) -> Self:
        """Grant importing modules with their submodules; "*" is any, "@stdlib" the standard library.

        "@stdlib-no-ffi" is that without `ctypes`.
        """
        return self._with_names("module", names, True)

    def allow_native(self, *names: str) -> Self:
        """Grant modules with their native code (implies `allow_import`); "*" is any, a path one shared library."""
        return self._with_names("native", names, True)

    def allow_jit(self) -> Self:
        """Grant memory that is written and then run, for programs and libraries that make machine code (numba, node).

        Which files may be loaded as native code stays as it is; the guest can bring code of its own, under this policy.
        """
        return msgspec.structs.replace(self, jit=True)

    def allow_io_priority(self) -> Self:
        """Grant setting the I/O priority of the sandbox's own processes (ionice). A real-time class stays refused."""
        return msgspec.structs.replace(self, switches=switched(self.switches, Capability.PRIORITY_IO, True))

    def allow_random(self) -> Self:
        """Grant the kernel's random numbers (the default)."""
        return msgspec.structs.replace(self, random=True, random_seed=None)

    # -- denials --------------------------------------------------------------------------------------------------

    def deny(self, what: PathText, *targets: PathText) -> Self:
        """Refuse a capability on targets, or, given a path alone, every file operation there.

        `deny("fs.read", "/srv/private")`, `deny("fs", "/srv/private")`, `deny("/srv/private")`,
        `deny("net.connect", "10.0.0.0/8:*")`, `deny("net.http", "POST api.example.org/*")`,
        `deny("process.exec", "/bin/sh")`, `deny("process.fork")`,
        `deny("import.module", "ctypes")`, `deny("import.native", "_ctypes")`, `deny("random.read")`.
        """
        key = os.fspath(what)
        if key.startswith(("/", "@")) and not targets:
            return self._with_file(key, deny=FILE_RIGHTS)
        words = [os.fspath(target) for target in targets]
        if key in ("process.fork", "random.read"):
            if words:
                raise PolicySyntaxError(f"deny {key}: takes no target", hint=f'write deny("{key}")')
            return self.deny_fork() if key == "process.fork" else self.deny_random()
        if key not in _DENIERS:
            known = [*_DENIERS, "process.fork", "random.read"]
            raise PolicySyntaxError(f"deny {key!r}: not something a rule can deny", hint=units.did_you_mean(key, known))
        if not words:
            raise PolicySyntaxError(f"deny {key}: no target", hint=f'name it: deny("{key}", "...")')
        policy = self
        for word in words:
            policy = _DENIERS[key](policy, word)
        return policy

    def deny_read(self, path: PathText) -> Self:
        """Refuse reading, listing and looking at `path` and all below it."""
        return self._with_file(path, deny=("read",))

    def deny_write(self, path: PathText) -> Self:
        """Refuse writing, creating and deleting at and below `path`."""
        return self._with_file(path, deny=("write", "create", "delete"))

    def deny_exec(self, path: PathText) -> Self:
        """Refuse running the program at `path` or any below it."""
        rule = ProcessRule(operation=EXEC, path=units.path(path, variables=False), allow=False)
        return self._with("processes", rule)

    def deny_fork(self) -> Self:
        """Refuse child processes, even where an exec grant would imply them."""
        return self._with("processes", ProcessRule(operation=FORK, allow=False))

    def deny_connect(self, target: str) -> Self:
        """Refuse connecting and sending to a part of what a wider rule grants."""
        return self._with_net("connect", target, False)

    def deny_bind(self, target: str) -> Self:
        """Refuse binding to a part of what a wider rule grants."""
        return self._with_net("bind", target, False)

    def deny_http(self, target: str) -> Self:
        """Refuse a part of the HTTP requests that a wider rule grants."""
        return self._with_net("http", target, False)

    def deny_import(self, *names: str) -> Self:
        """Refuse importing modules and their submodules."""
        return self._with_names("module", names, False)

    def deny_native(self, *names: str) -> Self:
        """Refuse the native code of modules."""
        return self._with_names("native", names, False)

    def deny_jit(self) -> Self:
        """Take `allow_jit` back. `allow_native("*")` grants such memory too."""
        return msgspec.structs.replace(self, jit=False)

    def deny_io_priority(self) -> Self:
        """Take `allow_io_priority` back."""
        return msgspec.structs.replace(self, switches=switched(self.switches, Capability.PRIORITY_IO, False))

    def deny_random(self, *, seed: int | None = None) -> Self:
        """Refuse the kernel's random numbers; `random` then starts from `seed`, the same in every run."""
        return msgspec.structs.replace(self, random=False, random_seed=read_seed(seed))

    # -- the rest -------------------------------------------------------------------------------------------------

    def with_limits(self, **limits: Any) -> Self:
        """Change limits, by the policy file's keys and units: `wall="30s"`, `memory="256MiB"`; None is no limit."""
        return msgspec.structs.replace(self, limits=read_limits(limits, base=self.limits))

    def with_egress(self, **limits: Any) -> Self:
        """Bound what one sandbox has of the egress proxy: `requests=100, sent="1MiB", received="10MiB", connections=4`.

        `requests`, `sent` and `received` are for its life, `connections` at a time; None is no limit.
        `inspect_tls=True`: the proxy opens the TLS of hosts that https rules or secrets speak of, with `cryptography`.
        """
        inspect = limits.pop(INSPECT_TLS, self.inspect_tls)
        if not isinstance(inspect, bool):
            raise PolicySyntaxError(f"egress.{INSPECT_TLS}: expected true or false", hint="write true or false")
        return msgspec.structs.replace(self, egress=read_egress(limits, base=self.egress), inspect_tls=inspect)

    def with_secret(self, name: str, source: str, inject: str) -> Self:
        """Have the egress proxy put a credential into requests, which the guest never sees.

        `source`: "env:NAME" or "file:/path", read by the supervisor when a sandbox starts. `inject`: what it becomes
        and where, such as "bearer https://api.example.org/v1/*" (without https://: into plain HTTP), "basic ..." (of
        user:password), "header:X-Api-Key ...", "query:key ..." (a parameter) or "sigv4:REGION/SERVICE ..." (of
        ACCESS_KEY_ID:SECRET_ACCESS_KEY, and :SESSION_TOKEN of temporary ones).
        """
        added = secret({"name": name, "from": source, "inject": inject})
        return msgspec.structs.replace(self, secrets=(*self.secrets, added))

    def with_ask(self, *entries: str | dict[str, str]) -> Self:
        """Have the host asked, by `spawn(on_ask=)`, about operations that no rule speaks of.

        Capabilities: `net.connect`, `net.http`; `fs.read`: files that are opened to be read. Or rules, for what they
        cover alone: `{"connect": "*.example.org:443"}`, `{"http": "GET example.org/*"}`, `{"read": "/srv/data"}`. What
        a rule denies, and the floor, is never asked about. No entries: ask about nothing. Raises PolicySyntaxError.
        """
        return msgspec.structs.replace(self, ask=read_ask(entries))

    def with_workspace(self, size: str | int | None) -> Self:
        """Give each sandbox so much memory for files of its own (64KiB to 1TiB), such as `64MiB`; None is none."""
        return msgspec.structs.replace(self, workspace=workspace_size(size))

    def with_environment(self, directory: PathText | None) -> Self:
        """Have guests import the packages of the environment in `directory`, and none of the interpreter's own.

        Which of them a guest may import is for import rules to say; `Environment.grant` adds both. None: the
        interpreter's.
        """
        return msgspec.structs.replace(self, environment=None if directory is None else read_environment(directory))

    def with_mode(self, mode: Mode | str, *groups: str) -> Self:
        """Enforce or monitor: the whole policy, or only the named groups (fs, net, process, import, random)."""
        mode = read_mode(mode)
        if not groups:
            return msgspec.structs.replace(self, mode=mode, modes=())
        for group in groups:
            if group not in MODE_GROUPS:
                raise PolicySyntaxError(
                    f"mode of {group!r}: no such group", hint=units.did_you_mean(group, MODE_GROUPS)
                )
        kept = {g: m for g, m in self.modes if g not in groups} | dict.fromkeys(groups, mode)
        return msgspec.structs.replace(self, modes=tuple(kept.items()))

    def with_name(self, name: str) -> Self:
        """Return the same policy under another name."""
        return msgspec.structs.replace(self, name=units.policy_name(name))

    def _with(self, field: str, *rules: Rule) -> Self:
        return msgspec.structs.replace(self, **{field: getattr(self, field) + rules})

    def _with_file(self, path: PathText, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> Self:
        return self._with("files", FileRule(path=units.path(path), allow=allow, deny=deny))

    def _with_net(self, action: str, target: str, allow: bool) -> Self:
        return self._with(
            "network", NetworkRule(action=action, target=net_rule_target(target, action=action), allow=allow)
        )

    def _with_names(self, kind: str, names: tuple[str, ...], allow: bool) -> Self:
        rules = [
            ImportRule(kind=kind, name=units.module_name(name, native=kind == "native"), allow=allow) for name in names
        ]
        return self._with("imports", *rules)


@cache
def _shipped(kind: type[_P]) -> Callable[[str], _P]:
    """Return what reads a preset once as this kind of policy."""
    known: dict[str, _P] = {}

    def read(name: str) -> _P:
        if not isinstance(name, str) or name not in known:
            path = parse.preset_path(name)
            known[name] = kind.load(path)
        return known[name]

    return read


def _denier_of(rights: tuple[str, ...]) -> Callable[[PolicyModel, PathText], PolicyModel]:
    def deny(policy: PolicyModel, path: PathText) -> PolicyModel:
        return policy._with_file(path, deny=rights)  # noqa: SLF001

    return deny


_DENIERS: dict[str, Any] = {
    "fs": _denier_of(FILE_RIGHTS),
    **{f"fs.{right}": _denier_of((right,)) for right in FILE_RIGHTS},
    "net.connect": PolicyModel.deny_connect,
    "net.send": PolicyModel.deny_connect,
    "net.http": PolicyModel.deny_http,
    "net.bind": PolicyModel.deny_bind,
    "net.listen": PolicyModel.deny_bind,
    "process.exec": PolicyModel.deny_exec,
    "import.module": PolicyModel.deny_import,
    "import.native": PolicyModel.deny_native,
}


def _import_lists(rules: tuple[ImportRule, ...]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for rule in rules:
        lists.setdefault(rule.key, []).append(rule.name)
    return lists


@cache
def _sha256() -> Callable[[bytes], Any]:
    """Return CPython's own, as `random` takes it: hashlib loads OpenSSL with it, 3 ms of each first start."""
    for name in ("_sha2", "_sha256"):  # 3.12, 3.11
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).sha256  # type: ignore[no-any-return]
    return importlib.import_module("hashlib").sha256  # type: ignore[no-any-return]
