"""The sections of a policy file that are no lists of rules, each stated once: read, written, described and compared.

Reading, `to_dict`, the writer of YAML, the JSON Schema, `diff`, layers and suggestions go through `SECTIONS`. Another
section is a field of the model, the functions that make it up, and its row in `SECTIONS`; what it grants is decided by
the broker and enforced by the kernel as any rule is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ..capability import Capability
from ..errors import PolicySyntaxError
from . import fragments, units
from .asking import ASKABLE, RULES, SCHEMA, entries_of, read_ask
from .compiled import EgressLimits, Limits
from .reader import Reader
from .rules import PolicyFields, Secret, name_table
from .secrets import secret
from .workspace import workspace_size

INSPECT_TLS = "inspect_tls"
EGRESS_KEYS = (*units.EGRESS_KEYS, INSPECT_TLS)
SECRET_KEYS = ("name", "from", "inject")

#: Whether the guest may do more after it, the capability or key that changed, and its target or both values.
Difference = tuple[bool, str, str]


class Section(NamedTuple):
    """One section. `fields` are the policy's that it sets.

    `read` returns their values from the section's data, over those of a base. `write` returns the section's data, None
    where there is nothing to say. `differences` compares two policies. A policy over another's file may hold the
    section where it is `narrowing`: `differences` then tells what widens.
    """

    key: str
    fields: tuple[str, ...]
    read: Callable[[Reader, Any, PolicyFields], tuple[Any, ...]]
    write: Callable[[PolicyFields], Any]
    schema: fragments.Fragment
    differences: Callable[[PolicyFields, PolicyFields], Iterator[Difference]]
    narrowing: bool = True
    #: what a rule of this section grants, and the data that grants it: the suggestion where it is refused
    capability: Capability | None = None
    grant: Mapping[str, Any] | None = None

    def values(self, reader: Reader, data: Any, base: PolicyFields) -> dict[str, Any]:
        """Return the policy's fields as the section's data states them."""
        return dict(zip(self.fields, self.read(reader, data, base), strict=True))


# -- egress -----------------------------------------------------------------------------------------------------------


def read_egress(value: Mapping[str, Any], *, base: EgressLimits) -> EgressLimits:
    """Return `base` changed by policy-file keys and units; None is no limit. Raises PolicySyntaxError."""
    for key, item in value.items():
        if key not in units.EGRESS_KEYS:
            raise PolicySyntaxError(
                f"egress: unknown key {key[:60]!r}", hint=units.did_you_mean(key, units.EGRESS_KEYS)
            )
        field, parser, _ = units.EGRESS_KEYS[key]
        base = msgspec.structs.replace(base, **{field: None if item is None else parser(item, f"egress.{key}")})
    return base


def _egress(reader: Reader, data: Any, base: PolicyFields) -> tuple[EgressLimits, bool]:
    egress, inspect_tls = base.egress, base.inspect_tls
    for key, value in reader.mapping(("egress",), data, EGRESS_KEYS).items():
        if key == INSPECT_TLS:
            inspect_tls = reader.flag(("egress", key), value)
        else:
            egress = reader.read(("egress", key), read_egress, {key: value}, base=egress)
    return egress, inspect_tls


def _write_egress(policy: PolicyFields) -> dict[str, Any] | None:
    stated = {
        key: write(value)
        for key, (field, _, write) in units.EGRESS_KEYS.items()
        if (value := getattr(policy.egress, field)) is not None
    }
    if policy.inspect_tls:
        stated[INSPECT_TLS] = True
    return stated or (None if policy.egress == EgressLimits() else {})


def _egress_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    yield from _bounds("egress", units.EGRESS_KEYS, old.egress, new.egress)
    if old.inspect_tls is not new.inspect_tls:
        # what grants over TLS are rules; who looks into it widens nothing
        yield False, "egress.inspect_tls", f"{old.inspect_tls} -> {new.inspect_tls}".lower()


# -- memory and random ------------------------------------------------------------------------------------------------


def _memory(reader: Reader, data: Any, base: PolicyFields) -> tuple[bool]:
    stated = reader.mapping(("memory",), data, ("jit",))
    return (reader.flag(("memory", "jit"), stated.get("jit", base.jit)),)


def _memory_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    before, after = (policy.jit or name_table(policy.imports, "native").get("*", False) for policy in (old, new))
    if before is not after:
        yield after, "memory.exec", ""


def read_seed(value: Any) -> int | None:
    """Return a seed for reproducible random numbers, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise PolicySyntaxError("seed: expected a whole number", hint="use 0 to 2**63-1")
    return value


