"""The table of operations: audit event -> the operations that its arguments stand for.

An operation is (capability, target, facts): the facts are what a target's text cannot say exactly. A function here
returns nothing for what needs no decision (a descriptor: it was decided when it was opened) or cannot be resolved.
`docs/hooks.md` is the reader's version of this table.
"""

from __future__ import annotations

import errno
import os
import posix
import socket
import stat
from collections.abc import Callable
from typing import Any

from ..capability import Capability as C
from ..decision import Verdict
from ..policy import workspace
from ..policy.broker import is_unspoken_of
from ..policy.suggest import crosses
from . import addresses, answer_codes, frames, paths
from .active import GATE, may_read, may_run
from .operation import Arguments, DoneWithout, Operation, Operations

_NOTHING: Operations = ()
#: Nothing, of an open by which the interpreter looks for a line of source that is not in sight.
SOURCE_LINE: Operations = []
#: importlib reads a module for an import of its own, or of one that is an event already: nothing is asked
BY_IMPORTER: Operations = []
LET_THROUGH: Operations = []
#: What a hook answers of these, by what they are (`id`).
OF_INTERPRETER = {
    id(SOURCE_LINE): answer_codes.LOOKS_FOR_LINE,
    id(BY_IMPORTER): answer_codes.IMPORTER_READS,
    id(LET_THROUGH): answer_codes.READS_LET_THROUGH,
}
_O_WRITING, _O_CREAT, _O_TRUNC = posix.O_WRONLY | posix.O_RDWR, posix.O_CREAT, posix.O_TRUNC
_O_PATH = getattr(posix, "O_PATH", 0o10000000)  # open(2)
_O_NEW, _O_NOFOLLOW = posix.O_CREAT | posix.O_EXCL, posix.O_NOFOLLOW
_O_TMPFILE_BIT = 0o20000000  # __O_TMPFILE (asm-generic/fcntl.h)
#: Mode and flags by which the interpreter alone opens: for the line that a SyntaxError shows, by a name that is mostly
#: made up, or a script's own (_Py_fopen_obj in Python/fileutils.c). What is not in sight it does without.
_SOURCE_LINE = ("rb", 0)
_SOCKET_INIT = socket.socket.__init__.__code__
#: Requests that put words into a terminal's mouth (ioctl_tty(2)); part of the floor.
_TERMINAL_REQUESTS = {0x5412: "TIOCSTI", 0x541C: "TIOCLINUX"}


def opening(path: str, flags: int) -> Operations:
    """Return the operations of opening a resolved path with open(2) flags."""
    if flags & _O_PATH:
        return _NOTHING
    facts: dict[str, Any] = {}
    if flags & _O_TMPFILE_BIT:
        return (C.FS_CREATE, path, facts), (C.FS_WRITE, path, facts)
    found: list[Operation] = []
    access = flags & _O_WRITING
    neither = access == _O_WRITING and _is_seen(path)  # open(2): no right is asked of a descriptor that has none
    if flags & _O_CREAT and not paths.exists(path, covered=False):
        found.append((C.FS_CREATE, path, facts))
    if (access and not neither) or flags & _O_TRUNC:
        found.append((C.FS_WRITE, path, facts))
    if access != posix.O_WRONLY and not neither:
        found.append((C.FS_READ, path, facts))
    return found


def _open(args: Arguments) -> Operations:
    if paths.is_own_descriptor(args[0]):
        return _NOTHING
    mode = args[1]
    # a sandbox thread, whose `os.open` nothing wraps: which directory is meant is not known, and the kernel decides
    if mode is None and GATE.hooks is None and frames.names_dir_fd() and not _is_absolute(args[0]):
        return _NOTHING
    if (args[2] & _O_NOFOLLOW or args[2] & _O_NEW == _O_NEW) and paths.is_link_opened(args[0]):
        return _NOTHING  # the kernel stops there: ELOOP, EEXIST
    path = paths.reached_by_open(args[0])
    if path is None:
        return _NOTHING
    if _is_of_let_through(path):
        return LET_THROUGH
    if path.endswith(".pyc") and _is_tried_bytecode(path):
        return BY_IMPORTER
    if (mode, args[2]) == _SOURCE_LINE:
        if not paths.exists(path):
            return SOURCE_LINE
        if _is_hidden(path):  # as by a root view, which monitor mode and BPF-LSM do not have
            raise _absent(args[0])
    if mode is not None and ((mode == "r" and frames.searches_archive()) or frames.opens_by_tempfile()):
        return _NOTHING
    if path.startswith("/dev/pty") and frames.opens_by_pty():
        return _NOTHING  # the kernel says that it is not there, or refuses it
    if _is_answered(path, args[2]):
        return _NOTHING
    paths.note_opened(path)
    return opening(path, args[2])


