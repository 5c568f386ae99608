"""The one place where a native result becomes an exception."""

from __future__ import annotations

import errno
import os

#: errno -> what to try. An operation's own hint comes first.
_HINTS = {
    errno.ENOSYS: "this kernel lacks the system call, or a seccomp filter around this process hides it",
    errno.EPERM: "needs a capability or a user namespace that this process lacks; `pyisolate doctor` names it",
    errno.EOPNOTSUPP: "the feature is compiled in but not enabled at boot",
    errno.EMFILE: "raise the limit on open files (RLIMIT_NOFILE), or close sandboxes",
    errno.E2BIG: "at most 16 Landlock layers can be stacked: is this process sandboxed already?",
    errno.EUSERS: "the limit on nested user namespaces is reached (user.max_user_namespaces)",
    errno.ENOSPC: "a kernel limit on namespaces or mounts is reached (user.max_*_namespaces, fs.mount-max)",
}


def check(result: int, operation: str, subject: object = "", *, hint: str | None = None) -> int:
    """Return `result`, or raise the OSError that `-errno` stands for: "operation, subject: cause. Hint: ..."."""
    if result >= 0:
        return result
    number = -result
    where = f"{operation} {subject}" if subject != "" else operation
    advice = hint or _HINTS.get(number)
    text = f"{where}: {os.strerror(number)}"
    raise OSError(number, f"{text}. Hint: {advice}" if advice else text)
