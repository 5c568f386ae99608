"""The host's end of one cell: its socket, output pipes and pidfd, and the only code that reads from them.

One thread at a time owns a channel. A caller that runs a request reads the frames itself, with no hop between
threads; while no thread does, the reactor serves what the guest sends on its own. Nothing here trusts the cell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..choices import Step
from ..native import channel as native
from ..native import process
from ..native.descriptors import receive
from ..native.polling import epoll
from . import values, wire
from .channel_owner import ChannelOwner
from .outbox import GONE, Backlog, Outbox
from .turns import Turn

if TYPE_CHECKING:
    from ..policy.compiled import CompiledPolicy

_log = logging.getLogger("pyisolate.cell")
#: Larger buffers come from mmap and go back with munmap at each call: 48 instead of 31 us for a round trip of 1 kB.
_RECEIVE_BYTES = 1 << 16
#: A signal that comes just before the call that waits does not end it: Ctrl-C is looked for this often (seconds).
_LOOK_UP_S = 1.0
#: How long the end of a cell that was killed is waited for: one that closes a file whose file system's server does not
#: answer (FUSE) has none.
_DYING_S = 5.0
_FORKED = "forked"
#: Who waits for the interpreter's lock has it after so many frames of one cell as take this long, for at least so long
#: (seconds): a thread that holds it gives it up by itself every 5 ms only.
_YIELD_AFTER_S, _YIELD_S = 0.0002, 0.00002
#: What a socket's buffer holds, read with room to spare: the cell adds no more to it.
_REST_READS = 256
#: What `wait_answer` waits for.
_ANSWERS = (wire.Done, wire.Failed, wire.Ready, wire.Warm)
Answer = wire.GuestFrame | native.Plain
#: How the frame begins by which a request ends, after the byte that tells its kind and size.
_DONE = wire.encode(wire.Done(id=0))[wire.HEADER.size + 1 :].split(b"\xa2id")[0]
#: Why a channel ended that this process could not go on reading.
OUT_OF_MEMORY = "this process was out of memory for what the cell sent"


class Channel:
    """Socket, pipes and pidfd of one cell, with the protocol state. Takes the descriptors, also when it fails."""

    def __init__(
        self, pid: int, descriptors: tuple[int, int, int, int], asked: int | None = None, *, init: int = 0
    ) -> None:
        channel, out_read, err_read, self.pidfd = descriptors
        try:
            self.poller = epoll(4)
            for descriptor in (channel, out_read, err_read):
                self.poller.register(descriptor, select.EPOLLIN)
        except OSError:
            for descriptor in (*descriptors, *(() if asked is None else (asked,))):
                os.close(descriptor)
            raise
        #: of the poller, -1 once it is closed
        self.poller_fd = self.poller.fileno()
        self.pid = pid
        #: pid of the process above the guest, which `pidfd` names; everything that runs in the cell is below it
        self.init = init or pid
        #: signals the cell where this process may not: the zygote, whose child it is
        self.signal_otherwise: Callable[[int, int], None] | None = None
        #: its filter lets it fork without asking the listener
        self.forks = False
        #: who forked it
        self.zygote: object = None
        #: the policy for which its zygote made everything ahead; None: it serves any
        self.made_for: CompiledPolicy | None = None
        self._pidfd_lock = threading.Lock()
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, channel)  # else it asks the kernel
        self.peer.setblocking(False)
        self._pipes = {out_read: "stdout", err_read: "stderr"}
        for pipe in self._pipes:
            os.set_blocking(pipe, False)
        self.conversation = wire.Conversation()
        self.listener: int | None = None
        self.asked = asked
        self.owner: ChannelOwner | None = None
        self.lock = threading.RLock()
        self.ended: str | None = None
        self._killed_at: float | None = None
        self.exit_status: int | None = None
        self.exited = threading.Event()
        self.released = False
        #: what the cell said it applied when it was forked; only ever written before guest code ran
        self.steps: tuple[Step, ...] = ()
        self.failed_steps: tuple[tuple[Step, str], ...] = ()
        self._buffer = wire.FrameBuffer(wire.MAX_GUEST_FRAME_BYTES)
        #: the reload that a caller waits for, and its answer
        self.awaited_reload = 0
        self.reloaded: wire.Reloaded | None = None
        self._answer: Answer | None = None
        self._closed = False
        #: its share of the host's time
        self.turn = Turn()
        #: from when on the reactor says again that serving it failed (monotonic)
        self.tell_again_at = 0.0
        self._end = native.HostEnd(channel, out_read, err_read, values.MAX_DEPTH, self.turn.account)
        self._outbox = Outbox(self._end, self.peer, self.conversation, watch=self._watch_socket, on_failed=self.end)
        self._pipe_bits = ((native.OUT, out_read), (native.ERR, err_read))

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, frame: wire.HostFrame, descriptors: Sequence[int] | None = None) -> None:
        """Send or queue one frame, from any thread. Raises Backlog when the cell has stopped reading."""
        self._outbox.send(wire.encode(frame), descriptors)

    def send_with_next(self, frame: wire.HostFrame) -> None:
        """Keep one frame until the next is sent, and send both at once: it wakes the cell for nothing."""
        self._outbox.send_with_next(frame)

    def keep(self, frame: wire.Reload) -> None:
        """Send a reload with the next frame, or as soon as the guest asks for it: it wakes no cell.

        One that was kept before is not sent: the newest table is the one that counts.
        """
        self._outbox.keep(frame)

    def send_kept(self) -> None:
        """Send the reload that is kept now, or the next one as soon as there is one: the guest waits for it."""
        self._outbox.send_kept()

    def _watch_socket(self, events: int) -> None:
        if not self._closed and self.ended is None:
            self.poller.modify(self.peer.fileno(), events)

    # -- receiving ------------------------------------------------------------------------------------------

    def pump(self, timeout_s: float | None) -> bool:
        """Wait for events and handle them; False when nothing came in time. The caller holds `lock`."""
        if self._closed:
            return False
        small = self.conversation.phase is not wire.Phase.WARMING and self._buffer.missing <= native.SMALL_BYTES
        return self._handle(self._end.turn(timeout_s, receive=small))

    def _handle(self, data: bytes) -> bool:
        """Handle what a turn received, and what else it found to do; False where it found nothing."""
        end = self._end
        ready = end.ready
        if data:  # before a callback for output, which may raise
            self._take(data)
            end.torn = False
        if ready:
            self._read_pipes(ready)
            if ready & native.WRITABLE:
                self._outbox.flush()
            if ready & native.READABLE:
                unanswered = self._answer is None
                self._read_socket()
                if unanswered and self._answer is not None and not self._closed:
                    end.turn(0, receive=False)  # what was written before the answer, and after the first look
                    self._read_pipes(end.ready)
        return bool(data or ready)

    def _read_pipes(self, ready: int) -> None:
        for bit, pipe in self._pipe_bits:
            if ready & bit and not self._closed:
                self._read_pipe(pipe)

    @property
    def torn(self) -> bool:
        """True where an exception of the host's (Ctrl-C) came while a frame was read: part of it may be lost."""
        return self._end.torn

    def ask(self, frame: wire.Request, descriptors: Sequence[int], deadline: float | None) -> Answer | None:
        """Send a request, and pump until it is answered, as `wait_answer` does: in one call, where it is small.

        Raises Backlog when the cell has stopped reading. The caller holds `lock`.
        """
        data, received = wire.encode(frame), None
        left = _LOOK_UP_S if deadline is None else max(0.0, min(deadline - time.monotonic(), _LOOK_UP_S))
        alone = not descriptors and self._outbox.empty and len(data) <= native.SMALL_BYTES
        if alone and not self._buffer.kept:
            received = self._end.ask(data, frame.id, left)
        if received is None:
            self._outbox.send(data, descriptors)
            if self.ended is None and not self._buffer.kept:
                received = self._end.answer(frame.id, left)
        if isinstance(received, native.Plain):  # compared with this request's id, and one frame: see `channel.c`
            self._answer = received  # first: Ctrl-C may come at any line
            self.conversation.answered()
            self._end.torn = False
            return self.take_answer()
        if received is not None:
            self._handle(received)
        return self.wait_answer(deadline)

    def wait_answer(self, deadline: float | None) -> Answer | None:
        """Pump until the question is answered. None at the deadline, or when the cell has or should have ended."""
        while self._answer is None and self.ended is None:
            now = time.monotonic()
            left = None if deadline is None else deadline - now
            if (left is not None and left <= 0) or (self._killed_at is not None and now - self._killed_at > _DYING_S):
                return None
            if (rest := self.turn.rest_s()) > 0:
                time.sleep(rest if left is None else min(rest, left))
                continue
            self.pump(_LOOK_UP_S if left is None else min(left, _LOOK_UP_S))
        return self.take_answer()

    def _read_pipe(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.poller.unregister(descriptor)
            self._end.end_of(descriptor)
            return
        self._output(descriptor, data)

    def _output(self, descriptor: int, data: bytes) -> None:
        if self.owner is not None:
            self.owner.on_output(self._pipes[descriptor], data)
        else:  # no guest has run: the cell itself says why it cannot begin
            _log.error("cell %d: %s", self.pid, data.decode(errors="backslashreplace").rstrip())

    def read_rest(self) -> bool:
        """Handle what a dead cell had sent: a cell reports a refusal before it raises it, so the report is in there.

        False where a thread owns the channel: it does so instead, and reads until the end of the stream.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if self.ended not in (None, _FORKED):  # by a guest that closed its end, and may have written since
                self._drain_pipes()
            for _ in range(_REST_READS):
                if self.ended is not None or not self._read_socket():
                    break
        finally:
            self.lock.release()
        return True

    def read_out(self) -> None:
        """Handle all that a dead cell had sent, and end. Where a thread owns the channel, it does so itself."""
        if not self.lock.acquire(blocking=False):
            return
        failures = 0
        try:
            while self.ended is None and failures < _REST_READS:
                try:
                    if not self.pump(0):
                        self.end("")
                except Exception as error:  # of a callback; what comes after it is read all the same
                    failures += 1
                    _log.error("reading the last of cell %d: %s: %s", self.pid, type(error).__name__, error)
            with contextlib.suppress(Exception):
                self.end("")
        finally:
            self.lock.release()

    def _read_socket(self) -> bool:
        """Read once and handle the frames that are whole by then; False where nothing had come."""
        self._end.torn = True
        read = self._receive()
        self._end.torn = False
        return read

    def _receive(self) -> bool:
        try:
            if self.conversation.phase is wire.Phase.WARMING:
                data, descriptors, _ = receive(self.peer, _RECEIVE_BYTES, 1)
                self._keep_listener(descriptors)
            else:
                # recv, not recvmsg: descriptors that a guest sends are dropped by the kernel, never installed here
                data = self.peer.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return False
        except GONE:
            data = b""
        except OSError as error:
            self.end(f"channel closed ({error.strerror})")
            return False
        if not data:
            self.end("")
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        try:
            payload = self._buffer.take(data)
            if payload is not None and payload.startswith(_DONE, 1) and not self._buffer.kept:
                # The host asked for this one: it is not on the cell's account, which takes two system calls to keep.
                self._take_frame(payload)
                self.turn.account.served()
                return
            self._take_each(payload)
        except wire.WireError as error:
            _log.warning("cell %d broke the protocol and is killed: %s", self.pid, error)
            self._kill(f"protocol violation: {error}")
        except Backlog as error:  # it asked for its new policy, and reads nothing
            self._kill(f"the cell does not read: {error}")
        except MemoryError:  # a frame is lost, a refusal perhaps, and what comes next would be read as something else
            self._kill(OUT_OF_MEMORY)

    def _kill(self, reason: str) -> None:
        self.signal(signal.SIGKILL)  # first: a callback for the last of the output may raise
        self.end(reason)

    def _take_each(self, payload: bytes | None) -> None:
        """Handle frames that may be many: on the cell's account."""
        began = time.thread_time()
        since = time.monotonic()
        try:
            while payload is not None:
                self._take_frame(payload)
                payload = self._buffer.next_payload()
                if payload is not None and time.monotonic() - since >= _YIELD_AFTER_S:
                    time.sleep(_YIELD_S)
                    since = time.monotonic()
        finally:
            self.turn.used(time.thread_time() - began)

    def _take_frame(self, payload: bytes) -> None:
        frame = wire.decode_guest(payload)
        self.conversation.accept(frame)
        self._dispatch(frame)

    def _keep_listener(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            if self.listener is None:
                self.listener = descriptor
            else:
                os.close(descriptor)

    def _dispatch(self, frame: wire.GuestFrame) -> None:
        owner = self.owner
        if isinstance(frame, _ANSWERS):
            self._answer = frame
        elif isinstance(frame, wire.Reloaded):
            if frame.id == self.awaited_reload:
                self.reloaded = frame
        elif isinstance(frame, wire.Wanted):
            self.send_kept()
        elif owner is None:
            return
        elif isinstance(frame, wire.Denial):
            owner.on_denial(frame)
        elif isinstance(frame, wire.GuestMessage):
            owner.on_message(frame)
        elif isinstance(frame, wire.Shown):
            owner.on_shown(frame)
        else:
            owner.on_host_call(frame)

    def take_answer(self) -> Answer | None:
        """Return the answer that has come, if any, and forget it."""
        answer, self._answer = self._answer, None
        return answer

    # -- end ------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """Note that nothing more will come; tell the owner once."""
        if self.ended is not None:
            return
        self.ended = reason
        self.conversation.phase = wire.Phase.DEAD
        try:
            self._drain_pipes()
        finally:  # also where a callback for output raised
            if self.owner is not None:
                self.owner.on_ended(reason)

    def _drain_pipes(self) -> None:
        for descriptor in self._pipes:
            for _ in range(64):
                data = b""
                with contextlib.suppress(OSError):
                    data = b"" if self._closed else os.read(descriptor, _RECEIVE_BYTES)  # closed: the last was given
                if not data:
                    break
                self._output(descriptor, data)

    def signal(self, number: int) -> bool:
        """Signal the guest, or kill the cell with SIGKILL; False when it is gone.

        Race-free: the pidfd names the cell's init only, with which everything ends, and which hands on other signals.
        """
        with self._pidfd_lock:
            if self._closed:
                return False  # its number may be another cell's by now
            if number == signal.SIGKILL and self._killed_at is None:
                self._killed_at = time.monotonic()
            try:
                process.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return False
            except OSError:  # a filter around this process, or no CAP_KILL
                if self.signal_otherwise is None:
                    return False
                self.signal_otherwise(self.pid, number)
        return True

    def close_asked(self) -> None:
        """Close the asked page's descriptor; the listener has mapped it, if there is one."""
        with self.lock:
            if self.asked is not None:
                os.close(self.asked)
                self.asked = None

    def abandon(self) -> None:
        """In a forked child of the host: close what was inherited. The locks are new, their holders do not exist."""
        self.lock, self._pidfd_lock = threading.RLock(), threading.Lock()
        self._outbox.abandon()
        self.ended = _FORKED  # what is to be read is the parent's
        self.close()

    def close(self) -> None:
        """Read what is left and release every descriptor. The cell must have been killed before."""
        with self.lock:
            try:
                self.read_rest()
            except Exception:  # a callback's, for the last of the output: all is released nevertheless
                _log.exception("closing cell %d", self.pid)
            # another thread may be sending: the number stays this socket's until it has, and is used no more after
            with self._outbox.lock, self._pidfd_lock:
                if self._closed:
                    return
                self._closed = True
                self._outbox.close()
                self.ended = "closed" if self.ended is None else self.ended
                self.conversation.phase = wire.Phase.DEAD
                self._end.close()
                self.poller_fd = -1
                self.poller.close()
                self.peer.close()
            for descriptor in (*self._pipes, self.pidfd):
                os.close(descriptor)
            if self.listener is not None:
                os.close(self.listener)
                self.listener = None
            self.close_asked()