def _is_answered(path: str, flags: int) -> bool:
    """Tell whether the kernel answers an open before it looks at rights, and the guest may know (ENOENT, EISDIR)."""
    if flags & _O_NEW == _O_NEW:
        return is_known_present(path)
    if not flags & (_O_CREAT | _O_TMPFILE_BIT) and _is_absent_from_own(path):
        return True
    if flags & (_O_WRITING | _O_TRUNC) and not flags & (_O_PATH | _O_TMPFILE_BIT) and _is_known_directory(path):
        return True
    changes = flags & (_O_WRITING | _O_TRUNC) and not flags & (_O_CREAT | _O_PATH | _O_TMPFILE_BIT)
    return bool(changes) and _is_refused(C.FS_WRITE, path) and _is_known_absent(path)


def _is_absolute(name: object) -> bool:
    return (paths.text(name) or "").startswith("/")


def _is_tried_bytecode(path: str) -> bool:
    """Tell whether importlib looks for the bytecode of a source that it was given, and does without."""
    caller = frames.caller()
    return caller is not None and frames.is_import_machinery(caller) and not may_read(path)


def _is_of_let_through(path: str) -> bool:
    """Tell whether importlib reads a module by whose import enforcing would have ended: it is an event already."""
    hooks = GATE.hooks
    if hooks is None or not hooks.imports.let_through:
        return False
    caller = frames.caller()
    return caller is not None and frames.is_import_machinery(caller) and hooks.imports.reads(path)


def _truncated(args: Arguments) -> Operations:
    path = paths.reached(args[0])
    return _NOTHING if path is None or _is_answered(path, posix.O_WRONLY) else ((C.FS_WRITE, path, {}),)


def _creating(index: int, dir_fd: int) -> Callable[[Arguments], Operations]:
    """Return a function for events that make a name; one that exists is left to the kernel (EEXIST comes first)."""

    def operations(args: Arguments) -> Operations:
        path = paths.reached(args[index], args[dir_fd], follow=False)
        paths.forget_directories()
        return _NOTHING if path is None or paths.present(path) else ((C.FS_CREATE, path, {}),)

    return operations


def _list(args: Arguments) -> Operations:
    # importlib lists every directory on its way; refusing that would hide modules that are granted by name
    caller = frames.caller()
    if isinstance(args[0], int):
        return _NOTHING
    path = paths.reached("." if args[0] is None else args[0])
    if caller is not None and frames.is_import_machinery(caller):
        return LET_THROUGH if path is not None and _is_of_let_through(path) else BY_IMPORTER
    return _NOTHING if path is None or _is_absent_from_own(path) else ((C.FS_READ, path, {"listing": True}),)


def _metadata(args: Arguments) -> Operations:
    """Return the operation of changing owner, mode, times or attributes; descriptors count where they have a name."""
    value = args[0]
    path = paths.of_descriptor(value) if isinstance(value, int) else paths.reached_by_change(value, _last_dir_fd(args))
    return _NOTHING if path is None or _is_known_absent(path) else ((C.FS_METADATA, path, {}),)


def _mode(args: Arguments) -> Operations:
    """Return the operation of chmod, whose set-id bits no kernel layer lets pass, whatever the file is."""
    if not is_set_id(args[1]):
        return _metadata(args)
    path = paths.of_descriptor(args[0]) if isinstance(args[0], int) else paths.reached_by_change(args[0], args[2])
    return _NOTHING if path is None else ((C.FS_METADATA, path, {"special": True}),)


def is_set_id(mode: int) -> bool:
    """Tell whether a mode has the set-user-id or the set-group-id bit."""
    return bool(mode & (stat.S_ISUID | stat.S_ISGID))


