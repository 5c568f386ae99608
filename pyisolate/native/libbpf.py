"""libbpf: objects, programs, maps, links and the ring buffer, with errors as exceptions. Source: bpf/libbpf.h (1.x).

The extension is optional: `available()` says whether this package was built with libbpf and whether the library is
here. Nothing else in this module may be called where it is not.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, NewType

from .process import signals_blocked

_ffi: Any = None
_lib: Any = None
_why = ""
try:  # left out of the build where libbpf is not installed
    from . import _libbpf  # type: ignore[attr-defined]  # generated
except ImportError as missing:
    _why = str(missing)
else:
    _ffi, _lib = _libbpf.ffi, _libbpf.lib


#: Descriptors of the kernel's objects: mypy keeps one kind from standing in for another.
MapFd = NewType("MapFd", int)
ProgramFd = NewType("ProgramFd", int)
LinkFd = NewType("LinkFd", int)
#: Pointers that libbpf owns (cdata).
ObjectHandle = NewType("ObjectHandle", object)
ProgramHandle = NewType("ProgramHandle", object)
MapHandle = NewType("MapHandle", object)
LinkHandle = NewType("LinkHandle", object)


class BpfCallError(OSError):
    """A call into the kernel's BPF failed; `log` holds what libbpf and the verifier said last."""

    log: str = ""


def available() -> tuple[bool, str]:
    """Tell whether libbpf can be called, and if not, why."""
    return _lib is not None, _why


def constants() -> Any:
    """Return the library object, whose attributes include the constants and enums of `bpf/pyisolate.h`."""
    _need()
    return _lib


def interface() -> Any:
    """Return cffi's view of the structs of `bpf/pyisolate.h`."""
    _need()
    return _ffi


def _need() -> None:
    if not available()[0]:
        raise BpfCallError(f"libbpf: {_why}")


def check(result: int, operation: str, subject: object = "") -> int:
    """Return a result >= 0, or raise BpfCallError with the verifier's last words."""
    if result >= 0:
        return result
    raise _error(-result, operation, subject)


def _error(number: int, operation: str, subject: object) -> BpfCallError:
    error = BpfCallError(number, f"{operation} {subject}: {os.strerror(number)}")
    error.log = take_log()
    return error


def start_log() -> None:
    """Send what libbpf prints to this thread's buffer instead of stderr."""
    _need()
    _lib.pyi_log_start()


def take_log() -> str:
    """Return and forget what libbpf printed in this thread, at most the last 64 KiB."""
    buffer = _ffi.new("char[65536]")
    return bytes(_ffi.buffer(buffer, _lib.pyi_log_take(buffer, 65536))).decode(errors="replace")


class Link:
    """One attached program; detached when closed."""

    def __init__(self, handle: LinkHandle) -> None:
        self._handle: LinkHandle | None = handle

    @property
    def fd(self) -> LinkFd:
        """The link's descriptor: a process that holds a copy keeps the program attached."""
        return LinkFd(int(_lib.bpf_link__fd(self._handle)))

    def close(self) -> None:
        """Detach, unless another process holds the link too."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib.bpf_link__destroy(handle)


class Program:
    """One program of an open object."""

    def __init__(self, handle: ProgramHandle) -> None:
        self._handle = handle
        self.name = _ffi.string(_lib.bpf_program__name(handle)).decode()
        self.section = _ffi.string(_lib.bpf_program__section_name(handle)).decode()

    @property
    def autoload(self) -> bool:
        """Whether loading the object loads this program."""
        return bool(_lib.bpf_program__autoload(self._handle))

    @autoload.setter
    def autoload(self, value: bool) -> None:
        check(_lib.bpf_program__set_autoload(self._handle, value), "bpf_program__set_autoload", self.name)

    @property
    def fd(self) -> ProgramFd:
        """The loaded program's descriptor."""
        return ProgramFd(check(_lib.bpf_program__fd(self._handle), "bpf_program__fd", self.name))

    def attach(self) -> Link:
        """Attach by what the section name says (LSM hook, tracepoint)."""
        return self._link(_lib.pyi_attach(self._handle))

    def attach_cgroup(self, cgroup_fd: int) -> Link:
        """Attach to a cgroup v2 directory and all below it."""
        return self._link(_lib.pyi_attach_cgroup(self._handle, cgroup_fd))

    def _link(self, handle: LinkHandle) -> Link:
        if handle == _ffi.NULL:
            raise _error(_ffi.errno or 22, "attach", self.name)
        return Link(handle)

    def run(self, context: Any) -> int:
        """Run a "syscall" program once on a cdata struct, in place; return its own result. For native/ alone."""
        return int(_lib.pyi_run(self.fd, context, _ffi.sizeof(context[0])))


