"""Which shared libraries an ELF file needs, without running anything (`ldd` runs the program's own loader).

Sources: elf(5), ld.so(8); the cache's layout is glibc's sysdeps/generic/dl-cache.h ("glibc-ld.so.cache1.1").
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path

import msgspec

CACHE = "/etc/ld.so.cache"
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
#: glibc's compiled-in directories (a multiarch one is where the cache has the C library), musl's after them.
_STANDARD = ("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
#: Far above any real file; bounds what a damaged one can make us read.
_MAX_HEADERS, _MAX_TABLE, _MAX_NAMES = 128, 8 << 20, 1024


class ElfFile(msgspec.Struct, frozen=True):
    """What the loader wants to know of one file."""

    path: str
    interpreter: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    machine: int


def read_elf(path: str) -> ElfFile | None:
    """Return what `path` needs, or None if it cannot be read or is not a 64-bit little-endian ELF file."""
    try:
        with open(
            path, "rb", buffering=0
        ) as file:  # a buffer asks for the file's kind and place, and reads what is not used
            return _read(path, file)
    except (OSError, struct.error, ValueError, OverflowError):
        return None


def _read(path: str, file: FileIO) -> ElfFile | None:
    header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":  # ELFCLASS64, ELFDATA2LSB
        return None
    machine = struct.unpack_from("<H", header, 18)[0]
    offset = struct.unpack_from("<Q", header, 32)[0]
    size, count = struct.unpack_from("<HH", header, 54)
    file.seek(offset)
    table = file.read(size * min(count, _MAX_HEADERS))
    loads: list[tuple[int, int, int]] = []
    dynamic = b""
    interpreter = None
    for i in range(len(table) // size if size >= 56 else 0):
        kind, _, at, address, _, length = struct.unpack_from("<IIQQQQ", table, i * size)
        if kind == _PT_LOAD:
            loads.append((address, at, length))
        elif kind in (_PT_DYNAMIC, _PT_INTERP):
            file.seek(at)
            text = file.read(min(length, _MAX_TABLE))
            if kind == _PT_DYNAMIC:
                dynamic = text
            else:
                interpreter = text.rstrip(b"\0").decode()
    return _dynamic(path, file, dynamic, loads, interpreter, machine)


def _dynamic(
    path: str,
    file: FileIO,
    dynamic: bytes,
    loads: list[tuple[int, int, int]],
    interpreter: str | None,
    machine: int,
) -> ElfFile:
    entries = [struct.unpack_from("<qQ", dynamic, i) for i in range(0, len(dynamic) - 15, 16)]
    values = {tag: value for tag, value in entries if tag in (_DT_STRTAB, _DT_STRSZ)}
    strings = b""
    for address, at, length in loads:
        start = values.get(_DT_STRTAB, -1)
        if address <= start < address + length:
            file.seek(at + start - address)
            strings = file.read(min(values.get(_DT_STRSZ, 0), _MAX_TABLE))

    def names(tag: int) -> tuple[str, ...]:
        at = [value for t, value in entries if t == tag and strings.find(b"\0", value) >= 0]
        return tuple(strings[value : strings.index(b"\0", value)].decode() for value in at[:_MAX_NAMES])

    def directories(tag: int) -> tuple[str, ...]:
        found = [part for name in names(tag) for part in name.split(":") if part]
        origin = os.path.dirname(os.path.realpath(path)) if found else ""  # few files name any
        return tuple(part.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for part in found)

    return ElfFile(path, interpreter, names(_DT_NEEDED), directories(_DT_RPATH), directories(_DT_RUNPATH), machine)


def read_cache(path: str = CACHE) -> dict[str, list[str]]:
    """Return soname -> paths of ld.so's cache, best first; empty where there is none (musl) or it is foreign."""
    try:
        data = Path(path).read_bytes()
        start = data.index(_CACHE_MAGIC)
        count = struct.unpack_from("<I", data, start + 20)[0]
        found: dict[str, list[str]] = {}
        for i in range(min(count, len(data) // 24)):
            key, value = struct.unpack_from("<II", data, start + 48 + 24 * i + 4)
            name, library = (_string(data, start + at) for at in (key, value))
            found.setdefault(name, []).append(library)
        return found
    except (OSError, ValueError, struct.error, UnicodeDecodeError):
        return {}


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()


@lru_cache(maxsize=4)
def _cache_at(stamp: tuple[int, int]) -> dict[str, list[str]]:
    return read_cache()


def _current_cache() -> dict[str, list[str]]:
    try:
        status = os.stat(CACHE)
    except OSError:
        return {}
    return _cache_at((status.st_mtime_ns, status.st_size))


def closure(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the shared libraries and loaders that the ELF files at `paths` need, all levels, not `paths` themselves.

    Libraries that are not found are left out: the loader will say so better than we can.
    """
    roots = list(paths)
    cache = _current_cache()
    seen: dict[str, None] = {}
    read = _Reader()
    queue: list[tuple[str, tuple[str, ...]]] = [(path, ()) for path in roots]
    while queue:
        path, inherited = queue.pop()
        elf = read(path)
        if elf is None:
            continue
        # RPATH is inherited by the libraries that a file loads, RUNPATH is not (ld.so(8)).
        inherited = () if elf.runpath else (*elf.rpath, *inherited)
        wanted = [elf.interpreter] if elf.interpreter and read.is_for(elf.interpreter, elf.machine) else []
        wanted += [p for name in elf.needed for p in read.find(name, elf, inherited, cache)]
        for library in wanted:
            if library not in seen:
                seen[library] = None
                queue.append((library, inherited))
    return tuple(sorted(set(seen) - set(roots)))


class _Reader:
    """Reads each file once for one closure: most of them need the same few libraries."""

    def __init__(self) -> None:
        self._read: dict[str, ElfFile | None] = {}

    def __call__(self, path: str) -> ElfFile | None:
        if path not in self._read:
            self._read[path] = read_elf(path)
        return self._read[path]

    def find(self, name: str, elf: ElfFile, inherited: tuple[str, ...], cache: dict[str, list[str]]) -> list[str]:
        for candidate in _candidates(name, elf, inherited, cache):
            if self.is_for(candidate, elf.machine):
                return [candidate]
        return []

    def is_for(self, path: str, machine: int) -> bool:
        """Tell whether a path is what an ELF file may mean by a library or a loader: one of its own kind.

        What a file names is its author's to say, and is granted: never what is no program code.
        """
        if path not in self._read and not os.path.isfile(path):
            return False
        found = self(path)
        return found is not None and found.machine == machine


def of_the_system(path: str) -> bool:
    """Tell whether a shared library is one that the loader finds by itself, by its cache or in its own directories."""
    real = os.path.realpath(path)
    known = {os.path.realpath(one) for found in _current_cache().values() for one in found}
    return real in known or os.path.dirname(real) in {os.path.realpath(one) for one in _STANDARD}


def _candidates(name: str, elf: ElfFile, inherited: tuple[str, ...], cache: dict[str, list[str]]) -> Iterator[str]:
    if "/" in name:
        yield name
        return
    for directory in (*inherited, *elf.runpath):
        yield f"{os.path.normpath(directory)}/{name}"
    yield from cache.get(name, [])
    # The cache knows a library by its SONAME alone; others link to it by another name that lies beside it.
    for directory in (*dict.fromkeys(os.path.dirname(path) for path in cache.get("libc.so.6", [])), *_STANDARD):
        yield f"{directory}/{name}"
