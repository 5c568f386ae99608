"""What an environment is made of: requirements in a list or a file, locks, and the header of a script (PEP 723).

What would be built from source is refused here where it can be seen: a source tree, a repository, an archive that is no
wheel. Building it would run its code on the host.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from ..errors import PolicySyntaxError

#: Options of a requirements file that say where packages are looked for; the value of the first ones follows.
_PLACES = frozenset({"-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host"})
_FLAGS = frozenset({"--no-index", "--pre", "--prefer-binary", "--require-hashes"})
_INCLUDES = frozenset({"-r", "--requirement"})
#: Requirements files that include one another.
_DEEPEST = 8
#: More than any project states; bounds what a hostile file costs.
MOST_BYTES = 4 << 20
_COMMENT = re.compile(r"(^|\s)#.*$")
#: What begins and ends a block of PEP 723.
_OPENS, _CLOSES = re.compile(r"# /// (?P<type>[a-zA-Z0-9-]+)"), "# ///"
_BUILD = "would be built from source, which runs its code outside any sandbox"
_BUILD_HINT = "name a wheel: `pip wheel` makes one of it, in a place where its code may run"


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """Lines for an installer: options about places, and one requirement each. `locked`: each is one version."""

    options: tuple[str, ...] = ()
    lines: tuple[str, ...]
    locked: bool = False
    #: every line has hashes, which the installer then requires of all
    hashed: bool = False


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a script says that it needs."""

    dependencies: tuple[str, ...]
    requires_python: str | None = None


def fail(subject: str, cause: str, hint: str | None = None) -> NoReturn:
    """Raise PolicySyntaxError: what was asked for cannot be read, or is nothing that an environment can be made of."""
    raise PolicySyntaxError(f"environment, {subject}: {cause}", hint=hint)


def from_list(given: Iterable[str]) -> Requirements:
    """Return requirements (PEP 508) and paths of wheels. Raises PolicySyntaxError, TypeError."""
    if isinstance(given, str | bytes):
        raise TypeError("environment: requirements must be a list of texts; the path of a file is a Path")
    lines = []
    for item in given:
        if not isinstance(item, str):
            raise TypeError(f"environment: a requirement must be text, not {type(item).__name__}")
        lines.append(_checked(item, Path.cwd(), f"requirement {item[:80]!r}"))
    if not lines:
        fail("requirements", "there are none", "name at least one, such as 'requests>=2'")
    return Requirements(lines=tuple(sorted(set(lines))))


def from_file(path: Path) -> Requirements:
    """Return what a requirements file states. Raises PolicySyntaxError, OSError."""
    options: list[str] = []
    lines: list[str] = []
    _read_file(path, options, lines, _DEEPEST)
    if not lines:
        fail(str(path), "it names no requirement")
    hashed = all("--hash=" in line for line in lines)
    return Requirements(options=tuple(options), lines=tuple(lines), hashed=hashed)


def from_lock(path: Path) -> Requirements:
    """Return what a lock states: `pylock.toml` (PEP 751), or a requirements file of exact versions.

    Raises PolicySyntaxError, OSError.
    """
    if path.suffix == ".toml":
        return _pylock(path)
    if path.suffix == ".lock":
        fail(str(path), "this form of lock is its tool's own", "export it: `uv export -o pylock.toml`, or `pip lock`")
    found = from_file(path)
    for line in found.lines:
        if not _is_exact(line):
            fail(f"{path}: {line.split(' --hash')[0]}", "is no exact version", "from_requirements takes ranges")
    return msgspec.structs.replace(found, locked=True)


def header_of(source: str) -> Header | None:
    """Return what a script's header of PEP 723 states, None where it has none. Raises PolicySyntaxError."""
    blocks = [lines for kind, lines in _blocks(source.split("\n")) if kind == "script"]
    if not blocks:
        return None
    if len(blocks) > 1:
        fail("header of the script", "there is more than one")
    text = "".join(f"{line[2:]}\n" for line in blocks[0])
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        fail("header of the script", f"is no TOML: {error}")
    wanted, python = data.get("dependencies", []), data.get("requires-python")
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        fail("header of the script", "dependencies: expected a list of texts")
    if python is not None and not isinstance(python, str):
        fail("header of the script", "requires-python: expected text")
    return Header(dependencies=tuple(wanted), requires_python=python)


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the type and the lines of each block, as the reference implementation of PEP 723 finds them.

    Its regular expression takes the square of the lines that open a block which nothing closes.
    """
    at = 0
    while at < len(lines):
        opened, begin = _OPENS.fullmatch(lines[at]), at + 1
        at = begin
        if opened is None:
            continue
        while at < len(lines) and (lines[at] == "#" or lines[at].startswith("# ")):
            at += 1
        closed = next((one for one in range(at - 1, begin, -1) if lines[one] == _CLOSES), None)
        if closed is not None:
            yield opened["type"], lines[begin:closed]
            at = closed + 1


def fits_python(wanted: str | None, version: str) -> bool:
    """Tell whether an interpreter's version is one that `requires-python` names. Raises PolicySyntaxError."""
    try:
        return wanted is None or SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        fail("header of the script", f"requires-python: {error}")


