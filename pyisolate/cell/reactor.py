"""One thread per supervisor that serves every channel that no caller owns, and the zygote's control socket."""

from __future__ import annotations

import heapq
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Self

from ..native.polling import epoll
from ..native.threads import Thread
from .channel import Channel

_log = logging.getLogger("pyisolate.reactor")
_ARMED = select.EPOLLIN | select.EPOLLONESHOT
#: After a failure, before the next turn: a host without memory must not lose its processor, too.
_PAUSE_S = 0.01
#: Serving one channel may fail as often as its guest likes (it writes what a callback of the host's raises for): its
#: own turn is put off, and the log says so once in so long (seconds).
_TELL_AGAIN_S = 1.0


class Reactor:
    """An epoll loop over channels (each by its own epoll descriptor, one shot at a time) and plain callbacks."""

    def __init__(self) -> None:
        self._poller = epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poller.register(self._wake, select.EPOLLIN)
        self._channels: dict[int, Channel] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}
        #: when channels that are past their budget are looked at again, by their descriptors; only the thread uses it
        self._put_off: list[tuple[float, int]] = []
        self._stopping = False
        self._served: Callable[[Channel], None] = lambda _channel: None
        self._thread = Thread(target=self._run, name="pyisolate-reactor")
        self._runs = threading.Event()

    def start(self, served: Callable[[Channel], None]) -> None:
        """Start the thread; `served` is called after each turn a channel got from it. Raises RuntimeError."""
        self._served = served
        self._thread.start()
        while not self._runs.wait(_PAUSE_S):
            if not self._thread.is_alive():  # CPython had no memory for its first frame
                raise RuntimeError("can't start new thread: it ended before it ran")

    @property
    def stopped(self) -> bool:
        """True once `stop` or `abandon` was called; it cannot be started again."""
        return self._stopping

    @property
    def channels(self) -> int:
        """How many channels it serves."""
        return len(self._channels)

    def add_channel(self, channel: Channel) -> None:
        """Serve a channel from now on."""
        self._channels[channel.poller_fd] = channel
        self._poller.register(channel.poller_fd, _ARMED)

    def borrow(self, channel: Channel) -> ChannelGuard:
        """Return a context manager that holds a channel for the calling thread; the reactor serves it afterwards."""
        return ChannelGuard(self, channel)

    def disarm(self, channel: Channel) -> None:
        """Leave a channel to the calling thread, which holds its lock."""
        try:
            self._poller.modify(channel.poller_fd, 0)
        except (OSError, ValueError):
            pass  # already removed

    def arm(self, channel: Channel) -> None:
        """Serve a channel again. An event that waits fires at once: arming is level triggered."""
        if channel.ended is None:
            try:
                self._poller.modify(channel.poller_fd, _ARMED)
            except (OSError, ValueError):
                pass

    def remove_channel(self, channel: Channel) -> None:
        """Forget a channel, before it is closed."""
        try:
            descriptor = channel.poller_fd
            self._poller.unregister(descriptor)
        except (OSError, ValueError):
            return
        self._channels.pop(descriptor, None)

    def add_callback(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` in the reactor thread whenever `descriptor` can be read."""
        self._callbacks[descriptor] = callback
        self._poller.register(descriptor, select.EPOLLIN)

    def remove_callback(self, descriptor: int) -> None:
        """Stop watching a descriptor."""
        if self._callbacks.pop(descriptor, None) is not None:
            try:
                self._poller.unregister(descriptor)
            except OSError:
                pass

    def stop(self) -> None:
        """End the thread and release its descriptors. Safe to call from the thread itself and twice."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)
        self._poller.close()
        os.close(self._wake)

    def abandon(self) -> None:
        """Close the descriptors in a forked child of the host, where the thread does not exist."""
        self._stopping = True
        self._poller.close()
        os.close(self._wake)

    def _run(self) -> None:
        self._runs.set()
        while not self._stopping:
            try:
                events = self._poller.poll(self._resume())
            except (OSError, ValueError):
                return
            except MemoryError:  # it may pass, and every sandbox is served here
                time.sleep(_PAUSE_S)
                continue
            for descriptor, _mask in events:
                try:
                    self._serve(descriptor)
                except Exception:
                    _log.exception("serving descriptor %d failed", descriptor)
                    time.sleep(_PAUSE_S)  # it may still be readable: what failed at once would fail all the time

    def _resume(self) -> float | None:
        """Look at the channels again whose turn has come; return the seconds until the next one's."""
        while self._put_off:
            left = self._put_off[0][0] - time.monotonic()
            if left > 0:
                return left
            channel = self._channels.get(heapq.heappop(self._put_off)[1])
            if channel is not None:
                self.arm(channel)
        return None

    def _serve(self, descriptor: int) -> None:
        if (callback := self._callbacks.get(descriptor)) is not None:
            callback()
            return
        channel = self._channels.get(descriptor)
        if channel is None:
            return
        # A caller that owns the channel arms it again when it is done; waiting here would stall the others.
        if not channel.lock.acquire(blocking=False):
            return
        try:
            if not channel.turn.left_s():
                channel.pump(0)
                self._served(channel)
        except Exception:
            self._failed(channel)
        finally:  # also where a callback of the host's raised: the guest must not be left unread
            if rest := channel.turn.rest_s():
                heapq.heappush(self._put_off, (time.monotonic() + rest, descriptor))
            else:
                self.arm(channel)
            channel.lock.release()

    @staticmethod
    def _failed(channel: Channel) -> None:
        """Let a channel rest, and none of the others: what failed at once would fail all the time."""
        now = time.monotonic()
        channel.turn.put_off(now + _PAUSE_S)
        if now >= channel.tell_again_at:
            channel.tell_again_at = now + _TELL_AGAIN_S
            _log.exception("serving cell %d failed", channel.pid)


class ChannelGuard:
    """Holds a channel for the calling thread, between `acquire` and `release` or as a context manager."""

    __slots__ = ("_channel", "_held", "_reactor")

    def __init__(self, reactor: Reactor, channel: Channel) -> None:
        self._reactor, self._channel, self._held = reactor, channel, False

    def acquire(self, *, blocking: bool = True) -> bool:
        """Keep other threads off the channel; False where one has it and `blocking` is False."""
        self._held = self._channel.lock.acquire(blocking=blocking)
        if self._held:
            self._reactor.disarm(self._channel)
        return self._held

    def release(self) -> None:
        """Let the channel be served again. Idempotent."""
        if self._held:
            self._held = False
            # In this order: the reactor is asked once, and would pass over a channel that is still held.
            self._channel.lock.release()
            self._reactor.arm(self._channel)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()
