"""Calls of one sandbox that wait for an answer, and the file, names or program that each is about: what a yes gives.

The name is the listener's copy. What it leads to here is looked at before the question and again after the answer: a
yes is for that file, which is opened for the guest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import msgspec

from ..capability import Capability
from ..kernel.rootview.metadata import MetadataChange
from ..kernel.rootview.names import NameChange
from ..kernel.rootview.worker import HostFile, HostPlace, unmake
from ..native import places
from ..policy import workspace
from ..policy.asking import CARRIED, CHANGING, OF_FILES
from ..policy.broker import Broker, is_asked_about
from ..policy.compiled import CompiledPolicy
from ..records import Asked, KernelRecord, Wanted
from .changing import changed_by
from .naming import Named, is_no_file, named_by
from .starting import Starting, Waiting

_log = logging.getLogger("pyisolate.sandbox.waiting")
#: How a guest opens a file, as far as it makes a difference to what is given.
_KEPT_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_DSYNC | os.O_SYNC
#: Calls of one sandbox that questions are about; one that was given up counts until its answer.
_MOST = 256
#: Looks of one sandbox at files, each until its thread is back, also where its call was given up.
_MOST_LOOKS = 32


class HostFiles(Protocol):
    """What acts on the host's files for a guest; with the processor time that it took elsewhere (seconds).

    Raises EnforcementError, also where a file or a name is another one by now.
    """

    def file(self, given: HostFile, sandbox_id: str) -> tuple[int, float]:
        """Open a file; return a descriptor of it."""
        ...

    def change(self, change: NameChange | MetadataChange, sandbox_id: str) -> tuple[int, float]:
        """Make a call that changes names, or a file; return its error number, or 0. ETIMEDOUT: it may be made yet."""
        ...


class _File(msgspec.Struct, frozen=True):
    #: what is asked about, by its whole name
    capability: Capability
    path: str
    given: HostFile
    host: HostFiles
    call: int
    #: it is emptied once the guest has it
    empty: bool = False
    #: what else is to be done with it
    also: tuple[Wanted, ...] = ()


class _Names(msgspec.Struct, frozen=True):
    asked: Asked
    named: Named
    host: HostFiles
    #: how many of its questions were answered with yes
    answered: int = 0

    @property
    def question(self) -> Asked:
        """The next question."""
        need = capability, path, file = self.named.needs[self.answered]
        also = self.named.also(need)
        said = {"detail": self.named.detail, "content": self.named.content}
        return msgspec.structs.replace(self.asked, capability=capability, target=path, file=file, also=also, **said)


class _Spent:
    """What a look took elsewhere (seconds)."""

    elsewhere_s = 0.0


class Answering(Waiting, Protocol):
    """The same for calls that open files, or change names."""

    def give(self, number: int, call: int, file: int, *, empty: bool) -> bool:
        """Answer one with yes and a file, which is taken; tell whether the guest has it."""
        ...

    def begin(self, number: int, call: int) -> bool:
        """Begin to carry a call out; False where it was given up, of which the record is made."""
        ...

    def done(self, number: int, error: int) -> None:
        """Answer a call that was carried out with its error number, or 0."""


class Proxy(Protocol):
    """The egress proxy, as a sandbox knows it."""

    def answer(self, key: str, number: int, allow: bool) -> None:
        """Answer a question about a request."""

    def spent_s(self, key: str) -> float:
        """Return the processor time that it took for a sandbox."""
        ...


class Surroundings(Protocol):
    """What this needs of the session."""

    compiled: CompiledPolicy

    @property
    def id(self) -> str:
        """The sandbox's id."""
        ...

    @property
    def kernel(self) -> Answering:
        """Where calls wait."""
        ...

    def start_call(self, call: Callable[[], None]) -> None:
        """Run `call` on a thread of the supervisor's own."""

    def start_look(self, call: Callable[[], None]) -> None:
        """The same for a look at a file, for which a file system may wait."""


