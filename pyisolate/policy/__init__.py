"""Policies: what a guest may do.

model.py      Policy and its builders          rules.py     the rules it holds
load.py       YAML, TOML, JSON -> data         schema.py    data -> Policy      units.py  the atoms of the text
write.py      Policy -> YAML                   presets/     shipped policies
compile.py    Policy -> CompiledPolicy         compiled.py  the tables that decide
interpreter.py, packages.py, elf.py            what an interpreter, a package and a program need to read
suggest.py    a denial -> the smallest rule    explain.py   what would it say, what changed, what looks wrong
learn.py      denials -> a policy
"""

from .compiled import CompiledPolicy
from .model import Policy

__all__ = ["CompiledPolicy", "Policy"]
