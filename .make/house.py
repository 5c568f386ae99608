"""Measure the house: circles, imports that run back up, reaches into privates, root modules, long files, words.

`make house` prints the figures and where they come from; `make lint` runs `--check`, which fails when one exceeds its
ceiling. A ceiling may only fall. Imports count wherever they stand: at the top, inside functions, for type checkers.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import c_calls

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pyisolate"

#: From the ground up: a module may import what stands in its own layer or below. docs/architecture.md says why.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("distribution", "capability", "choices", "controls", "decision", "errors", "threads"),
    ("native", "records", "enforcement"),
    ("telemetry",),
    ("policy",),
    ("actor", "environments", "hooks", "limits"),
    ("cell", "egress"),
    ("kernel",),
    ("sandbox",),
    ("supervisor",),
    ("api", "metrics"),
    ("guards", "integrations", "testing"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}

WORDS = ("told", "untold", "telling", "nobody", "whoever", "anybody", "somebody", "meanwhile", "behind")
#: What stands in texts for users may stand behind something.
WORDS_OF_TEXTS = WORDS[:-1]
#: The user of that name, and the value of `asked_by`.
_NAMES = ("nobody",)
#: Pages that users read. escapes.md is written by a command, and CHANGELOG.md says what was.
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
_WRITTEN = ("escapes.md",)
#: Tokens of strings; from Python 3.12 on an f-string has some of its own.
_TEXTS = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
LONG_LINES = 500

#: What `make lint` lets pass. Lower a figure when it falls; never raise one.
CEILINGS = {
    "circles": 0,
    "circles between C files": 0,
    "imports back up": 2,
    "private reaches": 0,
    "root modules": 14,
    "files over 500 lines": 0,
    "words of the old dialect": 0,
}


class Finding(NamedTuple):
    """One thing that counts, and where it is."""

    kind: str
    where: str


def modules() -> dict[str, Path]:
    """Return dotted name -> file of every module of the package."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                found.add(whole if whole in known else module)
    return {one for one in found if one in known and one != name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    on_stack: set[str] = set()
    result: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on_stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while True:
                member = stack.pop()
                on_stack.discard(member)
                component.append(member)
                if member == node:
                    break
            if len(component) > 1:
                result.append(sorted(component))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return result


def room(module: str) -> str:
    """Return the part of a module's name that has a layer."""
    return module.split(".")[1] if "." in module else ""


def back_up(graph: dict[str, set[str]]) -> Iterator[Finding]:
    """Yield the imports of a higher layer. The package's own __init__ hands names out and belongs to none."""
    for module, others in sorted(graph.items()):
        for other in sorted(others):
            if room(module) and room(other) and LEVEL[room(other)] > LEVEL[room(module)]:
                yield Finding("imports back up", f"{module} -> {other}")


def private_reaches(known: dict[str, Path]) -> Iterator[Finding]:
    """Yield imports of another module's underscored names; attributes are ruff's SLF001."""
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.level or (node.module or "").startswith(PACKAGE)):
                continue
            for alias in node.names:
                extension = alias.name in ("_native", "_libbpf") and room(module) == "native"
                if alias.name.startswith("_") and not alias.name.startswith("__") and not extension:
                    yield Finding("private reaches", f"{module}:{node.lineno}: {alias.name}")


def long_files() -> Iterator[Finding]:
    """Yield source files of more than `LONG_LINES` lines."""
    for folder in (PACKAGE, "bpf"):
        for path in sorted((ROOT / folder).rglob("*.[chp]*")):
            if path.suffix in (".py", ".c", ".h") and not re.match(r"_(native|libbpf)\.c", path.name):
                count = path.read_text(errors="replace").count("\n")
                if count > LONG_LINES:
                    yield Finding("files over 500 lines", f"{path.relative_to(ROOT)}: {count}")


def words() -> Iterator[Finding]:
    """Yield old words in Python, C and pages: they name no actor and no object."""
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        yield from _words_of_python(path)
    for folder in ("bpf", f"{PACKAGE}/native/src"):
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            yield from _words_in(path, enumerate(path.read_text().splitlines(), start=1), WORDS)
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            if path.name not in _WRITTEN:
                yield from _words_in(path, _spoken(path.read_text()), WORDS_OF_TEXTS)


def _words_of_python(path: Path) -> Iterator[Finding]:
    """Yield old words in names, comments, docstrings and other texts of a module."""
    text = path.read_text()
    docstrings = _docstring_lines(text)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        lines = enumerate(token.string.splitlines(), start=token.start[0])
        if token.type in (tokenize.NAME, tokenize.COMMENT) or token.start[0] in docstrings:
            yield from _words_in(path, lines, WORDS)
        elif token.type in _TEXTS and token.string.strip("\"'") not in _NAMES:
            yield from _words_in(path, lines, WORDS_OF_TEXTS)


def _spoken(page: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a page without what is code."""
    code = False
    for number, line in enumerate(page.splitlines(), start=1):
        code ^= line.lstrip().startswith("```")
        yield number, "" if code or line.startswith("    ") else re.sub(r"`[^`]*`", "", line)


def _words_in(path: Path, lines: Iterable[tuple[int, str]], words: tuple[str, ...]) -> Iterator[Finding]:
    for number, line in lines:
        for _ in re.finditer(rf"(?<![A-Za-z])({'|'.join(words)})(?![A-Za-z])", line, re.IGNORECASE):
            yield Finding("words of the old dialect", f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}")


def _docstring_lines(text: str) -> set[int]:
    lines = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                lines.add(first.lineno)
    return lines


def measure() -> dict[str, list[Finding]]:
    """Return the findings of every kind."""
    known = modules()
    graph = {name: imports(name, path, known) for name, path in known.items()}
    found: dict[str, list[Finding]] = defaultdict(list, {kind: [] for kind in CEILINGS})
    for kind, calls in (("circles", graph), ("circles between C files", c_calls.graph(ROOT))):
        found[kind] = [Finding(kind, ", ".join(circle)) for circle in circles(calls)]
    found["root modules"] = [
        Finding("root modules", path.name) for path in sorted((ROOT / PACKAGE).glob("*.py")) if path.stem != "__init__"
    ]
    for finding in (*back_up(graph), *private_reaches(known), *long_files(), *words()):
        found[finding.kind].append(finding)
    return found


def main(arguments: list[str]) -> int:
    """Print the figures; with `--check` return 1 when one exceeds its ceiling, with `--where` print each finding."""
    found, failed = measure(), False
    for kind, ceiling in CEILINGS.items():
        count = len(found[kind])
        failed |= count > ceiling
        print(f"{kind}: {count} (at most {ceiling}){'  <-- too many' if count > ceiling else ''}")
        if "--where" in arguments or count > ceiling:
            for finding in found[kind][: None if "--where" in arguments else 20]:
                print(f"    {finding.where}")
    return 1 if failed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