class Object:
    """An ELF file of programs and maps: open, adjust, load."""

    def __init__(self, path: str) -> None:
        _need()
        self.path = path
        self._handle: ObjectHandle | None = _lib.pyi_object_open(path.encode())
        if self._handle == _ffi.NULL:
            raise _error(_ffi.errno or 2, "bpf_object__open", path)
        self.programs = {program.name: program for program in self._programs()}
        self.maps = dict(self._maps())

    def _programs(self) -> Iterator[Program]:
        handle = _ffi.NULL
        while (handle := _lib.bpf_object__next_program(self._handle, handle)) != _ffi.NULL:
            yield Program(handle)

    def _maps(self) -> Iterator[tuple[str, MapHandle]]:
        handle = _ffi.NULL
        while (handle := _lib.bpf_object__next_map(self._handle, handle)) != _ffi.NULL:
            yield _ffi.string(_lib.bpf_map__name(handle)).decode(), handle

    def resize(self, name: str, entries: int) -> None:
        """Set a map's `max_entries` before loading."""
        check(_lib.bpf_map__set_max_entries(self.maps[name], entries), "bpf_map__set_max_entries", name)

    def reuse(self, name: str, fd: MapFd) -> None:
        """Make a map of this object the one that `fd` names."""
        check(_lib.bpf_map__reuse_fd(self.maps[name], fd), "bpf_map__reuse_fd", name)

    def load(self) -> None:
        """Create maps, load every program whose `autoload` is set.

        The verifier gives up with EAGAIN when a signal is pending (bpf(2)): a timer or a profiler of the host's would
        make each try fail.
        """
        with signals_blocked():
            result = _lib.bpf_object__load(self._handle)
        check(result, "load", os.path.basename(self.path))

    def map_fd(self, name: str) -> MapFd:
        """Return a loaded map's descriptor; the object owns it."""
        return MapFd(check(_lib.bpf_map__fd(self.maps[name]), "bpf_map__fd", name))

    def close(self) -> None:
        """Close programs and maps; what is attached or shared lives on."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib.bpf_object__close(handle)


# -- maps -------------------------------------------------------------------------------------------------------------


def create_trie(name: str, key_size: int, value_size: int, entries: int) -> MapFd:
    """Create a longest-prefix-match table that programs may only read; return its descriptor, which the caller owns."""
    _need()
    result = _lib.pyi_trie_create(name.encode(), key_size, value_size, max(entries, 1))
    return MapFd(check(result, "create map", name))


def fill(fd: MapFd, keys: bytes, key_size: int, values: bytes, value_size: int) -> None:
    """Write entries, laid end to end in `keys` and `values`."""
    count = len(keys) // key_size
    check(_lib.pyi_map_fill(fd, keys, key_size, values, value_size, count), "fill map", fd)


def update(fd: MapFd, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one entry."""
    check(
        _lib.bpf_map_update_elem(fd, _ffi.from_buffer(key), _ffi.from_buffer(value), flags), "bpf_map_update_elem", fd
    )


def delete(fd: MapFd, key: bytes) -> bool:
    """Remove one entry; False if there was none. Raises BpfCallError for every other failure."""
    result = int(_lib.bpf_map_delete_elem(fd, _ffi.from_buffer(key)))
    return result != -errno.ENOENT and check(result, "bpf_map_delete_elem", fd) == 0


