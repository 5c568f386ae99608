"""Where named modules live, and which other modules their distributions need. Nothing is imported."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import machinery
from typing import TYPE_CHECKING

import msgspec

from . import elf
from .editable import Editables, find_editables, paths_in
from .interpreter import InterpreterFiles

if TYPE_CHECKING:
    from importlib import metadata

#: A canonical name: what else a package says that it is called would be part of a path.
_NAME = re.compile(r"[a-z0-9_]+")
_TAG = re.compile(r"cpython-([0-9])([0-9]+)")
#: What is looked at of a directory, and how many below it, to tell whether it is a package without `__init__.py`.
_MOST_NAMES = 1000
_MOST_FOLDERS = 50


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One top-level module. `parents` are the directories that importlib lists to find it."""

    name: str
    parents: tuple[str, ...]
    #: its directories or files: several of a namespace package
    roots: tuple[str, ...]
    #: its directory or files, its NAME.libs directory and its distribution's metadata: to read
    paths: tuple[str, ...]
    #: those of `paths` that hold native code
    natives: tuple[str, ...]
    distribution: str | None = None
    #: top-level modules of the distributions that this one requires, all levels, with the extras that it asks for
    requires: tuple[str, ...] = ()


def locate(name: str, interpreter: InterpreterFiles) -> Package | None:
    """Find an installed top-level module by name: in the interpreter's own site directories, or where they name it."""
    stamps = tuple(stamp(path) for path in interpreter.site_dirs)
    return _locate(name, interpreter, stamps)


def stamp(path: str) -> int:
    """Return a number that changes when something is installed into a site directory; 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=512)
def _locate(name: str, interpreter: InterpreterFiles, stamps: tuple[int, ...]) -> Package | None:
    parents, paths = _found(name, interpreter, stamps)
    if not paths:
        return None
    roots = tuple(paths)
    index = _distributions(interpreter.site_dirs, stamps, interpreter.trusted_packages)
    distribution = index.owner.get(name)
    native = [path for path in paths if os.path.isdir(path) or path.endswith(interpreter.native_suffixes)]
    if distribution is not None:
        beside = {f"{parent}/{one}.libs" for parent in parents for one in (distribution, name)}
        for directory in sorted(filter(os.path.isdir, beside)):  # auditwheel puts a wheel's own shared libraries there
            paths.append(directory)
            native.append(directory)
        paths.append(index.metadata[distribution])
        parents.append(os.path.dirname(index.metadata[distribution]))  # of an editable install another one
    required = index.required_modules(distribution, interpreter.cache_tag) if distribution else set()
    return Package(
        name=name,
        parents=tuple(dict.fromkeys(parents)),
        roots=roots,
        paths=tuple(paths),
        natives=tuple(native),
        distribution=distribution,
        requires=tuple(sorted(required - {name})),
    )


def _found(name: str, interpreter: InterpreterFiles, stamps: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Return the directories that hold a top-level module, and what it is there: the first, or all of a namespace."""
    editable = _editables(interpreter, stamps)
    parents, portions = [], []
    for parent in (*interpreter.site_dirs, *editable.directories):
        if not (paths := list(module_paths(name, parent, interpreter))):
            continue
        if not _is_namespace(paths[0], interpreter):
            return [parent], paths
        parents.append(parent)
        portions += paths
    mapped = [path for _, path in editable.named(name)]
    return parents, [*portions, *mapped]


def _is_namespace(path: str, interpreter: InterpreterFiles) -> bool:
    """Tell whether a module is a portion of a namespace package (PEP 420): a directory without `__init__`.

    Asked by name, as importlib does: a directory may be searched that cannot be listed.
    """
    suffixes = (*interpreter.native_suffixes, *machinery.SOURCE_SUFFIXES, *machinery.BYTECODE_SUFFIXES)
    return os.path.isdir(path) and not any(os.path.isfile(f"{path}/__init__{suffix}") for suffix in suffixes)


def editables(interpreter: InterpreterFiles) -> Editables:
    """Return what the interpreter's site directories name elsewhere. Nothing of an environment's: it is not trusted."""
    return _editables(interpreter, tuple(stamp(path) for path in interpreter.site_dirs))


def is_installed(name: str, interpreter: InterpreterFiles) -> bool:
    """Tell whether a top-level module is the interpreter's own, in one of its site directories, or where they lead."""
    return name in interpreter.stdlib_names or _is_in_site(name, interpreter) or is_editable(name, interpreter)


def _is_in_site(name: str, interpreter: InterpreterFiles) -> bool:
    return any(next(module_paths(name, site, interpreter), None) for site in interpreter.site_dirs)


def is_editable(name: str, interpreter: InterpreterFiles) -> bool:
    """Tell whether a top-level module is found where site directories lead, and not in one of them."""
    if _is_in_site(name, interpreter):
        return False
    found = editables(interpreter)
    return bool(found.named(name)) or any(next(module_paths(name, one, interpreter), None) for one in found.directories)