def _is_known_absent(path: str) -> bool:
    """Tell whether nothing is there, and the guest may know: the kernel says so before it looks at rights."""
    hooks = GATE.hooks
    if _is_absent_from_own(path):
        return True
    if hooks is None or not paths.absent(path) or not may_read(path):
        return False
    directory = path.rpartition("/")[0] or "/"
    while paths.absent(directory):
        directory = directory.rpartition("/")[0] or "/"
    seen = paths.is_directory(directory)
    return seen and hooks.peek(C.FS_READ, directory, listing=True).verdict is Verdict.ALLOW


def _is_absent_from_own(path: str) -> bool:
    """Tell whether nothing has a name that monitor mode keeps the host's, and that leads to the workspace enforced."""
    hooks = GATE.hooks
    if hooks is None or not workspace.is_of_host_files(path):
        return False
    listing = hooks.peek(C.FS_READ, workspace.WITH_FILES, listing=True)
    return listing.verdict is Verdict.ALLOW and workspace.is_rule(listing.rule) and paths.absent(path)


def is_known_present(path: str) -> bool:
    """Tell whether a name is taken, and the guest may know: the kernel says so before it looks at rights."""
    return GATE.hooks is not None and paths.present(path) and may_read(path)


def _is_known_directory(path: str) -> bool:
    """Tell whether a directory is there that the guest may read and not write."""
    return paths.is_directory(path) and may_read(path) and _is_refused(C.FS_WRITE, path)


def _is_hidden(path: str) -> bool:
    """Tell whether no rule speaks of reading a file: a root view would not have it."""
    hooks = GATE.hooks
    return hooks is not None and is_unspoken_of(hooks.peek(C.FS_READ, path).code)


def _is_seen(path: str) -> bool:
    """Tell whether nothing hides a path, as a root view does what no rule shows, and a sandbox thread has none."""
    hooks = GATE.hooks
    return hooks is None or hooks.peek(C.FS_METADATA, path, look=True).code is None


def _is_refused(capability: C, path: str) -> bool:
    """Tell whether the policy refuses an operation, or would in monitor mode; nothing is reported."""
    hooks = GATE.hooks
    return hooks is not None and hooks.peek(capability, path).verdict is not Verdict.ALLOW


def _absent(*names: Any) -> DoneWithout:
    """Return the answer to a call whose first name is not there; as the kernel's error, it has what was given."""
    return DoneWithout(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), *names))


def _last_dir_fd(args: Arguments) -> int | None:
    return args[-1] if len(args) > 2 and isinstance(args[-1], int) else None


def _attributes(args: Arguments) -> Operations:
    return _metadata(args[:1])


def _deleted(args: Arguments) -> Operations:
    path = paths.reached(args[0], args[1], follow=False)
    paths.forget_directories()
    if path is None:
        return _NOTHING
    # answered here: what is granted for reading alone is a read-only mount, and EROFS would come before ENOENT
    if _is_refused(C.FS_DELETE, path) and _is_known_absent(path):
        raise _absent(args[0])
    return ((C.FS_DELETE, path, {}),)


def _rename(args: Arguments) -> Operations:
    source = paths.reached(args[0], args[2], follow=False)
    target = paths.reached(args[1], args[3], follow=False)
    paths.forget_directories()
    found: list[Operation] = []
    if source is not None:
        found.append((C.FS_DELETE, source, {}))
    if target is not None:
        found.append((C.FS_CREATE, target, {}))
        if paths.present(target):
            found.append((C.FS_DELETE, target, {}))
    # so is a move between two grants, which are two mounts: EXDEV would come first
    stops = any(_is_refused(one[0], one[1]) for one in found) or crosses(found[0][1], [one[:2] for one in found])
    if source is not None and stops and _is_known_absent(source):
        raise _absent(args[0], None, args[1])
    return found


def _link(args: Arguments) -> Operations:
    source = paths.reached(args[0], args[2], follow=_link_follows(args))
    target = paths.reached(args[1], args[3], follow=False)
    found: list[Operation] = []
    if source is not None:
        found.append((C.FS_READ, source, {}))
    if target is not None and not paths.present(target):
        found.append((C.FS_CREATE, target, {}))
    return found


def _link_follows(args: Arguments) -> bool:
    """Tell whether `os.link` follows its source: without a `dir_fd` it is link(2), which never does."""
    return args[2:4] != (-1, -1) and not paths.is_unfollowing()


