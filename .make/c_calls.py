"""Which C file calls which, by the functions and macros that each defines. `house.py` looks for circles in it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

#: What is compiled together; a name means the same in all files of one. A folder here is no part of the one above.
PROGRAMS = ("pyisolate/native/src", "pyisolate/native/src/preload", "bpf")

_COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include.*$", re.MULTILINE)
#: libbpf's marks round a function: what section it is in, and `BPF_PROG(name, arguments)`.
_SECTION = re.compile(r"\bSEC\([^)]*\)")
_PROGRAM = re.compile(r"\bBPF_PROG\(\s*(\w+),?")
#: Neither has a body: what begins in the first column, and ends with ";" before any brace.
_PROTOTYPE = re.compile(r"^[A-Za-z_][^;{}=#]*\([^;{}=#]*;", re.MULTILINE)
_FUNCTION = re.compile(r"^[A-Za-z_][^;{}=#()]*?\b(\w+)\([^;{}#]*\)[^;{}=#()]*\{", re.MULTILINE)
_MACRO = re.compile(r"^#[ \t]*define[ \t]+(\w+)\(", re.MULTILINE)
#: A word that is no member, and no tag of a struct.
_WORD = re.compile(r"(?<!\.)(?<!->)(?<!struct )(?<!enum )\b[A-Za-z_]\w*\b")


def graph(root: Path) -> dict[str, set[str]]:
    """Return, for each C file below `root`, the files whose functions and macros it uses."""
    calls: dict[str, set[str]] = {}
    for program in PROGRAMS:
        texts = {str(path.relative_to(root)): _code(path.read_text()) for path in _files(root, program)}
        homes = defaultdict(set)
        for file, text in texts.items():
            for name in (*_FUNCTION.findall(text), *_MACRO.findall(text)):
                homes[name].add(file)
        for file, text in texts.items():
            used = (homes[name] for name in set(_WORD.findall(text)) if name in homes)
            calls[file] = {home for files in used if file not in files for home in files}
    return calls


def _files(root: Path, program: str) -> Iterator[Path]:
    others = [root / other for other in PROGRAMS if other != program and other.startswith(f"{program}/")]
    for path in sorted((root / program).rglob("*.[ch]")):
        if not any(path.is_relative_to(other) for other in others):
            yield path


def _code(text: str) -> str:
    """Return a file without comments, texts, includes and prototypes."""
    text = _COMMENT_OR_TEXT.sub('""', text)
    text = _PROGRAM.sub(r"\1(", _SECTION.sub("", _INCLUDE.sub("", text)))
    return _PROTOTYPE.sub("", text)