def _editables(interpreter: InterpreterFiles, stamps: tuple[int, ...]) -> Editables:
    return find_editables(interpreter.site_dirs, stamps) if interpreter.trusted_packages else Editables()


def module_paths(name: str, parent: str, interpreter: InterpreterFiles) -> Iterator[str]:
    """Yield the directory or files of module `name` below `parent`, as importlib's FileFinder would choose."""
    directory = os.path.join(parent, *name.split("."))
    if os.path.isdir(directory):
        yield directory
        return
    for suffix in interpreter.native_suffixes:
        if os.path.isfile(directory + suffix):
            yield directory + suffix
            return
    source = directory + machinery.SOURCE_SUFFIXES[0]
    if os.path.isfile(source):
        yield source
        cached = os.path.join(
            os.path.dirname(source), "__pycache__", f"{os.path.basename(directory)}.{interpreter.cache_tag}.pyc"
        )
        if os.path.isfile(cached):
            yield cached


class _Index:
    """Distributions of the site directories: who owns a module, where its metadata is, what it requires."""

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}
        self.modules: dict[str, set[str]] = {}
        self.metadata: dict[str, str] = {}
        self.requires: dict[str, tuple[str, ...]] = {}

    def required_modules(self, distribution: str, tag: str) -> set[str]:
        """Return the top-level modules of everything that `distribution` requires, all levels."""
        seen: set[tuple[str, str]] = set()
        queue = [(distribution, "")]
        while queue:
            current = queue.pop()
            if current in seen or current[0] not in self.modules:
                continue
            seen.add(current)
            name, extra = current
            for text in self.requires[name]:
                if (wanted := _requirement(text, tag, extra)) is not None:
                    queue += [(wanted[0], one) for one in ("", *wanted[1])]
        return {module for name, _ in seen for module in self.modules[name]}


@lru_cache(maxsize=8)
def _distributions(site_dirs: tuple[str, ...], stamps: tuple[int, ...], trusted: bool) -> _Index:
    """Return what is installed. `.pth` files are read where they are `trusted`: they name any directory of the host."""
    from importlib import metadata  # with the parser of mail it takes 10 ms, and most policies name no package

    index = _Index()
    for directory in site_dirs:
        for distribution in metadata.distributions(path=[directory]):
            location = getattr(distribution, "_path", None)
            key = canonical(str(distribution.metadata["Name"] or ""))
            if location is None or not _NAME.fullmatch(key) or key in index.metadata:
                continue
            index.metadata[key] = str(location)
            index.modules[key] = top_level(distribution) | compiled_beside(distribution)
            if trusted:
                index.modules[key] |= _editable(distribution)
            index.requires[key] = tuple(distribution.requires or ())
            for module in index.modules[key]:
                index.owner.setdefault(module, key)
    return index


def canonical(name: str) -> str:
    """PEP 503, with the underscore that file names use."""
    return re.sub(r"[-_.]+", "_", name).lower()


def distribution_at(path: str) -> metadata.Distribution:
    """Return the distribution whose metadata directory this is."""
    from importlib import metadata

    return metadata.Distribution.at(path)


def requirements(distribution: metadata.Distribution, tag: str) -> Iterator[str]:
    """Yield the canonical names of the distributions that one requires itself, without extras.

    `tag`: the cache tag of the interpreter, for whose version and this machine markers are judged.
    """
    for text in distribution.requires or ():
        if (wanted := _requirement(text, tag, "")) is not None:
            yield wanted[0]


