"""Policies: what a guest may do.

model.py      Policy and its builders          rules.py     the rules it holds
load.py       YAML, TOML, JSON -> data         schema.py    data -> Policy      units.py  the atoms of the text
write.py      Policy -> YAML                   presets/     shipped policies
compile.py    Policy -> CompiledPolicy         compiled.py  the tables that decide
interpreter.py, packages.py, elf.py            what an interpreter, a package and a program need to read
suggest.py    a denial -> the smallest rule    explain.py   what would it say, what changed, what looks wrong
learn.py      denials -> a policy
"""

from typing import TYPE_CHECKING, Any

from .compiled import CompiledPolicy
from .model import Policy

if TYPE_CHECKING:
    from .compile import compile_policy
    from .interpreter import InterpreterFiles

__all__ = ["CompiledPolicy", "InterpreterFiles", "Policy", "compile_policy"]


def __getattr__(name: str) -> Any:
    if name == "compile_policy":  # guests import this package for its tables and never compile
        from .compile import compile_policy

        return compile_policy
    if name == "InterpreterFiles":
        from .interpreter import InterpreterFiles

        return InterpreterFiles
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