class WaitingCalls:
    """Calls of one sandbox that wait for an answer, at the listener or at the egress proxy, and the file each is about.

    Thread-safe. `ask` puts a question; one about a request has no file. `forget_file` ends what was allowed for good
    with the file of a name.
    """

    def __init__(self, around: Surroundings, ask: Callable[[Asked], None], forget_file: Callable[[str], None]) -> None:
        self._around, self._ask, self._forget_file = around, ask, forget_file
        #: what a yes does, by the call's number
        self._held: dict[int, Callable[[], None]] = {}
        #: the names of files that the guest was given last, by device and inode
        self._given: OrderedDict[tuple[int, int], str] = OrderedDict()
        self.starting = Starting(around.start_look)
        self._lock = threading.Lock()
        self._known: Broker | None = None
        self._looks = 0
        #: calls that are carried out now, files included, and what is to be done once none is
        self._begun = 0
        self._at_end: Callable[[], None] | None = None
        #: threads that carry calls out, until they have done that as well
        self._carrying, self._carried_out = 0, threading.Condition(self._lock)
        #: processor time that looking at files, and at programs until they begin, took
        self.spent_s = 0.0
        #: the egress proxy, where the sandbox is led to it
        self.proxy: Proxy | None = None

    @property
    def led_to_proxy(self) -> bool:
        """True where the guest was started with the variables that lead to the egress proxy."""
        return self.proxy is not None

    def take(self, asked: Asked, host: HostFiles) -> None:
        """Take a question; `host` acts on files. Never waits: where a file is looked at, a file system may."""
        if asked.capability not in (*OF_FILES, Capability.PROCESS_EXEC):
            self._ask(asked)
            return
        if asked.capability is Capability.PROCESS_EXEC:
            self.starting.came(asked.tid)
            self.starting.add(self._around.kernel, asked, partial(self._look_at_program, asked), put=False)
            return
        with self._lock:
            looks = self._looks < _MOST_LOOKS
            self._looks += looks
        try:
            if looks:
                self._around.start_look(partial(self._look, asked, host))
        except RuntimeError:  # no thread
            looks = False
            self._end_look()
        if not looks:
            self._around.kernel.answer(asked.number, allow=None)

    def answer(self, number: int, *, allow: bool) -> None:
        """Answer what waits, below 0 a request at the egress proxy, if it still does."""
        if number < 0:
            if self.proxy is not None:
                _start_or_run(self._around.start_call, partial(self.proxy.answer, self._around.id, -number, allow))
            return
        with self._lock:
            yes = self._held.pop(number, None)
        if yes is not None and allow:
            yes()
        else:
            self._around.kernel.answer(number, allow=allow)

    def waits(self, asked: Asked) -> bool:
        """Tell whether a call that a question is about waits still; of a request at the proxy that is not known."""
        return asked.number < 0 or self._around.kernel.stage(asked.call) == "waits"

    def let_go(self, number: int) -> None:
        """Forget a call that was given up: it has no record."""
        with self._lock:
            self._held.pop(number, None)
        self._around.kernel.answer(number, allow=None)

    def _put(self, question: Asked, yes: Callable[[], None]) -> bool:
        """Put a question about a call that waits; False without room for it."""
        with self._lock:
            if len(self._held) >= _MOST:
                return False
            self._held[question.number] = yes
        self._ask(question)
        return True

    @contextlib.contextmanager
    def _charged(self) -> Iterator[_Spent]:
        """Charge the sandbox what is done for it within."""
        began, spent = time.thread_time(), _Spent()
        try:
            yield spent
        finally:
            with self._lock:
                self.spent_s += time.thread_time() - began + spent.elsewhere_s

    def _go_on(self, number: int, names: _Names) -> None:
        """Ask what else a call needs that changes names, or carry it out."""
        more = msgspec.structs.replace(names, answered=names.answered + 1)
        if more.answered == len(names.named.needs):
            self._carry_out(partial(self._change, number, names))
            return
        with self._lock:
            self._held[number] = partial(self._go_on, number, more)
        self._ask(more.question)

    def _carry_out(self, call: Callable[[], None]) -> None:
        """Do what was answered with yes. Until its record is made, its sandbox is not forgotten."""
        with self._lock:
            self._begun += 1
            self._carrying += 1
        try:
            call()
        finally:
            with self._lock:
                self._begun -= 1
                at_end, self._at_end = (None, self._at_end) if self._begun else (self._at_end, None)
            try:
                if at_end is not None:
                    at_end()
            finally:
                with self._lock:
                    self._carrying -= 1
                    self._carried_out.notify_all()

    def wait_carried_out(self, timeout_s: float) -> bool:
        """Wait until nothing is carried out and that has its records; tell whether it came to that."""
        with self._lock:
            return self._carried_out.wait_for(lambda: not self._carrying, timeout_s)

    def call_after_begun(self, call: Callable[[], None]) -> None:
        """Run `call` once nothing is carried out: here, or on the thread of the last one. Never waits for one."""
        with self._lock:
            if self._begun:
                self._at_end = call
                return
        call()

    def _change(self, number: int, names: _Names) -> None:
        """Make a guest's call that changes names, and answer it with what came of that. At most once."""
        kernel = self._around.kernel
        if not kernel.begin(number, names.asked.call):
            return
        with self._charged() as spent:
            try:
                stands = all(self._stands(*need[:2]) for need in names.named.needs)
                if not stands or names.named.is_denied(self._broker()):
                    kernel.answer(number, allow=False)
                    return
                if (anew := names.named.anew) is not None:
                    self._forget_file(anew)
                said, spent.elsewhere_s = names.host.change(names.named.change, self._around.id)
                kernel.done(number, said)
            except Exception as error:  # whatever goes wrong, the answer is no
                _log.warning("a call that was allowed is not carried out: %s: %s", type(error).__name__, error)
                kernel.answer(number, allow=False)

    def _give(self, number: int, file: _File) -> None:
        """Give a guest the file that was asked about. A call that was given up has changed nothing."""
        kernel, had, made = self._around.kernel, False, None
        try:
            if kernel.stage(file.call) != "waits":
                kernel.answer(number, allow=True)  # for its record
                return
            if (given := self._opened(file)) is None:
                kernel.answer(number, allow=False)
                return
            made = os.fstat(given)
            self._note_given(made, file.path)
            had = kernel.give(number, file.call, given, empty=file.empty)
        except OSError as error:  # no descriptor for it
            _log.warning("a file that was allowed is not given: %s", error)
            kernel.answer(number, allow=False)
        finally:
            if file.given.name and made is not None and not had:
                try:
                    unmake(file.given, made)
                except OSError as error:
                    _log.warning("a file that was made for a call which was given up is left: %s", error)

    def _note_given(self, found: os.stat_result, path: str) -> None:
        with self._lock:
            self._given[found.st_dev, found.st_ino] = path
            if len(self._given) > _MOST:
                self._given.popitem(last=False)

    def named(self, record: KernelRecord) -> KernelRecord:
        """Return the record of a call on a file that was given with its name, of which the kernel may know none."""
        if record.file is None or (path := self._given.get(record.file)) is None:
            return record
        target, other = (path if one == "/" else one for one in (record.target, record.other))
        return msgspec.structs.replace(record, target=target, other=other)

    def decided(self, record: KernelRecord) -> KernelRecord:
        """Return a question's record with the broker's word: the listener has no rules for files and programs."""
        if record.answer in (None, "would_ask") or record.capability not in (*OF_FILES, Capability.PROCESS_EXEC):
            return record
        said = self._broker().decide(record.capability, record.target)
        return msgspec.structs.replace(record, code=said.code or record.code, presented=said.presented)

    def _opened(self, file: _File) -> int | None:
        """Open the file that was asked about; None where it is another one by now, or the policy asks no more."""
        with self._charged() as spent:
            try:
                if not self._stands(file.capability, file.path):
                    return None
                given, spent.elsewhere_s = file.host.file(file.given, self._around.id)
                return given
            except Exception as error:  # whatever goes wrong, the answer is no
                _log.warning("a file that was allowed is not given: %s: %s", type(error).__name__, error)
                return None

    def _stands(self, capability: Capability, path: str) -> bool:
        """Tell whether a yes holds under the policy that is in force now: it asks about this still, or grants it."""
        decision = self._broker().decide(capability, path)
        return decision.code is None or is_asked_about(self._broker().policy, decision)

    def _still_asked(self, path: str) -> bool:
        """Tell whether no rule speaks of a program. Where one has come to, the kernel decides."""
        return is_asked_about(self._broker().policy, self._broker().decide(Capability.PROCESS_EXEC, path))

    def _start(self, asked: Asked, path: str) -> None:
        """Have a program that the host allows start in its turn."""
        let = partial(self._let, asked, path if self._still_asked(path) else None, put=True)
        self.starting.add(self._around.kernel, asked, let, put=True)

    def _look_at_program(self, asked: Asked) -> None:
        """Ask about a program that has a gate; let any other go on in its turn, as the kernel decides."""
        with self._charged():
            path = self._with_gate(asked)
        question = msgspec.structs.replace(asked, target=path)
        if not path or not self._put(question, partial(self._start, asked, path)):
            self._let(asked, None, put=False)

    def _with_gate(self, asked: Asked) -> str:
        """Return the program that a guest's name leads to; "" where the host is not asked about it."""
        name = workspace.as_reached(asked.target, workspace.links(self._around.compiled))
        path = os.path.realpath(name) if name else ""
        gates = self.starting.gates
        return path if gates is not None and gates.has(path) and self._still_asked(path) else ""

    def _let(self, asked: Asked, path: str | None, *, put: bool) -> None:
        """Let a program's call go on in its turn. A guest decides how long the host looks until it has begun."""
        with self._charged():
            self.starting.let(self._around.kernel, asked, path, put=put)

    def at_proxy_s(self) -> float:
        """Return the processor time that the egress proxy took."""
        return 0.0 if self.proxy is None else self.proxy.spent_s(self._around.id)

    def close(self) -> None:
        """The sandbox has ended: nothing starts any more."""
        if self.starting.gates is not None:
            self.starting.gates.close()

    def abandon(self) -> None:
        """In a forked child of the host: the sandbox is the parent's."""
        if self.starting.gates is not None:
            self.starting.gates.abandon()

    def _broker(self) -> Broker:
        compiled, known = self._around.compiled, self._known
        if known is None or known.policy is not compiled:  # a reload makes another one
            known = self._known = Broker(compiled)
        return known

    def _end_look(self) -> None:
        with self._lock:
            self._looks -= 1

    def _look(self, asked: Asked, host: HostFiles) -> None:
        """Ask about what a call is to do with files, or leave it to the kernel."""
        try:
            self._look_at_files(asked, host)
        finally:
            self._end_look()

    def _look_at_files(self, asked: Asked, host: HostFiles) -> None:
        found = None
        with self._charged():
            try:
                found = self._names(asked, host) if asked.syscall in CARRIED else self._file(asked, host)
            except (OSError, ValueError):  # it is not there
                pass
            except Exception:  # the kernel decides
                _log.exception("a file could not be looked at; its guest is refused it")
        if found is None or not self._put(*found):
            self._around.kernel.answer(asked.number, allow=None)

    def _names(self, asked: Asked, host: HostFiles) -> tuple[Asked, Callable[[], None]] | None:
        """Return the first question about a call that changes names, and what a yes does."""
        changes, broker = asked.syscall in CHANGING, self._broker()
        named = changed_by(asked, broker) if changes else named_by(asked, broker, _umask_of(asked.tid))
        if named is None:
            return None
        names = _Names(asked, named, host)
        return names.question, partial(self._go_on, asked.number, names)

    def _file(self, asked: Asked, host: HostFiles) -> tuple[Asked, Callable[[], None]] | None:
        """Return the question about a call that opens a file, and what a yes does."""
        file = _found(asked, self._broker(), host)
        if file is None:
            return None
        which = None if file.given.name else file.given.place.which
        question = msgspec.structs.replace(
            asked, target=file.path, capability=file.capability, also=file.also, file=which
        )
        return question, partial(self._carry_out, partial(self._give, asked.number, file))


