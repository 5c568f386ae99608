"""`Policy` and its rules: immutable values that say what a guest may do, the same on every machine and kernel.

A policy is kept in one canonical form (rules sorted, merged, contradictions settled as "deny wins"), so builders
commute, equal policies are equal objects, and `version` is a hash of the content.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from ..decision import Mode
from ..errors import PolicySyntaxError
from . import units
from .compiled import Limits
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

#: policy key -> (field of `Limits`, parser, writer)
LIMIT_KEYS: dict[str, tuple[str, Any, Any]] = {
    "wall": ("wall_s", units.duration, units.duration_text),
    "cpu": ("cpu_s", units.duration, units.duration_text),
    "memory": ("memory_bytes", units.size, units.size_text),
    "processes": ("processes", units.count, int),
    "open_files": ("open_files", units.count, int),
    "file_size": ("file_size_bytes", units.size, units.size_text),
    "output": ("output_bytes", units.size, units.size_text),
    "messages": ("messages", units.count, int),
}

PathText = str | os.PathLike[str]


class Policy(msgspec.Struct, frozen=True, kw_only=True, dict=True, repr_omit_defaults=True):
    """What a guest may do. Every builder returns a new policy; nothing is granted that no rule grants.

    The most specific rule decides; at equal length deny beats allow, whichever was added first.
    """

    name: str = "policy"
    mode: Mode = Mode.ENFORCE
    #: rule groups whose mode differs from `mode`: ("fs", Mode.MONITOR), ...
    modes: tuple[tuple[str, Mode], ...] = ()
    files: tuple[FileRule, ...] = ()
    network: tuple[NetworkRule, ...] = ()
    processes: tuple[ProcessRule, ...] = ()
    imports: tuple[ImportRule, ...] = ()
    random: bool = True
    random_seed: int | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        force(self, "modes", tuple(sorted({g: m for g, m in self.modes if m is not self.mode}.items())))
        force(self, "files", canonical_files(self.files))
        force(self, "network", canonical_others(self.network))
        force(self, "processes", canonical_others(self.processes))
        force(self, "imports", canonical_others(self.imports))

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
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    # -- in and out -----------------------------------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str) -> Policy:
        """Return a shipped policy: compute, data, none, readonly or web-client."""
        from .load import load_preset

        return load_preset(name)

    @classmethod
    def load(cls, path: PathText) -> Policy:
        """Read a policy file; the suffix tells YAML (default), TOML or JSON. Raises PolicySyntaxError, OSError."""
        from .load import load_path

        return load_path(Path(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Policy:
        """Return the policy that plain data of the policy file's shape describes. Raises PolicySyntaxError."""
        from .schema import read_policy

        return read_policy(data)

    @classmethod
    def learn(cls, events: Any, *, generalise: int = 1, base: Policy | None = None) -> Policy:
        """Return `base` with grants for what `events` (denials, usually of monitor mode) needed; see `learn.learn`."""
        from .learn import learn

        return learn(events, generalise=generalise, base=base)

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
        data["random"] = {"allow": self.random}
        if self.random_seed is not None:
            data["random"]["seed"] = self.random_seed
        data["limits"] = {
            key: None if (value := getattr(self.limits, field)) is None else write(value)
            for key, (field, _, write) in LIMIT_KEYS.items()
        }
        return data

    def to_yaml(self) -> str:
        """Return the policy as the text of a policy file."""
        from .write import to_yaml

        return to_yaml(self)

    # -- grants ---------------------------------------------------------------------------------------------------

    def allow_read(self, path: PathText) -> Policy:
        """Grant reading, listing and looking at `path` and all below it."""
        return self._with_file(path, allow=("read",))

    def allow_write(self, path: PathText) -> Policy:
        """Grant writing, creating, deleting and changing metadata at and below `path`; reading is `allow_read`."""
        return self._with_file(path, allow=("write", "create", "delete"))

    def allow_exec(self, path: PathText) -> Policy:
        """Grant running the program at `path` (or below it) with the libraries it is linked to; implies fork."""
        return self._with("processes", ProcessRule(operation=EXEC, path=units.path(path, variables=False)))

    def allow_fork(self) -> Policy:
        """Grant child processes; threads need no grant."""
        return self._with("processes", ProcessRule(operation=FORK))

    def allow_connect(self, target: str) -> Policy:
        """Grant connecting and sending to "host-or-cidr:port", "*:port" or "unix:/path"."""
        return self._with_net("connect", target, True)

    def allow_bind(self, target: str) -> Policy:
        """Grant binding and listening on "address:port" (port 0: any that the kernel picks) or "unix:/path"."""
        return self._with_net("bind", target, True)

    def allow_import(self, *names: str) -> Policy:
        """Grant importing modules with their submodules; "*" is any, "@stdlib" the standard library."""
        return self._with_names("module", names, True)

    def allow_native(self, *names: str) -> Policy:
        """Grant modules with their native code (implies `allow_import`); "*" is any, a path one shared library."""
        return self._with_names("native", names, True)

    def allow_random(self) -> Policy:
        """Grant the kernel's random numbers (the default)."""
        return msgspec.structs.replace(self, random=True, random_seed=None)

    # -- denials --------------------------------------------------------------------------------------------------

    def deny(self, what: PathText, *targets: PathText) -> Policy:
        """Refuse a capability on targets, or, given a path alone, every file operation there.

        `deny("fs.read", "/srv/private")`, `deny("fs", "/srv/private")`, `deny("/srv/private")`,
        `deny("net.connect", "10.0.0.0/8:*")`, `deny("process.exec", "/bin/sh")`, `deny("process.fork")`,
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

    def deny_read(self, path: PathText) -> Policy:
        """Refuse reading, listing and looking at `path` and all below it."""
        return self._with_file(path, deny=("read",))

    def deny_write(self, path: PathText) -> Policy:
        """Refuse writing, creating and deleting at and below `path`."""
        return self._with_file(path, deny=("write", "create", "delete"))

    def deny_exec(self, path: PathText) -> Policy:
        """Refuse running the program at `path` or any below it."""
        rule = ProcessRule(operation=EXEC, path=units.path(path, variables=False), allow=False)
        return self._with("processes", rule)

    def deny_fork(self) -> Policy:
        """Refuse child processes, even where an exec grant would imply them."""
        return self._with("processes", ProcessRule(operation=FORK, allow=False))

    def deny_connect(self, target: str) -> Policy:
        """Refuse connecting and sending to a part of what a wider rule grants."""
        return self._with_net("connect", target, False)

    def deny_bind(self, target: str) -> Policy:
        """Refuse binding to a part of what a wider rule grants."""
        return self._with_net("bind", target, False)

    def deny_import(self, *names: str) -> Policy:
        """Refuse importing modules and their submodules."""
        return self._with_names("module", names, False)

    def deny_native(self, *names: str) -> Policy:
        """Refuse the native code of modules."""
        return self._with_names("native", names, False)

    def deny_random(self, *, seed: int | None = None) -> Policy:
        """Refuse the kernel's random numbers; `random` then starts from `seed`, the same in every run."""
        from .schema import read_seed

        return msgspec.structs.replace(self, random=False, random_seed=read_seed(seed))

    # -- the rest -------------------------------------------------------------------------------------------------

    def with_limits(self, **limits: Any) -> Policy:
        """Change limits, by the policy file's keys and units: `wall="30s"`, `memory="256MiB"`; None is no limit."""
        from .schema import read_limits

        return msgspec.structs.replace(self, limits=read_limits(limits, base=self.limits))

    def with_mode(self, mode: Mode | str, *groups: str) -> Policy:
        """Enforce or monitor: the whole policy, or only the named groups (fs, net, process, import, random)."""
        from .schema import read_mode

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

    def with_name(self, name: str) -> Policy:
        """Return the same policy under another name."""
        return msgspec.structs.replace(self, name=units.policy_name(name))

    def _with(self, field: str, *rules: Rule) -> Policy:
        return msgspec.structs.replace(self, **{field: getattr(self, field) + rules})

    def _with_file(self, path: PathText, *, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> Policy:
        return self._with("files", FileRule(path=units.path(path), allow=allow, deny=deny))

    def _with_net(self, action: str, target: str, allow: bool) -> Policy:
        parsed = units.net_target(target, action=action)
        return self._with("network", NetworkRule(action=action, target=str(parsed), allow=allow))

    def _with_names(self, kind: str, names: tuple[str, ...], allow: bool) -> Policy:
        rules = [
            ImportRule(kind=kind, name=units.module_name(name, native=kind == "native"), allow=allow) for name in names
        ]
        return self._with("imports", *rules)


_DENIERS: dict[str, Any] = {
    "fs": lambda policy, path: policy._with_file(path, deny=FILE_RIGHTS),
    **{
        f"fs.{right}": lambda policy, path, right=right: policy._with_file(path, deny=(right,)) for right in FILE_RIGHTS
    },
    "net.connect": Policy.deny_connect,
    "net.send": Policy.deny_connect,
    "net.bind": Policy.deny_bind,
    "net.listen": Policy.deny_bind,
    "process.exec": Policy.deny_exec,
    "import.module": Policy.deny_import,
    "import.native": Policy.deny_native,
}


def _import_lists(rules: tuple[ImportRule, ...]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for rule in rules:
        lists.setdefault(rule.key, []).append(rule.name)
    return lists