def _random(reader: Reader, data: Any, _base: PolicyFields) -> tuple[bool, int | None]:
    stated = reader.mapping(("random",), data, ("allow", "seed"))
    allow = reader.flag(("random", "allow"), stated.get("allow", True))
    seed = reader.read(("random", "seed"), read_seed, stated.get("seed"))
    if allow and seed is not None:
        reader.fail(("random", "seed"), "random.seed: has no effect while random is allowed", "write allow: false")
    return allow, seed


def _write_random(policy: PolicyFields) -> dict[str, Any]:
    return {"allow": policy.random} | ({} if policy.random_seed is None else {"seed": policy.random_seed})


def _random_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    if old.random is not new.random:
        yield new.random, "random.read", ""


def _switch(key: str, flag: str, capability: Capability, description: str) -> Section:
    """Return a section whose one flag grants a capability whole; broker and listener know no more of it."""

    def read(reader: Reader, data: Any, base: PolicyFields) -> tuple[tuple[Capability, ...]]:
        stated = reader.mapping((key,), data, (flag,))
        return (
            switched(
                base.switches, capability, reader.flag((key, flag), stated.get(flag, capability in base.switches))
            ),
        )

    def differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
        before, after = (capability in policy.switches for policy in (old, new))
        if before is not after:
            yield after, capability.value, ""

    return Section(
        key,
        ("switches",),
        read,
        lambda policy: {flag: True} if capability in policy.switches else None,
        fragments.mapping((flag,), {flag: fragments.FLAG}, description=description),
        differences,
        capability=capability,
        grant={flag: True},
    )


def switched(switches: tuple[Capability, ...], capability: Capability, on: bool) -> tuple[Capability, ...]:
    """Return the switches with one of them on or off."""
    return tuple(sorted({*switches, capability} if on else {*switches} - {capability}))


# -- ask and secrets --------------------------------------------------------------------------------------------------


def _ask(reader: Reader, data: Any, _base: PolicyFields) -> tuple[tuple[str, ...]]:
    named = reader.sequence(("ask",), data, "capabilities and rules: " + ", ".join((*ASKABLE, *RULES)))
    return (reader.read(("ask",), read_ask, named),)


def _ask_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    for name in sorted({*old.ask, *new.ask}):
        if (name in old.ask) != (name in new.ask):
            yield name in new.ask, "ask", name  # an answer may let through what no rule grants


def _secrets(reader: Reader, data: Any, base: PolicyFields) -> tuple[tuple[Secret, ...]]:
    found = []
    for i, item in enumerate(reader.sequence(("secrets",), data, "{name: ..., from: env:NAME, inject: ...}")):
        found.append(reader.read(("secrets", i), secret, reader.mapping(("secrets", i), item, SECRET_KEYS)))
    return ((*base.secrets, *found),)


def _secrets_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    # one from another source is another credential
    before, after = ({(one.name, one.inject, one.source) for one in policy.secrets} for policy in (old, new))
    for what in sorted(before ^ after):
        yield what in after, "secret", " ".join(what)


# -- workspace and environment ----------------------------------------------------------------------------------------


def _workspace(reader: Reader, data: Any, _base: PolicyFields) -> tuple[int | None]:
    return (reader.read(("workspace",), workspace_size, data),)


def _workspace_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    before, after = old.workspace, new.workspace
    if before != after:
        shown = ["none" if value is None else units.size_text(value) for value in (before, after)]
        yield (after or 0) > (before or 0), "workspace", " -> ".join(shown)


def read_environment(value: Any) -> str | None:
    """Return the directory of an environment, None for the interpreter's own packages. Raises PolicySyntaxError."""
    if value is None:
        return None
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.startswith("/") or not text.isprintable():
        raise PolicySyntaxError(
            f"environment {str(value)[:60]!r}: expected the absolute path of a directory",
            hint="`pyisolate environment list` prints those that are built",
        )
    return os.path.realpath(text)


def _environment(reader: Reader, data: Any, _base: PolicyFields) -> tuple[str | None]:
    return (reader.read(("environment",), read_environment, data),)


def _environment_differences(old: PolicyFields, new: PolicyFields) -> Iterator[Difference]:
    before, after = old.environment, new.environment
    if before != after:  # other code than before, which no comparison of names can tell apart
        yield after is not None, "environment", " -> ".join(one or "none" for one in (before, after))


# -- limits -----------------------------------------------------------------------------------------------------------


def read_limits(value: Mapping[str, Any], *, base: Limits) -> Limits:
    """Return `base` changed by policy-file keys and units; None is "no limit of its own"."""
    for key in value:
        if key not in units.LIMIT_KEYS:
            raise PolicySyntaxError(f"limits: unknown key {key[:60]!r}", hint=units.did_you_mean(key, units.LIMIT_KEYS))
    return msgspec.structs.replace(base, **{units.LIMIT_KEYS[key][0]: _limit(item, key) for key, item in value.items()})