def _found(asked: Asked, broker: Broker, host: HostFiles) -> _File | None:
    """Return the file that a guest's name leads to and no rule speaks of; None for all else. Raises OSError."""
    compiled = broker.policy
    name = workspace.as_reached(asked.target, workspace.links(compiled))
    capability, path, made = asked.capability, os.path.realpath(name), ""
    if asked.flags & os.O_CREAT and not os.path.lexists(path):
        capability, made = Capability.FS_CREATE, os.path.basename(path)
    if is_no_file(os.path.normpath(name)) or is_no_file(path):
        return None
    if not path.isprintable() or not all(
        is_asked_about(compiled, broker.decide(capability, one)) for one in (name, path)
    ):
        return None
    also_read = asked.flags & os.O_ACCMODE == os.O_RDWR
    if also_read and not made and broker.decide(Capability.FS_READ, path).refused:
        return None  # one question is about one thing
    place = os.path.dirname(path) if made else path
    seen = os.stat(place, follow_symlinks=False)
    if not (stat.S_ISDIR if made else stat.S_ISREG)(seen.st_mode) or (asked.flags & os.O_EXCL and not made):
        return None
    given = HostFile(
        HostPlace(place, seen.st_dev, seen.st_ino, places.born(place)),
        asked.flags & _KEPT_FLAGS,
        made,
        asked.mode & 0o777 & ~_umask_of(asked.tid) if made else 0,
    )
    emptied = bool(asked.flags & os.O_TRUNC) and not made
    return _File(capability, path, given, host, asked.call, emptied, _opened_also(asked, path, broker) if made else ())


def _opened_also(asked: Asked, path: str, broker: Broker) -> tuple[Wanted, ...]:
    """Return what else is done with a file that is made, and no rule grants, in the order of hooks."""
    accesses = asked.flags & os.O_ACCMODE
    writes = bool(accesses) or bool(asked.flags & os.O_TRUNC)
    done = {Capability.FS_WRITE: writes, Capability.FS_READ: accesses != os.O_WRONLY}
    return tuple([(one, path) for one, does in done.items() if does and broker.decide(one, path).refused])


def _umask_of(tid: int) -> int:
    with open(f"/proc/{tid}/status") as file:
        return next((int(line.split()[1], 8) for line in file if line.startswith("Umask:")), 0o077)


def _start_or_run(start: Callable[[Callable[[], None]], None], answer: Callable[[], None]) -> None:
    """Give an answer on another thread, or here where there is none: what is recorded as answered is answered."""
    try:
        start(answer)
    except RuntimeError:
        answer()
