"""Streams of sandbox threads: what a guest writes to `sys.stdout` and `sys.stderr` goes to its sandbox.

From `sys.stdin` it reads what its request was given, never what the host's is.

The streams of `sys` belong to the whole process. While a request runs on a sandbox thread, routers stand in for them:
they pass on what any other thread writes. What a guest writes to descriptors 1 and 2, and what threads that it starts
print, is not seen here.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

if TYPE_CHECKING:
    from .stdin import Stdin

Stream = Literal["stdout", "stderr"]
Take = Callable[[Stream, bytes], None]


class _Bytes(io.RawIOBase):
    """The binary side of one stream of one guest."""

    def __init__(self, stream: Stream, take: Take) -> None:
        super().__init__()
        self._stream, self._take = stream, take

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written = bytes(data)
        self._take(self._stream, written)
        return len(written)


def guest_stream(stream: Stream, take: Take) -> TextIO:
    """Return a text stream that gives `take` its name and each piece written, encoded, at once."""
    return io.TextIOWrapper(
        cast(Any, _Bytes(stream, take)), encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True
    )


def guest_input(stdin: Stdin | None) -> TextIO:
    """Return what a request reads as its stdin; nothing where it was given nothing."""
    return io.TextIOWrapper(io.BytesIO() if stdin is None else stdin.open(), encoding="utf-8")


class _Router:
    """Stands in for a stream of `sys`: each sandbox thread has its own, all other threads the host's."""

    def __init__(self, host: TextIO) -> None:
        self.host = host
        self.guests: dict[int, TextIO] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guests.get(threading.get_ident(), self.host), name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.host)


_lock = threading.Lock()


@contextlib.contextmanager
def routed(ident: int, streams: Mapping[Any, TextIO]) -> Iterator[None]:
    """Give the thread `ident` its own streams in this block; the host's come back with the last one."""
    routers: list[tuple[str, _Router]] = []
    with _lock:
        for name, stream in streams.items():
            current = getattr(sys, name)
            router = current if isinstance(current, _Router) else _Router(current)
            router.guests[ident] = stream
            setattr(sys, name, router)
            routers.append((name, router))
    try:
        yield
    finally:
        with _lock:
            for name, router in routers:
                router.guests.pop(ident, None)
                # Host code that redirected the stream since will put the router back: it then passes all on.
                if not router.guests and getattr(sys, name) is router:
                    setattr(sys, name, router.host)
