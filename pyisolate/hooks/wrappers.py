"""Asking wrappers for functions that raise no audit event (CPython 3.11 to 3.13). Cells only.

Installed by the zygote, inert until the gate opens; then each asks the broker and calls the original. `docs/hooks.md`
lists them. What goes round them (a kept reference, native code) meets the kernel.
"""

from __future__ import annotations

import _posixsubprocess
import _socket
import _thread
import contextlib
import grp
import os
import posix
import pwd
import signal
import socket
import stat
import sys
from _thread import get_ident
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from ..capability import Capability as C
from ..decision import Verdict
from ..native.frames import checked, untraced
from . import addresses, optional, paths
from . import pinned_hosts as pinned
from .active import GATE, CellHooks
from .answer_codes import LOOKUPS
from .operation import Operations
from .operations import executing, is_known_present, is_set_id, signalling

Builder = Callable[..., Operations]
_NOTHING: Operations = ()
#: What mknod(2) makes in a sandbox; 0 is a regular file.
_PLAIN_KINDS = (0, stat.S_IFREG, stat.S_IFIFO)
_WRITING = os.O_WRONLY | os.O_RDWR


def _made(path: Any, mode: int = 0o600, *_args: Any, dir_fd: int | None = None, **_kwargs: Any) -> Operations:
    resolved = paths.reached(path, dir_fd, follow=False)
    special = stat.S_IFMT(mode) not in _PLAIN_KINDS or is_set_id(mode)
    if resolved is None or (not special and is_known_present(resolved)):
        return _NOTHING
    return ((C.FS_CREATE, resolved, {"special": special}),)


def _changed_root(path: Any) -> Operations:
    return ((C.KERNEL_MOUNT, f"chroot {paths.reached(path) or path}", {}),)


def _namespace(name: str) -> Builder:
    def operations(*args: Any, **_kwargs: Any) -> Operations:
        return ((C.KERNEL_NAMESPACE, name, {}),)

    return operations


def _descriptor_signal(pidfd: int, number: int, *_args: Any) -> Operations:
    return signalling(f"pidfd {pidfd}", None, int(number))


def _randomness(name: str) -> Builder:
    def operations(*_args: Any, **_kwargs: Any) -> Operations:
        hooks = GATE.hooks
        if hooks is None or not hooks.random_asked:
            return _NOTHING
        return ((C.RANDOM_READ, name, {}),)

    return operations


def _forked_exec(args: Any, executables: Any, _close: Any, _keep: Any, cwd: Any, *_rest: Any) -> Operations:
    """Decide `fork_exec`, which tries each candidate of a PATH search in turn: the first that exists runs."""
    candidates = [path for one in executables if (path := paths.reached(one, follow=False, base=cwd)) is not None]
    if not candidates:
        return _NOTHING
    chosen = next((path for path in candidates if paths.exists(path)), None)
    if chosen is None:
        directory = paths.likely_directory([path.rpartition("/")[0] for path in candidates])
        chosen = next((path for path in candidates if path.rpartition("/")[0] == directory), candidates[0])
    return executing(chosen)


def _searched_exec(file: Any, args: Any, env: Any = None) -> Operations:
    return executing(paths.executable(file, search=env))


def _looked_up(*_args: Any, **_kwargs: Any) -> Operations:
    return _NOTHING


#: module, name, operations of a call, system call
_FUNCTIONS: tuple[tuple[ModuleType, str, Builder, str], ...] = (
    (posix, "mkfifo", _made, "mknodat"),
    (posix, "mknod", _made, "mknodat"),
    (posix, "chroot", _changed_root, "chroot"),
    (posix, "unshare", _namespace("unshare"), "unshare"),
    (posix, "setns", _namespace("setns"), "setns"),
    (posix, "urandom", _randomness("os.urandom"), "getrandom"),
    (posix, "getrandom", _randomness("os.getrandom"), "getrandom"),
    (_posixsubprocess, "fork_exec", _forked_exec, "execve"),
    *(
        (module, name, _looked_up, "socket")
        for module in (pwd, grp, posix, _socket)
        for name in sorted(LOOKUPS)
        if hasattr(module, name)
    ),
)

#: Calls of which the listener must know that they came this way, also where there was nothing to ask.
_ANNOUNCED = LOOKUPS | {"fork_exec"}