# -- files ------------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    if len(data) > MOST_BYTES:
        fail(str(path), f"{len(data)} bytes are no requirements file")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        fail(str(path), f"is no UTF-8 text ({error.reason})")


def _read_file(path: Path, options: list[str], lines: list[str], left: int) -> None:
    for number, line in _logical_lines(_read_text(path)):
        where = f"{path}:{number}"
        if not line.startswith("-"):
            lines.append(_checked(line, path.parent, where))
            continue
        words = shlex.split(line.replace("=", " ", 1) if line.startswith("--") else line)
        if words[0] in _INCLUDES and len(words) == 2:
            if not left:
                fail(where, "too many files include one another")
            _read_file(path.parent / words[1], options, lines, left - 1)
        elif words[0] in _PLACES and len(words) == 2:
            local = words[0] in ("-f", "--find-links") and "://" not in words[1]
            options.append(f"{words[0]} {(path.parent / words[1]).resolve() if local else words[1]}")
        elif words[0] in _FLAGS and len(words) == 1:
            options.append(words[0])
        else:
            why = _BUILD if words[0] in ("-e", "--editable") else "this option is not taken"
            fail(where, f"{words[0]}: {why}", _BUILD_HINT if why is _BUILD else "leave it out")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines without comments, those that end in a backslash joined with the next."""
    whole, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if whole else number
        if line.endswith("\\"):
            whole += line[:-1] + " "
            continue
        whole = _COMMENT.sub("", whole + line).strip()
        if whole:
            yield first, whole
        whole = ""
    if whole := _COMMENT.sub("", whole).strip():
        yield first, whole


def _checked(line: str, directory: Path, where: str) -> str:
    """Return a requirement in one form, with its hashes; refuse what is none, and what would be built."""
    text, *more = re.split(r"(?<!\s)\s+(?=--)", line.strip())
    hashes = [word.replace("--hash ", "--hash=", 1) for word in more]
    if not all(re.fullmatch(r"--hash=\w+:[0-9a-fA-F]+", word) for word in hashes):
        fail(where, "only --hash= may follow a requirement")
    if "\n" in text or text.startswith("-"):
        fail(where, "an option is no requirement", "options belong into a requirements file")
    if _is_path(text):
        return " ".join([_wheel(text, directory, where), *hashes])
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        fail(where, str(error).splitlines()[0], "PEP 508 says how they are written: 'name[extra]>=1.2; marker'")
    if found.url is not None and not found.url.partition("#")[0].endswith(".whl"):
        fail(where, _BUILD, _BUILD_HINT)
    return " ".join([str(found), *hashes])


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.endswith(".whl") or "://" in text.partition("@")[0]


def _wheel(text: str, directory: Path, where: str) -> str:
    if not text.partition("#")[0].endswith(".whl"):
        fail(where, _BUILD, _BUILD_HINT)
    if "://" in text:
        return text
    path = (directory / os.path.expanduser(text)).resolve()
    if not path.is_file():
        fail(where, f"there is no wheel {path}")
    return str(path)


def _is_exact(line: str) -> bool:
    text = line.partition(" --hash")[0]
    if text.startswith("/") or "://" in text:
        return True
    found = Requirement(text)
    exact = [one for one in found.specifier if one.operator in ("==", "===") and not one.version.endswith(".*")]
    return found.url is not None or len(exact) == 1


# -- pylock.toml ------------------------------------------------------------------------------------------------------


def _pylock(path: Path) -> Requirements:
    """Read a lock of PEP 751: the packages whose markers hold for all of it, as exact versions with their hashes.

    Markers stay with their package: the installer judges them for the interpreter that it installs for.
    """
    try:
        data = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        fail(str(path), f"is no TOML: {error}")
    if not str(data.get("lock-version", "")).startswith("1."):
        fail(str(path), "is no lock of PEP 751 (lock-version 1.x)", "export one: `uv export -o pylock.toml`")
    lines = []
    for package in data.get("packages", []):
        name = str(package.get("name", "?"))
        where = f"{path}: {name}"
        if "version" not in package or not package.get("wheels"):
            fail(where, "has no wheel in this lock, so it " + _BUILD, _BUILD_HINT)
        lines.append(_locked_line(package, where))
    if not lines:
        fail(str(path), "it names no package")
    return Requirements(lines=tuple(lines), locked=True, hashed=True)


def _locked_line(package: dict[str, Any], where: str) -> str:
    marker = package.get("marker")
    try:
        condition = f"; {Marker(marker)}" if marker else ""
    except ValueError as error:
        fail(where, f"marker: {error}")
    hashes = {f"{kind}:{value}" for wheel in package["wheels"] for kind, value in wheel.get("hashes", {}).items()}
    if not hashes:
        fail(where, "its wheels have no hashes")
    line = f"{package['name']}=={package['version']}{condition}"
    return _checked(" ".join([line, *(f"--hash={one}" for one in sorted(hashes))]), Path("/"), where)
