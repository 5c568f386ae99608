"""Policies: what a guest may do.

policy.py       `Policy`, as users have it
model.py        its fields, builders and readers; rules.py: the rules
load.py         from files and presets; parse.py: text -> data; schema.py: data -> fields; units.py: the atoms
yaml_writer.py  policy -> YAML; presets/: shipped policies
compile.py      policy -> compiled.py, the tables that decide; broker.py decides by them
interpreter.py, packages.py, elf.py, resolver.py, imports.py, sockets.py: what an interpreter, a package, a name need
suggest.py      a denial -> the smallest rule; grants.py, learning.py, learn.py: denials -> a policy
check.py, diff.py, explain.py, cases.py: what looks wrong, what changed, what would it say, does it say what it must
json_schema.py  the shape of a policy file, for editors
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compile import compile_policy
    from .compiled import CompiledPolicy
    from .interpreter import InterpreterFiles
    from .policy import Policy

__all__ = ["CompiledPolicy", "InterpreterFiles", "Policy", "compile_policy"]

#: Guests import this package for its tables: they never load, learn or compile.
_HOME = {
    "CompiledPolicy": "compiled",
    "InterpreterFiles": "interpreter",
    "Policy": "policy",
    "compile_policy": "compile",
}


def __getattr__(name: str) -> Any:
    if (home := _HOME.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(f".{home}", __name__), name)
    return value