def _exec(args: Arguments) -> Operations:
    is_open = isinstance(args[0], int)
    return executing(paths.executable(args[0]) if is_open else paths.reached(args[0], follow=False))


def executing(named: str | None) -> Operations:
    """Return the operation of running a program: what a link leads to, or the link where no rule speaks of either.

    A rule for the link grants both. One for what it leads to leaves the link out of sight, but not one that the guest
    may have made: no rule finds that before the guest does.
    """
    path = None if named is None else paths.reached(named)
    if named is None or path is None:
        return _NOTHING
    hooks = GATE.hooks
    if hooks is not None and path != named:
        said = [hooks.peek(C.PROCESS_EXEC, one).code for one in (path, named)]
        made = hooks.peek(C.FS_CREATE, named).verdict is Verdict.ALLOW
        path = named if all(map(is_unspoken_of, said)) and not made else path
    return ((C.PROCESS_EXEC, path, {}),)


def _spawn(args: Arguments) -> Operations:
    return executing(paths.executable(args[0], search=args[2] if len(args) > 2 else None))


def _popen(args: Arguments) -> Operations:
    found = executing(paths.executable(args[0], search=args[3], base=args[2]))
    if found and frames.tries_program() and not may_run(found[0][1]):
        raise _absent(found[0][1])
    return found


def _shell(args: Arguments) -> Operations:
    return executing(paths.reached("/bin/sh", follow=False))


def _terminal_spawn(args: Arguments) -> Operations:
    argv = args[0]
    return executing(paths.executable(argv if isinstance(argv, (str, bytes)) else argv[0]))


def _fork(args: Arguments) -> Operations:
    return ((C.PROCESS_FORK, "fork", {}),)


def signalling(target: str, pid: int | None, number: int) -> Operations:
    """Return the operation of a signal. In a cell all processes but its init are the sandbox's own."""
    own = GATE.hooks is not None and pid != 1
    return ((C.PROCESS_SIGNAL, target, {"pid": pid, "signal": number, "inside": own}),)


def _kill(args: Arguments) -> Operations:
    return signalling(f"kill({int(args[0])}, signal {int(args[1])})", int(args[0]), int(args[1]))


def _killpg(args: Arguments) -> Operations:
    return _kill((-int(args[0]), args[1]))


def _socket(args: Arguments) -> Operations:
    _self, family, type_, protocol = args
    frame = frames.caller()
    # accept, fromfd, dup and socketpair adopt a descriptor that exists
    if frame is not None and frame.f_code is _SOCKET_INIT and frame.f_locals.get("fileno") is not None:
        return _NOTHING
    # the defaults of `_socket.socket`, which tells of them before it makes these of them (Modules/socketmodule.c)
    family, type_ = socket.AF_INET if family == -1 else family, socket.SOCK_STREAM if type_ == -1 else type_
    return ((C.NET_SOCKET, *addresses.socket_kind(family, type_, protocol)),)


def _addressed(capability: C) -> Callable[[Arguments], Operations]:
    """Return a function for socket events, whose arguments are the socket and an address."""
    leads_there = capability is not C.NET_BIND

    def operations(args: Arguments) -> Operations:
        described = addresses.describe(addresses.family_of(args[0]), args[1], leads_there=leads_there)
        if described is None:
            return _NOTHING
        target, facts = described
        if not leads_there:
            facts |= addresses.v6only(args[0], target)
        asked = C.NET_CONNECT if addresses.is_connecting() else capability
        return ((asked, target, {**facts, "type": addresses.kind_of(args[0])}),)

    return operations


def _named_host(host: int, port: int | None) -> Callable[[Arguments], Operations]:
    """Return a function for events of protocol clients: they tell the host before a socket exists."""

    def operations(args: Arguments) -> Operations:
        name = addresses.host_text(args[host])
        if not name:
            return _NOTHING
        return ((C.NET_CONNECT, *addresses.inet(name, None if port is None else args[port])),)

    return operations


def _dlopen(args: Arguments) -> Operations:
    name = paths.text(args[0])
    if name is None:
        return _NOTHING  # the process itself
    path = paths.reached(name) if "/" in name else name
    return ((C.IMPORT_NATIVE, path or name, {"path": path or name, "how": "dlopen"}),)


