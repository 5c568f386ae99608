# ruff: noqa: E501 - the text of a generated page
"""Write what became of each technique: docs/escapes.md in short, records/results.md in full."""

from __future__ import annotations

from itertools import groupby

from tests.escape.__main__ import Red, Results, totals
from tests.escape.harness import Outcome
from tests.escape.technique import Alone, Bare, Careless, Technique

HEAD = """# Escapes: what was tried

Written by `python -m tests.escape --markdown`; do not edit. This page has the totals and all that is known not to be
stopped; `tests/escape/records/results.md` has a row for each technique. `python -m tests.escape` prints the same as a table;
`--only TEXT` tries some, `--configuration vm` boots a kernel with BPF-LSM (`--whole` tries there what no BPF program
decides, too), `--defences` switches each defence off in turn, `--save` and `--load` keep results.

A technique is one file below `tests/escape/techniques/`: the guest's code, its source, what stops it, the event that must
exist, and a control that gets through: the same code under a policy that grants it, in a plain process, or against a host that reads
with plain names what a guest left. It is judged
from outside: by canary files, listeners, other processes, kernel objects, what `/proc` says of the cell, the supervisor
and a sibling sandbox; what cannot be seen from outside, the attack says of itself.

- **host-root**, **host-user**: process isolation, supervisor as root and as uid 65534: namespaces, root view, Landlock,
  seccomp with notification; as root also cgroup-BPF for connections and control groups for limits.
- **vm**: process isolation on a kernel with BPF-LSM, which decides in the place of Landlock and the root view.
- **thread**: thread isolation, as a user. A guard rail, not a boundary: what it does not stop is listed with the reason.

**stopped**: nothing got through, and the event exists. **not stopped**: it got through, as its file says it does.
**-**: it means nothing there, or cannot be bounded. Empty: not tried there.
"""

RECORDS = """# Results of each technique

Written by `python -m tests.escape --markdown`; do not edit. `docs/escapes.md` says how to read it.
"""


def document(techniques: list[Technique], results: Results, red: Red, note: str = "") -> str:
    """Return all results, a row for each technique."""
    parts = [RECORDS, _totals(results, note)]
    if red:
        parts.append("\n".join(_defences(red)))
    for group, members in groupby(techniques, key=lambda technique: technique.group):
        parts.append(_group(group, list(members), results))
    parts.append(_sources(techniques))
    return "\n".join(parts)


def summary(techniques: list[Technique], results: Results, red: Red, note: str = "") -> str:
    """Return the page for readers: totals, and what is not stopped."""
    parts = [HEAD, _totals(results, note), _gaps(techniques), _thread_reasons(techniques)]
    if red:
        parts.append(_defences(red)[0])
    return "\n".join(parts)


def _totals(results: Results, note: str) -> str:
    rows = {name: totals(outcomes) for name, outcomes in results.items()}
    columns = list(next(iter(rows.values())))
    lines = ["## Totals\n", f"| configuration | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(str(row[column]) for column in columns)} |" for name, row in rows.items()]
    lines += ["", note] if note else []
    return "\n".join(lines) + "\n"


def _gaps(techniques: list[Technique]) -> str:
    gaps = [f"| `{technique.key}` | everywhere | {_safe(technique.gap)} |" for technique in techniques if technique.gap]
    gaps += [f"| `{each.key}` | BPF-LSM | {_safe(each.gap_bpf)} |" for each in techniques if each.gap_bpf]
    lines = ["## What process isolation does not stop\n", "| technique | where | why |", "|---|---|---|", *gaps]
    return "\n".join(lines) + "\n" if gaps else ""


def _defences(red: Red) -> tuple[str, str]:
    """Return the table, and the lists of what it counts."""
    lines = [
        "## Without one defence\n",
        "Each defence is switched off in the supervisor under attack (`tests/escape/defences.py`) and the techniques are",
        "tried again. What then gets through is stopped by that defence alone; the rest is stopped twice. Of two at once, what",
        "either alone lets through as well is left out of the list.\n",
        "| without | configuration | tried | get through | stopped with another event or ending |",
        "|---|---|---|---|---|",
    ]
    details = []
    for name, by_configuration in red.items():
        for configuration, lists in by_configuration.items():
            known = [red.get(part, {}).get(configuration, {}) for part in name.split("+") if part != name]
            through, otherwise = (
                [key for key in lists[kind] if not any(key in one.get(kind, ()) for one in known)]
                for kind in ("through", "otherwise")
            )
            lines.append(f"| {name} | {configuration} | {len(lists['tried'])} | {len(through)} | {len(otherwise)} |")
            if through or otherwise:
                details.append(f"\n**Without {name}** ({configuration}):\n")
            if through:
                details.append(f"- get through: {_keys(through)}")
            if otherwise:
                details.append(f"- stopped with another event or ending: {_keys(otherwise)}")
    return "\n".join(lines) + "\n", "\n".join(details) + "\n"


def _keys(keys: list[str]) -> str:
    by_group = groupby(sorted(keys), key=lambda key: key.partition("/")[0])
    return "; ".join(f"{group}: {', '.join(key.partition('/')[2] for key in members)}" for group, members in by_group)


def _group(group: str, members: list[Technique], results: Results) -> str:
    names = list(results)
    lines = [
        f"## {group}\n",
        f"| technique | stopped by | event | control | {' | '.join(names)} |",
        "|---" * (4 + len(names)) + "|",
    ]
    for technique in members:
        marks = [_mark(results[name].get(technique.key)) for name in names]
        words = [
            f"`{technique.name}`: {technique.title}",
            ", ".join(technique.stops),
            _event(technique),
            _control(technique),
        ]
        lines.append("| " + " | ".join(_safe(word) for word in [*words, *marks]) + " |")
    return "\n".join(lines) + "\n"


def _mark(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    names = {"stopped": "stopped", "escapes": "not stopped", "not run": "-", "left out": "left out"}
    return names[outcome.verdict] + ("" if outcome.good else " (**not as documented**)")


def _event(technique: Technique) -> str:
    if not technique.event:
        return f"none: {technique.no_event}"
    return " or ".join(f"`{capability}`" for capability in technique.event)


def _control(technique: Technique) -> str:
    if isinstance(technique.control, Alone):
        return f"none: {technique.control.why}"
    if isinstance(technique.control, Bare):
        return "unsandboxed, as root" if technique.control.root else "unsandboxed"
    return "a careless host" if isinstance(technique.control, Careless) else "granted by policy"


def _thread_reasons(techniques: list[Technique]) -> str:
    lines = ["## What thread isolation does not stop\n", "| technique | why |", "|---|---|"]
    lines += [
        f"| `{technique.key}` | {_safe(technique.thread.why)} |"
        for technique in techniques
        if technique.thread.outcome == "escapes"
    ]
    return "\n".join(lines) + "\n"


def _sources(techniques: list[Technique]) -> str:
    lines = ["## Sources\n", "| technique | source |", "|---|---|"]
    lines += [f"| `{technique.key}` | {_safe(technique.source)} |" for technique in techniques]
    return "\n".join(lines) + "\n"


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("__", "\\_\\_").replace("\n", " ")