def _wrapper(original: Callable[..., Any], operations: Builder, syscall: str) -> Callable[..., Any]:
    name = original.__name__

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        hooks = GATE.hooks
        if hooks is not None:
            try:
                found = operations(*args, **kwargs)
            except Exception:  # arguments that the call itself refuses
                found = _NOTHING
            if found or name in _ANNOUNCED:
                hooks.ask_all(found, args, syscall, name)
        return original(*args, **kwargs)

    return untraced(wrapper, original)  # type: ignore[no-any-return]


def _open_with_dir_fd(original: Callable[..., int]) -> Callable[..., int]:
    """Wrap `os.open`: its audit event tells neither the dir_fd that it starts from nor the descriptor that it makes."""

    def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if GATE.hooks is None:
            return original(path, flags, mode, dir_fd=dir_fd)
        if dir_fd is None:
            opened = original(path, flags, mode)
        else:
            ident = get_ident()
            paths.open_dir_fd[ident] = dir_fd
            try:
                opened = original(path, flags, mode, dir_fd=dir_fd)
            finally:
                paths.open_dir_fd.pop(ident, None)
        if not flags & _WRITING:
            paths.remember_descriptor(opened, path, dir_fd)
        return opened

    return untraced(open, original)  # type: ignore[no-any-return]


def _leaving_links(original: Callable[..., Any], *, always: bool = False) -> Callable[..., Any]:
    """Wrap a function with `follow_symlinks`, or one that follows none (`always`): its audit event does not say so."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        leaves = always or not kwargs.get("follow_symlinks", True)
        before = paths.is_unfollowing()  # a path's own __fspath__ may call such a function, too
        if GATE.hooks is None or leaves == before:
            return original(*args, **kwargs)
        mark, unmark = paths.unfollowing.add, paths.unfollowing.discard
        if before:
            mark, unmark = unmark, mark
        ident = get_ident()
        mark(ident)
        try:
            return original(*args, **kwargs)
        finally:
            unmark(ident)

    return untraced(wrapper, original)  # type: ignore[no-any-return]


def _searching_exec(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `os._execvpe`: asked once for what the search finds, not for every directory on the way."""

    def _execvpe(file: Any, args: Any, env: Any = None) -> Any:
        hooks = GATE.hooks
        if hooks is None:
            return original(file, args, env)
        hooks.ask_all(_searched_exec(file, args, env), (file,), "execve")
        found = paths.executable(file, search=env)
        if found is not None and "/" in found:
            file = found
        return original(file, args, env)

    return untraced(_execvpe, original)  # type: ignore[no-any-return]


# -- socket methods: `socket.socket` is a Python class over the C one, so its methods can be put before -------------


def _listen(self: socket.socket, /, *args: Any) -> None:
    hooks = GATE.hooks
    if hooks is not None:
        described = addresses.describe(addresses.family_of(self), self.getsockname())
        if described is None:
            hooks.ask_all((), hook="listen")
        else:
            target, facts = described
            facts |= addresses.v6only(self, target)
            hooks.ask(C.NET_LISTEN, target, **facts, type=addresses.kind_of(self))
    return _socket.socket.listen(self, *args)


def _pinned_address(sock: socket.socket, address: Any) -> Any:
    """Return an address with a granted name replaced by its first pinned address of the socket's family."""
    hooks, family = GATE.hooks, addresses.family_of(sock)
    if (
        hooks is None
        or family not in (addresses.AF_INET, addresses.AF_INET6)
        or not isinstance(address, tuple)
        or len(address) < 2
    ):
        return address
    name = addresses.host_text(address[0])
    if not name or name == "<broadcast>" or addresses.literal(name) is not None:
        return address
    found = hooks.hosts.resolve(name, address[1])
    if found is None:
        return address  # monitor mode, or a rule for any name
    fitting = [one for one in found if (":" in one) == (family == addresses.AF_INET6)]
    if not fitting:
        raise pinned.no_address(name)
    return (fitting[0], *address[1:])


def _connect(self: socket.socket, address: Any, /) -> None:
    return _socket.socket.connect(self, _pinned_address(self, address))


def _connect_ex(self: socket.socket, address: Any, /) -> int:
    return _socket.socket.connect_ex(self, _pinned_address(self, address))


def _bind(self: socket.socket, address: Any, /) -> None:
    return _socket.socket.bind(self, _pinned_address(self, address))


def _sendto(self: socket.socket, data: Any, /, *args: Any) -> int:
    given = (*args[:-1], *[_pinned_address(self, address) for address in args[-1:]])
    with _connecting(self, args[0] if len(args) > 1 else 0):
        return _socket.socket.sendto(self, data, *given)


