"""Run a function in a forked child and bring its plain-data result, or its traceback, back."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

from pyisolate.native import process

NOBODY = 65534


class ChildFailed(AssertionError):
    """The child raised; the text is its traceback."""


def in_child(function: Callable[[], Any], *, uid: int | None = None, gid: int | None = None, flags: int = 0) -> Any:
    """Return what `function` returns in a child: as `uid` and `gid` (or the same), in namespaces of `flags`."""
    reader, writer = os.pipe()
    pid, pidfd = process.clone_cell(flags)
    if pid == 0:
        os.close(reader)
        answer: dict[str, Any] = {}
        try:
            if flags & process.CLONE_NEWUSER:
                process.write_id_maps(OWN[0], OWN[1])
            if uid is not None:
                become(uid, gid)
            answer["value"] = function()
        except BaseException:
            answer["error"] = traceback.format_exc()
        finally:
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            data = file.read()
        exited = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
    answer = json.loads(data) if data else {"error": f"the child died: {exited}"}
    if "error" in answer:
        raise ChildFailed(answer["error"])
    return answer["value"]


OWN = (os.getuid(), os.getgid())


def become(uid: int, gid: int | None = None) -> None:
    """Become an ordinary user for good, still able to use /proc/self."""
    if os.getuid() != uid:
        os.setgroups([])
        group = uid if gid is None else gid
        os.setresgid(group, group, group)
        os.setresuid(uid, uid, uid)
        process.set_dumpable(True)
    global OWN
    OWN = (uid, uid)


def outcome(function: Callable[[], Any]) -> str:
    """Return "ok", or the name of the errno that `function` met."""
    import errno

    try:
        function()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"
