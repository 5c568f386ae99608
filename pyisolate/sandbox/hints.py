"""What a user can do about a failure that the policy explains: hints of the errors that a sandbox raises."""

from __future__ import annotations

import errno
import json
import os
import re
from typing import TYPE_CHECKING

import msgspec

from ..capability import Capability
from ..cell import wire
from ..errors import SandboxDied
from ..native.process import signal_name
from ..policy.interpreter import InterpreterFiles
from ..policy.packages import is_installed
from ..policy.suggest import TERMINALS, is_task
from ..policy.unseen import why_unseen
from ..policy.workspace import HOME, is_place, same_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..cell.channel import Channel
    from ..kernel.prepared import Prepared
    from ..policy.compiled import CompiledPolicy
    from ..telemetry.event import DenialEvent

#: What the interpreter says; the top-level name in it.
_NO_MODULE = re.compile(r"No module named '([^\W\d]\w{0,99})[.']")
_TASK_HINT = (
    "what /proc tells of processes is in no sandbox: os.getpid(), threading and resource.getrusage() tell the guest of "
    "itself"
)
_PLACE_HINT = (
    f"the one place of a guest's own is {HOME}, where its policy has a workspace (`workspace: 64MiB`); with "
    "`workspace: null` a rule may speak of a directory of the host's there"
)

_SOCKET_HINT = (
    f"unix sockets in {HOME} are for the guest's own processes: grant these (`process: [{{fork: true}}]`), and no "
    "addresses beside; no rule about the socket is needed, and none helps without them"
)
_TERMINAL_HINT = "no sandbox has a pseudo-terminal: run the program with pipes (subprocess)"


def hint_of_refusal(prepared: Prepared, event: DenialEvent) -> str | None:
    """Return a hint about a refused operation, where more is known than the event says; else None."""
    if event.capability is Capability.IMPORT_MODULE:
        return _hint_of_absent(prepared.compiled, event)
    if event.capability is Capability.NET_BIND and is_place(event.target.removeprefix("unix:")):
        return _SOCKET_HINT
    if event.target == TERMINALS or f"{Capability.FS_WRITE.value} {TERMINALS}" in event.also:
        return _TERMINAL_HINT
    if event.capability.family != "fs" and event.capability is not Capability.PROCESS_EXEC:
        return None
    if is_task(event.target):
        return _TASK_HINT
    if event.suggestion is None and is_place(event.target):
        return _PLACE_HINT
    made = event.capability is Capability.FS_CREATE  # what is missing may be made by way of the directories above
    reaches = same_line if made else _is_at_or_below
    return next((_left_out(path) for path in _missing(prepared) if reaches(path, event.target)), None)


def _is_at_or_below(granted: str, target: str) -> bool:
    return target == granted or target.startswith(f"{granted.rstrip('/')}/")


def _hint_of_absent(policy: CompiledPolicy, event: DenialEvent) -> str | None:
    """Return a hint about a module that is not there for guests of this policy; None where it is, or may be."""
    top, interpreter = event.target.partition(".")[0], InterpreterFiles.discover()
    of_this = any(rule.path == interpreter.stdlib for rule in policy.fs)  # and of no other that runs the cells
    if event.suggestion is None or not top.isidentifier() or not of_this:
        return None
    if policy.site is not None:
        interpreter = msgspec.structs.replace(interpreter, site_dirs=(policy.site.path,), trusted_packages=False)
    if is_installed(top, interpreter):
        return None
    if policy.site is None and (unseen := why_unseen(top, interpreter)) is not None:
        return unseen
    where = interpreter.executable if policy.site is None else f"the environment {policy.site.path}"
    return (
        f"look at the name: {top} is not installed for {where}; once it is, or where it is a module of yours, "
        f"add to the policy: {json.dumps(event.suggestion, ensure_ascii=False)}"
    )


def hint_of_failure(prepared: Prepared, failure: wire.Failed) -> str | None:
    """Return a hint where the guest found no file at a granted path, or no module that its host has; else None."""
    if failure.type_name == "ModuleNotFoundError":
        return _hint_of_unseen(prepared.compiled, failure.message)
    if failure.errno != errno.ENOENT:
        return None
    return next((_left_out(path) for path in _missing(prepared) if path in failure.message), None)


def _hint_of_unseen(policy: CompiledPolicy, message: str) -> str | None:
    named, interpreter = _NO_MODULE.match(message), InterpreterFiles.discover()
    if named is None or policy.site is not None or is_installed(named[1], interpreter):
        return None
    return why_unseen(named[1], interpreter)


def _missing(prepared: Prepared) -> Iterator[str]:
    """Yield paths that are granted and do not exist, or did not when the sandbox started: it cannot have them."""
    for rule in prepared.compiled.fs:
        stated = rule.allow and rule.origin in ("fs", "process") and rule.path in rule.text
        if stated and (rule.path in prepared.left_out or not os.path.lexists(rule.path)):
            yield rule.path


def _left_out(path: str) -> str:
    absent = "which was not there when the sandbox started" if os.path.lexists(path) else "which does not exist"
    return f"the policy grants {path}, {absent}, so it was left out: make it before the sandbox starts"


def error_of_death(name: str, channel: Channel, last_words: bytes) -> SandboxDied:
    """Return the error that says how a cell died by itself. `last_words`: the end of its stderr."""
    status = channel.exit_status
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None
    code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None
    why = channel.ended or (
        f"signal {signal_name(number)}" if number else f"exit status {code}" if status is not None else ""
    )
    return SandboxDied(
        f"sandbox {name!r} died: {why or 'the zygote died, and its cells with it'}",
        exit_status=code,
        signal=number,
        last_words=last_words.decode("utf-8", "backslashreplace"),
        hint=None if channel.ended else _hint_of_death(number, code),
    )


def _hint_of_death(number: int | None, code: int | None) -> str:
    """Say what may have ended a cell, where nothing but a signal or an exit status is known."""
    if code is None:
        return "native code crashed, or the guest ended its own process" if number else "spawn another one"
    if code == wire.BROKEN_STATUS:
        return (
            "the guest closed or broke what its sandbox talks to the host by (os.closerange closes it too), or broke "
            "its interpreter (sys.modules); `last_words` may end with what failed"
        )
    return "the guest ended its own process (os._exit), or put a program in its place (os.exec*: use subprocess)"
