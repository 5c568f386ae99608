"""`Policy` -> the text of a policy file, one rule a line, with room for a comment beside each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import yaml

from .rules import PolicyFields
from .sections import SECTIONS


class Writable(PolicyFields, Protocol):
    """A policy, as far as its text needs it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data of the policy file's shape."""
        ...


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def to_yaml(policy: Writable, *, heading: str = "", comments: Mapping[str, str] | None = None) -> str:
    """Return a policy file's text; `comments` maps a rule's `text` to the comment after it."""
    comments = comments or {}
    data = policy.to_dict()
    out = [f"# {line}".rstrip() for line in heading.splitlines()]
    out += [f"version: {data['version']}", f"name: {_flow(data['name'])}", f"mode: {data['mode']}"]
    if "modes" in data:
        out.append(f"modes: {_flow(data['modes'])}")
    for key, rules in (("fs", policy.files), ("net", policy.network), ("process", policy.processes)):
        if rules:
            out.append(f"{key}:")
            out += [f"  - {_flow(rule.fragment())}{_comment(comments.get(rule.text))}" for rule in rules]
    if "import" in data:
        out.append("import:")
        for key, names in data["import"].items():
            notes = [comments[rule.text] for rule in policy.imports if rule.key == key and rule.text in comments]
            out.append(f"  {key}: {_flow(names)}{_comment('; '.join(notes))}")
    for section in SECTIONS:
        stated = data.get(section.key)
        if isinstance(stated, list) and isinstance(stated[0], dict):
            out += [f"{section.key}:", *(f"  - {_flow(one)}" for one in stated)]
        elif section.key in data:
            out.append(f"{section.key}: {_flow(stated)}")
    return "\n".join(out) + "\n"


def _comment(text: str | None) -> str:
    return "  # " + " ".join(text.split()) if text else ""
