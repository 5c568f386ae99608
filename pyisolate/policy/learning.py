"""Denials -> a policy that would have allowed them: run in monitor mode, learn, read what was learned, enforce.

What is learned is only as good as the run that it was learned from, and a hostile run teaches hostile grants: read
the result (`learn_yaml` says where every rule comes from, `check` what looks wrong) before it is enforced.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..capability import Capability
from ..decision import DenialCode, Verdict
from ..errors import PolicySyntaxError, SandboxError
from ..telemetry.event import DenialEvent
from ..telemetry.sanitize import unescape
from . import learn_requests, units
from . import resolver as resources
from .broker import Broker
from .check import Severity, check
from .compile import compile_policy
from .grants import Grants, facts_of
from .model import PolicyModel
from .yaml_writer import to_yaml

#: Directories that are never granted for the sake of the files seen in them, besides "/" and what lies right below.
_TOO_WIDE = frozenset(
    ("/usr/bin", "/usr/lib", "/usr/local", "/usr/share", "/var/lib", "/var/log", "/var/run", "/var/tmp", "/dev/shm",
     "/etc/ssl", "/etc/ssh")
)  # fmt: skip
#: So many siblings make a directory (1), so many hosts a network (3).
_SIBLINGS, _HOSTS = 4, 3
#: Names are made and removed in a directory: that is where kernels grant it, so level 1 does, too.
_NAMES = (Capability.FS_CREATE, Capability.FS_DELETE)
_PROCESSORS = [(Capability.FS_READ, path) for path in resources.processors()]
#: Directories for everybody's temporary files. Names in them are made up, so they are other ones in every run.
_SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")
#: tmpab12cd34, sem.Xy12zW: what tempfile and mkstemp(3) end names with.
_MADE_UP = re.compile(r"/(?:[^/]*[._-]|tmp)?(?=[a-z_]{0,9}[A-Z0-9])[A-Za-z0-9_]{6,10}\Z")
_IN_HOME = re.compile(r"(?:/home/[^/]+|/root)?/\.")
_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"  # ip(7): what a bind to port 0 picks from
_CUT = re.compile(r"(?<!\\)(?:\\\\)*\\\+[0-9]+\Z")
_Key = tuple[Capability, str]
_P = TypeVar("_P", bound=PolicyModel)
_FILES = frozenset(capability for capability in Capability if capability.family == "fs")


def learned(events: Iterable[DenialEvent], *, generalise: int = 1, base: _P, **compile_options: Any) -> _P:
    """Return `base` with the grants that the operations in `events` need, and no more.

    `generalise` 0 grants exactly what was seen; 1 whole packages, `@processors` for the files of which it consists,
    the directory of names that were created or deleted, with what was done to them, and of four or more files that
    were used or paths of a host that were asked for, and /tmp for files that were made there and are gone; 2 the
    directory of every file and of every path below a host's top, and the kernel's ports for one that it picked; 3 also
    the directory above directories of the same use, networks of three or more hosts on a port, and all names of a
    domain of which three or more were asked for. Apart from that homes, hidden directories (but for names made outside
    of a home, in .git), /etc, /tmp and their like are never granted whole; what the base denies in so many words is
    granted one by one. No rule is learned that the others make needless, nor a right: without any one of them something
    is refused. What no rule can grant is left out. `compile_options` are `compile_policy`'s.
    """
    if generalise not in range(4):
        raise SandboxError(f"learn: generalise={generalise!r}: no such level", hint="use 0, 1, 2 or 3")
    grants = Grants(base, **compile_options)
    events = [event for event in events if event.capability is not Capability.FS_LOOKUP]
    asked = set(_counted(events)) | (_made_unseen(events) if generalise else set())
    seen = grants.refused(asked)
    if generalise >= 1 and any(one in seen for one in _PROCESSORS):
        grants.policy = grants.policy.allow_read("@processors")
    wanted = grants.refused(seen)
    denied = grants.denied(wanted)  # a rule's author meant that: granted one by one, never as part of something wider
    files = {one for one in wanted if one[0] in _FILES}
    # Programs and modules first: what they need comes along, and must not be taken for the directory it lies in.
    grants.add(_generalised(wanted - files - denied, generalise) + sorted(denied))
    grants.add(_generalised(grants.refused(files - denied), generalise))
    grants.add(grants.refused(seen))
    grants.shrink(seen)
    return grants.policy


def learned_yaml(
    events: Iterable[DenialEvent],
    *,
    generalise: int = 1,
    base: PolicyModel,
    given: bool = True,
    **compile_options: Any,
) -> str:
    """Return the learned policy as text; after each learned rule stands how often it was needed, and where first.

    The heading tells what is still refused, because no rule can grant it, which denials of the base were lifted, and
    what `check` remarks on. `given` False: the base is the default one, whose names the reader did not choose.
    """
    seen = [event for event in events if event.capability is not Capability.FS_LOOKUP]
    policy = learned(seen, generalise=generalise, base=base, **compile_options)
    known = {rule.text for rule in base.rules}
    tally = _Tally(Broker(compile_policy(policy, **compile_options)), known)
    for event in seen:
        tally.add(event)
    heading = [f"Learned from {sum(event.count for event in seen)} denials; read it before you enforce it."]
    for text, count in sorted(tally.ungranted.items()):
        heading.append(f"still refused ({count}): {text}")
        if request := learn_requests.nameless(text, compile_options.get("resolve") or resources.resolve_host):
            grant = f'{{connect: "{request.place}"}}'
            heading[-1] += f": {request.host} has no address here; where it has, {grant} grants it"
    for text, count in sorted(tally.lifted.items()):
        heading.append(f"allowed against a rule of the base ({count}): {text}")
    heading += _unsteady(policy, base if given else None, _counted(seen))
    remarks = (finding for finding in check(policy) if finding.severity is not Severity.NOTE)
    heading += [f"{finding}" for finding in remarks if finding.rule not in known]
    return to_yaml(policy, heading="\n".join(heading), comments=tally.comments())


class _Tally:
    """What became of the denials under the learned policy: which rule grants each now, or that none does."""

    def __init__(self, broker: Broker, known: set[str]) -> None:
        self._broker, self._known = broker, known
        self._counts: Counter[str] = Counter()
        self._origins: dict[str, str] = {}
        #: rules that grant what the broker was asked about
        self._asked: set[str] = set()
        self.ungranted: Counter[str] = Counter()
        self.lifted: Counter[str] = Counter()

    def add(self, event: DenialEvent) -> None:
        """Count an event for the rule that grants its operation now."""
        wanted = event.capability, _target(event) or ""
        decision = self._broker.decide(*wanted, **facts_of(wanted))
        if decision.code is not None:
            self.ungranted[f"{event.capability} {event.target}"] += event.count
            return
        if event.code is DenialCode.EXPLICIT_DENY:
            self.lifted[f"{event.capability} {event.target}"] += event.count
        if (rule := decision.rule) is not None and rule not in self._known:
            self._counts[rule] += event.count
            self._origins[rule] = self._origins.get(rule) or event.origin or ""
            if event.broker_decision is Verdict.WOULD_DENY:
                self._asked.add(rule)

    def comments(self) -> dict[str, str]:
        """Return how often each learned rule was needed, and where first."""
        return {
            rule: f"{count} time{'s' if count > 1 else ''}" + self._first(rule) for rule, count in self._counts.items()
        }

    def _first(self, rule: str) -> str:
        if self._origins[rule]:
            return f", first at {self._origins[rule]}"
        return "" if rule in self._asked else ", by native code"


def _unsteady(policy: PolicyModel, base: PolicyModel | None, seen: Iterable[_Key]) -> Iterator[str]:
    """Yield what the reader must know of names and ports that are other ones in every run."""
    known = {rule.path for rule in base.files} if base is not None else set()
    for rule in policy.files:
        if rule.path in _SCRATCH and rule.path not in known:
            yield f"{rule.path} is everybody's: better give the job a directory of its own, by TMPDIR"
    granted = {rule.target for rule in policy.network if rule.action == "connect"}
    for address in sorted(picked_ports(seen) & granted):
        yield f"{address} is a port that the kernel picked: another one in the next run (generalise=2 grants them all)"


def _counted(events: Iterable[DenialEvent]) -> Counter[_Key]:
    counts: Counter[_Key] = Counter()
    for event in events:
        for wanted in _wanted(event):
            counts[wanted] += event.count
    return counts


def _wanted(event: DenialEvent) -> Iterator[_Key]:
    """Yield what a call needed, as it was asked for; nothing of which the event holds only its beginning."""
    if (target := _target(event)) is not None:
        yield event.capability, target
    for text in event.also:
        capability, _, name = text.partition(" ")
        if not _CUT.search(name):
            yield Capability(capability), unescape(name)


def _target(event: DenialEvent) -> str | None:
    """Return the target as it was asked for, None where the event holds only its beginning."""
    return None if _CUT.search(event.target) else unescape(event.target)


def _generalised(seen: set[_Key], level: int) -> list[_Key]:
    keys = set(seen)
    if level >= 1:
        keys = _packages(keys)
        made = {path for capability, path in keys if capability is Capability.FS_CREATE}
        keys = _scratch(keys, made)
        # A rule holds for what is there when the sandbox starts: what is made later only its directory can grant.
        names = {key for key in keys if key[0] in _NAMES or (key[0] in _FILES and key[1] in made)}
        keys = _directories(keys, names, 1, hidden=True)
        keys = _directories(keys, keys & seen, _SIBLINGS if level == 1 else 1)
        keys = learn_requests.directories(keys, _SIBLINGS if level == 1 else 1)
    if level >= 2:
        keys = _picked_ports(keys)
    if level >= 3:
        keys = _directories(keys, keys - seen, 2)
        keys = learn_requests.domains(_networks(keys), _HOSTS)
    return sorted(keys)


def _packages(keys: set[_Key]) -> set[_Key]:
    names = (Capability.IMPORT_MODULE, Capability.IMPORT_NATIVE)
    return {(c, t.partition(".")[0] if c in names and not t.startswith("/") and ".so" not in t else t) for c, t in keys}


def _made_unseen(events: Iterable[DenialEvent]) -> set[_Key]:
    """Return the creations that records of native code do not tell of: when such a record is judged, the file is there.

    What it wrote to in a directory where it is no more, it made; a hook knows itself whether it asks to create.
    """
    asked = (Verdict.DENY, Verdict.WOULD_DENY)
    native = (one for one in events if one.capability is Capability.FS_WRITE and one.broker_decision not in asked)
    paths = {target for one in native if (target := _target(one)) is not None}
    return {
        (Capability.FS_CREATE, path)
        for path in paths
        if not os.path.lexists(path) and os.path.isdir(os.path.dirname(path))
    }


def _scratch(keys: set[_Key], made: set[str]) -> set[_Key]:
    """Replace what was made in a shared temporary directory, and is gone or has a made-up name, by the directory."""
    passing = {path for path in made if not os.path.lexists(path) or _MADE_UP.search(path)}
    return {(capability, _scratch_of(path, passing) if capability in _FILES else path) for capability, path in keys}


def _scratch_of(path: str, made: set[str]) -> str:
    for shared in _SCRATCH:
        if path.startswith(shared + "/") and f"{shared}/{path[len(shared) + 1 :].partition('/')[0]}" in made:
            return shared
    return path


def picked_ports(keys: Iterable[_Key]) -> set[str]:
    """Return the addresses that were listened on after a bind to port 0: another port in every run."""
    keys = set(keys)
    listened = {target for capability, target in keys if capability is Capability.NET_LISTEN}
    return {one for one in listened if (Capability.NET_BIND, f"{one.rpartition(':')[0]}:0") in keys}


def _picked_ports(keys: set[_Key]) -> set[_Key]:
    """Replace connections to a port that the kernel picked for this run by those to all that it picks from."""
    picked = picked_ports(keys)
    if not picked:
        return keys
    try:
        low, high = Path(_PORT_RANGE).read_text().split()
    except (OSError, ValueError):
        low, high = "32768", "60999"
    return {
        (capability, f"{target.rpartition(':')[0]}:{low}-{high}")
        if capability is Capability.NET_CONNECT and target in picked
        else (capability, target)
        for capability, target in keys
    }


def _directories(keys: set[_Key], among: set[_Key], count: int, *, hidden: bool = False) -> set[_Key]:
    """Replace `count` or more entries (of those in `among`) of one directory, used alike, by the directory.

    `hidden`: also by a hidden one that does not lie right in a home, .git of a project.
    """
    parents: dict[_Key, set[_Key]] = {}
    for capability, path in among:
        if capability.family == "fs":
            parents.setdefault((capability, path.rpartition("/")[0] or "/"), set()).add((capability, path))
    enough = {parent: entries for parent, entries in parents.items() if len(entries) >= count}
    replaced = {parent: entries for parent, entries in enough.items() if not _too_wide(parent[1], hidden=hidden)}
    return keys.difference(*replaced.values()) | set(replaced)


def _too_wide(path: str, *, hidden: bool) -> bool:
    home = path.startswith("/home/") and path.count("/") == 2
    private = bool(_IN_HOME.match(path)) if hidden else "/." in path
    return home or private or path in _TOO_WIDE or path.count("/") < 2 or path.startswith(("/proc/", "/sys/"))


def _networks(keys: set[_Key]) -> set[_Key]:
    """Replace three or more hosts of one /24 (or /64) on one port by the network."""
    groups: dict[_Key, list[_Key]] = {}
    for capability, target in keys:
        network = _network_of(capability, target)
        if network:
            groups.setdefault((capability, network), []).append((capability, target))
    result = set(keys)
    for (capability, network), entries in groups.items():
        if len(entries) >= _HOSTS:
            result -= set(entries)
            result.add((capability, network))
    return result


def _network_of(capability: Capability, target: str) -> str | None:
    if capability not in (Capability.NET_CONNECT, Capability.NET_SEND):
        return None
    try:
        parsed = units.net_target(target, action="connect")
    except PolicySyntaxError:
        return None
    if parsed.kind != "ip":
        return None
    prefix = 64 if ":" in parsed.host else 24
    network = ipaddress.ip_network(f"{parsed.host}/{prefix}", strict=False)
    return str(units.NetTarget("ip", str(network.network_address), prefix, parsed.port_low, parsed.port_high))