def _sendmsg(self: socket.socket, buffers: Any, /, *args: Any) -> int:
    given = (*args[:2], *[_pinned_address(self, address) for address in args[2:]])
    with _connecting(self, args[1] if len(args) > 1 else 0):
        return _socket.socket.sendmsg(self, buffers, *given)


@contextlib.contextmanager
def _connecting(sock: socket.socket, flags: object) -> Iterator[None]:
    """Let the hook of the call inside know of MSG_FASTOPEN: its audit event does not carry the flags."""
    ident = get_ident()
    if GATE.hooks is None or not addresses.connects_by(sock, flags) or ident in addresses.connecting:
        yield
        return
    addresses.connecting.add(ident)
    try:
        yield
    finally:
        addresses.connecting.discard(ident)


def _connection(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `socket.create_connection`: it makes the socket first, and a refused `socket()` names no address."""

    def check(address: Any, *_args: Any, **_kwargs: Any) -> None:
        hooks = GATE.hooks
        if hooks is not None and isinstance(address, tuple) and len(address) == 2:
            _ask_for_one_of(hooks, addresses.host_text(address[0]), address[1])

    return checked(check, original)  # type: ignore[no-any-return]


def _ask_for_one_of(hooks: CellHooks, name: str | None, port: Any) -> None:
    """Refuse a connection when none of a name's addresses is granted; the call itself tries them in turn."""
    if not name:
        return
    known = () if hooks.hosts.pins(name) else hooks.hosts.addresses_of(name)
    choices = [addresses.inet(one, port) for one in known or (name,)]
    kind = int(_socket.SOCK_STREAM)
    if not any(
        hooks.peek(C.NET_CONNECT, target, **facts, type=kind).verdict is Verdict.ALLOW for target, facts in choices
    ):
        target, facts = choices[0]
        hooks.ask_all(((C.NET_CONNECT, target, {**facts, "type": kind}),), hook="create_connection")


#: The C library would look a host name up by itself, in files and with daemons and name servers of its own.
_METHODS: dict[str, Callable[..., Any]] = {
    "listen": _listen,
    "connect": _connect,
    "connect_ex": _connect_ex,
    "bind": _bind,
    "sendto": _sendto,
    "sendmsg": _sendmsg,
}

_installed = _thread.allocate_lock()


def install() -> None:
    """Replace the functions in this process, in every module that has taken them already. Cells only; idempotent."""
    if not _installed.acquire(blocking=False):
        return
    replaced: dict[int, tuple[Any, Any]] = {}

    def replace(module: ModuleType, name: str, wrapper: Any) -> None:
        original = getattr(module, name)
        replaced[id(original)] = (original, wrapper)

    for module, name, operations, syscall in _FUNCTIONS:
        if hasattr(module, name):
            replace(module, name, _wrapper(getattr(module, name), operations, syscall))
    for module, name, file in optional.lookups():
        original, announced = replaced[id(getattr(module, name))]
        replaced[id(original)] = (original, untraced(optional.lookup(announced, file), original))
    optional.install()
    replace(posix, "getlogin", untraced(optional.getlogin(posix.getlogin), posix.getlogin))
    replace(signal, "pidfd_send_signal", _wrapper(signal.pidfd_send_signal, _descriptor_signal, "pidfd_send_signal"))
    replace(posix, "open", _open_with_dir_fd(posix.open))
    for name in ("chmod", "chown", "lchown", "utime", "setxattr", "removexattr", "link"):
        replace(posix, name, _leaving_links(getattr(posix, name), always=name == "lchown"))
    replace(os, "_execvpe", _searching_exec(os._execvpe))  # type: ignore[attr-defined]
    replace(socket, "create_connection", _connection(socket.create_connection))
    for name, answer in pinned.REPLACEMENTS.items():  # socket.getaddrinfo stays: it calls the one in _socket
        replace(_socket, name, untraced(answer, getattr(_socket, name)))
    _sweep(replaced)
    for name, method in _METHODS.items():
        setattr(socket.socket, name, untraced(method, getattr(_socket.socket, name), method=True))


def _sweep(replaced: dict[int, tuple[Any, Any]]) -> None:
    """Swap originals for wrappers wherever a loaded module has them by name, and in what `os` says that they can do."""
    for able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        able.update([wrapper for original, wrapper in replaced.values() if original in able])
    for module in list(sys.modules.values()):
        space = getattr(module, "__dict__", None)
        if not isinstance(space, dict) or str(space.get("__name__", "")).startswith("pyisolate."):
            continue
        for name, value in list(space.items()):
            found = replaced.get(id(value))
            if found is not None and found[0] is value:
                space[name] = found[1]