def _limit(value: Any, key: str) -> Any:
    if value is None and key != "between_requests":
        return None
    return units.LIMIT_KEYS[key][1](value, f"limits.{key}")


def _limits(reader: Reader, data: Any, base: PolicyFields) -> tuple[Limits]:
    limits = base.limits
    for key, value in reader.mapping(("limits",), data, units.LIMIT_KEYS).items():
        limits = reader.read(("limits", key), read_limits, {key: value}, base=limits)
    return (limits,)


def _write_limits(policy: PolicyFields) -> dict[str, Any]:
    return {
        key: None if (value := getattr(policy.limits, field)) is None else write(value)
        for key, (field, _, write) in units.LIMIT_KEYS.items()
    }


def _bounds(what: str, keys: dict[str, tuple[str, Any, Any]], old: object, new: object) -> Iterator[Difference]:
    for key, (field, _, write) in keys.items():
        before, after = getattr(old, field), getattr(new, field)
        if before != after:
            wider = after is None or (before is not None and after > before)
            shown = ["none" if value is None else str(write(value)) for value in (before, after)]
            yield wider, f"{what}.{key}", " -> ".join(shown)


# -- all of them ------------------------------------------------------------------------------------------------------


def _schema_of_bounds(keys: dict[str, tuple[str, Any, Any]], **more: Any) -> fragments.Fragment:
    return {key: fragments.or_null(fragments.limit(parse)) for key, (_, parse, _) in keys.items()} | more


#: In the order of policy files.
SECTIONS = (
    Section(
        "egress",
        ("egress", "inspect_tls"),
        _egress,
        _write_egress,
        fragments.mapping(
            EGRESS_KEYS,
            _schema_of_bounds(units.EGRESS_KEYS, **{INSPECT_TLS: fragments.FLAG}),
            description="What one sandbox has of the egress proxy.",
        ),
        _egress_differences,
    ),
    Section(
        "memory",
        ("jit",),
        _memory,
        lambda policy: {"jit": True} if policy.jit else None,
        fragments.mapping(("jit",), {"jit": fragments.FLAG}, description="jit: memory that is written and then run."),
        _memory_differences,
        capability=Capability.MEMORY_EXEC,
        grant={"jit": True},
    ),
    _switch("priority", "io", Capability.PRIORITY_IO, "io: whose requests a disk serves first, of its own processes."),
    Section(
        "random",
        ("random", "random_seed"),
        _random,
        _write_random,
        fragments.mapping(
            ("allow", "seed"),
            {"allow": fragments.FLAG, "seed": {"type": ["integer", "null"], "minimum": 0}},
            description="The kernel's random numbers.",
        ),
        _random_differences,
        capability=Capability.RANDOM_READ,
        grant={"allow": True},
    ),
    Section(
        "ask",
        ("ask",),
        _ask,
        lambda policy: entries_of(policy.ask) or None,
        fragments.items(SCHEMA, "What the host is asked about where no rule speaks of it."),
        _ask_differences,
    ),
    Section(
        "secrets",
        ("secrets",),
        _secrets,
        lambda policy: [one.fragment() for one in policy.secrets] or None,
        fragments.items(
            fragments.mapping(SECRET_KEYS, dict.fromkeys(SECRET_KEYS, fragments.TEXT), required=list(SECRET_KEYS)),
            "Credentials that the egress proxy puts into requests: where they come from, never values.",
        ),
        _secrets_differences,
        narrowing=False,
    ),
    Section(
        "workspace",
        ("workspace",),
        _workspace,
        lambda policy: None if policy.workspace is None else units.size_text(policy.workspace),
        {
            **fragments.or_null(fragments.number(units.SIZE_UNITS)),
            "description": "Memory for the guest's own files.",
        },
        _workspace_differences,
    ),
    Section(
        "environment",
        ("environment",),
        _environment,
        lambda policy: policy.environment,
        {
            **fragments.or_null({"type": "string", "pattern": "^/"}),
            "description": "The directory of an environment, whose packages guests import.",
        },
        _environment_differences,
    ),
    Section(
        "limits",
        ("limits",),
        _limits,
        _write_limits,
        fragments.mapping(
            units.LIMIT_KEYS,
            _schema_of_bounds(units.LIMIT_KEYS),
            description="null is no limit of the policy's own.",
        ),
        lambda old, new: _bounds("limit", units.LIMIT_KEYS, old.limits, new.limits),
    ),
)

_GRANTING = {section.capability: section for section in SECTIONS if section.grant is not None}


def section_that_grants(capability: Capability) -> dict[str, Any] | None:
    """Return new data by which a section of the policy grants a capability; None where none does."""
    section = _GRANTING.get(capability)
    return None if section is None else {section.key: dict(section.grant or {})}