@lru_cache(maxsize=4096)
def _requirement(text: str, tag: str, extra: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the canonical name and the extras of a requirement (PEP 508), None where its marker does not hold."""
    from packaging.requirements import InvalidRequirement, Requirement  # few policies name packages

    try:
        wanted = Requirement(text)
    except InvalidRequirement:  # of an old distribution: installers ignore it as well
        return None
    if wanted.marker is not None and not wanted.marker.evaluate({**_markers(tag), "extra": extra}):
        return None
    return canonical(wanted.name), tuple(sorted(wanted.extras))


@lru_cache(maxsize=8)
def _markers(tag: str) -> dict[str, str]:
    """Return what markers are judged by: this machine, and the version of the interpreter with this cache tag."""
    from packaging.markers import default_environment

    known = {key: str(value) for key, value in default_environment().items()}
    match = _TAG.fullmatch(tag)
    if match is None or tag == sys.implementation.cache_tag:
        return known
    version = f"{match[1]}.{match[2]}"
    return {**known, "python_version": version, "python_full_version": f"{version}.0"}


def top_level(distribution: metadata.Distribution) -> set[str]:
    """Return the top-level modules of a distribution."""
    names = set()
    declared = distribution.read_text("top_level.txt")
    if declared:
        names = {line.strip() for line in declared.splitlines()}
    for file in distribution.files or ():
        first = file.parts[0]
        if len(file.parts) > 1:
            if first.isidentifier() and first != "__pycache__" and file.suffix in (".py", ".so"):
                names.add(first)
        elif file.suffix in (".py", ".so"):
            names.add(first.split(".")[0])
    return {name for name in names if name.isidentifier()}


def _editable(distribution: metadata.Distribution) -> set[str]:
    """Return the top-level modules of a distribution that was installed by a `.pth` file of its own alone."""
    if ".pth," not in (distribution.read_text("RECORD") or ""):  # as of nearly all: its lines need not be taken apart
        return set()
    files = [file for file in distribution.files or () if len(file.parts) == 1 and file.suffix == ".pth"]
    places = [str(distribution.locate_file(file)) for file in files]
    return {name for place in places for directory in paths_in(place) for name in modules_in(directory)}


def modules_in(directory: str, *, namespaces: bool = False, natives: bool = True) -> list[str]:
    """Return the names of the modules and packages in a directory; none where it cannot be listed, as importlib does.

    `namespaces`: also of packages without `__init__.py` that have modules in them, or one level below (PEP 420).
    `natives`: also of extension modules.
    """
    names = set()
    for entry in _names_in(directory):
        stem, suffix = os.path.splitext(entry)
        place = os.path.join(directory, entry)
        if os.path.isfile(os.path.join(place, "__init__.py")):
            names.add(entry)
        elif suffix == ".py":
            names.add(stem)
        elif suffix == ".so" and natives:
            names.add(entry.partition(".")[0])
        elif namespaces and entry.isidentifier() and _has_modules(place):
            names.add(entry)
    return sorted(name for name in names if name.isidentifier())


def _has_modules(directory: str) -> bool:
    inside = _names_in(directory, _MOST_NAMES)
    below = [os.path.join(directory, name) for name in inside[:_MOST_FOLDERS] if name.isidentifier()]
    looked_at = itertools.chain([inside], (_names_in(place, _MOST_NAMES) for place in below))
    return any(name.endswith(tuple(machinery.SOURCE_SUFFIXES)) for names in looked_at for name in names)


def _names_in(directory: str, most: int | None = None) -> list[str]:
    """Return the names in a directory, or some; none where it cannot be read or has just gone, as one of /proc."""
    try:
        with os.scandir(directory) as found:
            return [entry.name for entry in itertools.islice(found, most)]
    except OSError:
        return []


def compiled_beside(distribution: metadata.Distribution) -> set[str]:
    """Return a distribution's extension modules beside its packages whose names no import statement can write.

    mypyc makes one for all modules that it compiles together, `650f...__mypyc`, and those alone import it.
    """
    files = distribution.files or ()
    names = {file.name.partition(".")[0] for file in files if len(file.parts) == 1 and file.suffix == ".so"}
    return {name for name in names if name and not name.isidentifier()}


def native_files(package: Package, below: str = "") -> list[str]:
    """Return the package's shared libraries, or only those at and below module path `below` ("core/_multiarray")."""
    if below:
        places = [os.path.join(root, below) for root in package.roots]
        candidates = [one for place in places for one in ([place] if os.path.isdir(place) else _with_stem(place))]
    else:
        candidates = list(package.natives)
    files: list[str] = []
    for candidate in candidates:
        files += [candidate] if os.path.isfile(candidate) else shared_libraries(candidate)
    return sorted(files)


def shared_libraries(directory: str) -> list[str]:
    """Return the shared libraries below a directory."""
    found = []
    for place, _, names in os.walk(directory):
        found += [os.path.join(place, name) for name in names if name.endswith(".so") or ".so." in name]
    return found


@lru_cache(maxsize=512)
def imports_module(name: str, package: Package) -> bool:
    """Say whether a Python file of the package has a statement that imports a top-level module, reached or not."""
    statement = re.compile(rb"^[ \t]*(?:import|from)[ \t]+%s\b" % name.encode(), re.MULTILINE)
    for path in package.paths:
        files = [path] if os.path.isfile(path) else _sources(path)
        for file in files:
            try:
                with open(file, "rb") as source:
                    if statement.search(source.read()):
                        return True
            except OSError:
                continue
    return False


def _sources(directory: str) -> Iterator[str]:
    for place, _, names in os.walk(directory):
        yield from (os.path.join(place, name) for name in names if name.endswith(machinery.SOURCE_SUFFIXES[0]))


def _with_stem(root: str) -> list[str]:
    directory, stem = os.path.split(root)
    named = (name for name in _names_in(directory) if name.split(".")[0] == stem and name.endswith(".so"))
    return [os.path.join(directory, name) for name in named]


@lru_cache(maxsize=512)
def foreign_libraries(
    files: tuple[str, ...], inside: tuple[str, ...], *, of_system: bool = False, stamps: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """Return the shared libraries that `files` need and that do not lie below one of `inside`.

    `of_system`: only those that the loader finds by itself. A file says where else its libraries are, which is no grant
    for the author of an untrusted one to make. `stamps`: of the directories with the files; others are looked up again.
    """
    prefixes = tuple(path + "/" for path in inside)
    found = [path for path in elf.closure(files) if not os.path.realpath(path).startswith(prefixes)]
    return tuple(path for path in found if not of_system or elf.of_the_system(path))