def _load_extension(args: Arguments) -> Operations:
    return _dlopen(args[1:2])


def _database(args: Arguments) -> Operations:
    name = paths.text(args[0])
    if name is None or name in ("", ":memory:") or name.startswith("file:"):
        return _NOTHING  # whether "file:" is a URI is not in the event
    path = paths.reached(name)
    if path is None:
        return _NOTHING
    if not paths.exists(path):
        return opening(path, posix.O_RDWR | posix.O_CREAT)
    # SQLite falls back to reading where it may not write, so writing is asked when it is tried: by the kernel. Monitor
    # mode lets it write: what not even reading is granted of is one call, which asks for both
    said = GATE.hooks.peek(C.FS_READ, path).verdict if GATE.hooks is not None else None
    return opening(path, posix.O_RDWR if said is Verdict.WOULD_DENY else posix.O_RDONLY)


def _ioctl(args: Arguments) -> Operations:
    name = _TERMINAL_REQUESTS.get(args[1] & 0xFFFFFFFF)
    return _NOTHING if name is None else ((C.KERNEL_IOCTL, name, {"request": int(args[1])}),)


def _syslog(args: Arguments) -> Operations:
    return ((C.NET_CONNECT, "unix:/dev/log", {"unix_path": "/dev/log"}),)


#: Of what files and names are used by, what the host may be asked about.
ASKED_ABOUT = frozenset({"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink",
                         "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr"})  # fmt: skip
#: Audit event -> (function of its arguments, the system call that would follow).
OPERATIONS: dict[str, tuple[Callable[[Arguments], Operations], str]] = {
    "open": (_open, "openat"),
    "os.listdir": (_list, "openat"),
    "os.scandir": (_list, "openat"),
    "os.truncate": (_truncated, "truncate"),
    "os.remove": (_deleted, "unlink"),
    "os.rmdir": (_deleted, "rmdir"),
    "os.mkdir": (_creating(0, 2), "mkdir"),
    "os.symlink": (_creating(1, 2), "symlink"),
    "os.rename": (_rename, "rename"),
    "os.link": (_link, "linkat"),
    "os.chmod": (_mode, "chmod"),
    "os.chown": (_metadata, "chown"),
    "os.utime": (_metadata, "utimensat"),
    "os.setxattr": (_attributes, "setxattr"),
    "os.removexattr": (_attributes, "removexattr"),
    "sqlite3.connect": (_database, "openat"),
    "os.exec": (_exec, "execve"),
    "os.posix_spawn": (_spawn, "execve"),
    "os.system": (_shell, "execve"),
    "subprocess.Popen": (_popen, "execve"),
    "pty.spawn": (_terminal_spawn, "execve"),
    "os.fork": (_fork, "clone"),
    "os.forkpty": (_fork, "clone"),
    "os.kill": (_kill, "kill"),
    "os.killpg": (_killpg, "kill"),
    "socket.__new__": (_socket, "socket"),
    "socket.connect": (_addressed(C.NET_CONNECT), "connect"),
    "socket.bind": (_addressed(C.NET_BIND), "bind"),
    "socket.sendto": (_addressed(C.NET_SEND), "sendto"),
    "socket.sendmsg": (_addressed(C.NET_SEND), "sendmsg"),
    "http.client.connect": (_named_host(1, 2), "connect"),
    "ftplib.connect": (_named_host(1, 2), "connect"),
    "imaplib.open": (_named_host(1, 2), "connect"),
    "nntplib.connect": (_named_host(1, 2), "connect"),
    "poplib.connect": (_named_host(1, 2), "connect"),
    "smtplib.connect": (_named_host(1, 2), "connect"),
    "telnetlib.Telnet.open": (_named_host(1, 2), "connect"),
    "syslog.syslog": (_syslog, "connect"),
    "ctypes.dlopen": (_dlopen, "openat"),
    "sqlite3.load_extension": (_load_extension, "openat"),
    "fcntl.ioctl": (_ioctl, "ioctl"),
}

#: Handled by their own modules: `importing` and `pinned`.
OWN_HANDLERS = frozenset({"import", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})

#: Every event that the native hook has to pass on.
EVENTS = frozenset(OPERATIONS) | OWN_HANDLERS