class Mapped:
    """An mmapable array map as an array of structs in this process's memory. For typed views in native/ alone."""

    def __init__(self, fd: MapFd, kind: str, entries: int) -> None:
        size = _ffi.sizeof(kind) * entries
        page = mmap.PAGESIZE
        self._memory: mmap.mmap | None = mmap.mmap(fd, (size + page - 1) // page * page, mmap.MAP_SHARED)
        self.array = _ffi.cast(f"{kind} *", _ffi.from_buffer(self._memory, require_writable=True))

    def close(self) -> None:
        """Unmap. No cdata taken from `array` may be used afterwards."""
        self.array = None
        memory, self._memory = self._memory, None
        if memory is not None:
            try:
                memory.close()
            except BufferError:  # cffi's view goes with the collector; the mapping then closes too
                pass


def store64(address: Any, value: int) -> None:
    """Store 64 bits at once: a reader sees the old value or the new one. For native/ alone."""
    _lib.pyi_store64(address, value)


# -- the kernel's own types, tasks ------------------------------------------------------------------------------------


def hook_arguments(hook: str) -> int | None:
    """Return how many arguments an LSM hook has in the running kernel's BTF; None where there is no such hook."""
    _need()
    result = _lib.pyi_hook_arguments(f"bpf_lsm_{hook}".encode())
    return None if result < 0 else int(result)


def has_function(name: str) -> bool:
    """Tell whether the running kernel's BTF knows a function (a kfunc, a hook)."""
    _need()
    return bool(_lib.pyi_btf_has_function(name.encode()))


def try_lsm() -> None:
    """Load the smallest LSM program and drop it. Raises BpfCallError where the kernel permits none.

    Any other failure tells nothing of real programs, which then tell it themselves.
    """
    _need()
    with signals_blocked():
        result = _lib.pyi_try_lsm()
    if result == -errno.EPERM:
        raise _error(errno.EPERM, "load", "an LSM program")


def grace_period() -> None:
    """Wait until every BPF program that is running now has ended (membarrier(2), 4.3)."""
    check(_lib.pyi_grace_period(), "membarrier")


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2); flag PIDFD_THREAD since 6.9."""
    return check(_lib.pyi_pidfd_open(pid, flags), "pidfd_open", pid)


def possible_cpus() -> int:
    """Return how many values an entry of a per-CPU map has."""
    _need()
    return int(_lib.libbpf_num_possible_cpus())


def btf_member(object_path: str, struct: str, member: str = "") -> int:
    """Return a member's offset in an object's BTF, or the struct's size; -1 where there is none."""
    _need()
    return int(_lib.pyi_btf_member(object_path.encode(), struct.encode(), member.encode()))


# -- ring buffer ------------------------------------------------------------------------------------------------------


def _on_record(handle: Any, data: Any, size: int) -> int:
    ring = _ffi.from_handle(handle)
    ring.receive(bytes(_ffi.buffer(data, size)))
    ring.left -= 1
    return 0 if ring.left else -errno.EAGAIN  # libbpf stops there, after this record


if _lib is not None:
    _ffi.def_extern("pyi_on_record")(_on_record)


class Ring:
    """A consumer of one ring buffer map. `receive` is called with each record's bytes, in the polling thread."""

    def __init__(self, map_fd: MapFd, receive: Callable[[bytes], None]) -> None:
        self.receive, self.left = receive, 0
        self._self = _ffi.new_handle(self)
        self._handle = _lib.pyi_ring_open(map_fd, self._self)
        if self._handle == _ffi.NULL:
            raise _error(_ffi.errno or 22, "ring_buffer__new", map_fd)
        self.epoll_fd = int(_lib.ring_buffer__epoll_fd(self._handle))

    def consume(self, limit: int) -> int:
        """Hand on what is there, without waiting and `limit` at most: it may come faster than it is read. Return how
        many."""
        self.left = limit
        result = int(_lib.ring_buffer__consume(self._handle))
        return limit if result == -errno.EAGAIN else check(result, "ring_buffer__consume")

    def close(self) -> None:
        """Stop consuming."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib.ring_buffer__free(handle)
