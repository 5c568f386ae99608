"""What a hook answers: capability, verdict, and what the notification listener must know to join it with a call.

The native hook stores it in the thread's broker slot and in the asked page (`native/src/asked.h`).
"""

from __future__ import annotations

from ..capability import CAPABILITY_NUMBER
from ..capability import Capability as C
from .deduplicate import ANNOUNCED, PERFORMING

#: `enum pyi_slot_verdict` in bpf/pyisolate.h, where the native hook wants it
ALLOW, WOULD_DENY = 1 << 16, 3 << 16
#: ASKED_* of native/src/asked.h, likewise
MANY, AHEAD, RESOLVES, NOTHING, OWN_LOOK, IMPORTS = (1 << bit for bit in range(8, 14))
#: the interpreter opens a file for itself, and does without where it is not there
LOOKS_FOR_LINE = CAPABILITY_NUMBER[C.FS_READ] | OWN_LOOK
#: importlib opens a file, of which nothing is asked; and for an import that is an event already
IMPORTER_READS = CAPABILITY_NUMBER[C.FS_READ] | NOTHING
READS_LET_THROUGH = CAPABILITY_NUMBER[C.FS_READ] | IMPORTS

#: Functions that look names up: the C library may ask daemons over sockets of its own (nscd, netlink) for them.
LOOKUPS = frozenset(
    ("getpwnam", "getpwuid", "getpwall", "getgrnam", "getgrgid", "getgrall", "getgrouplist", "initgroups",
     "if_nameindex", "if_nametoindex", "if_indextoname", "getservbyname", "getservbyport", "getprotobyname")
)  # fmt: skip
#: Hooks that may find nothing to ask, and what their call is: it went through a hook all the same.
_CALLS: dict[str, C] = {
    "socket.connect": C.NET_CONNECT,
    "socket.bind": C.NET_BIND,
    "socket.sendto": C.NET_SEND,
    "socket.sendmsg": C.NET_SEND,
    "listen": C.NET_LISTEN,
} | dict.fromkeys(("os.exec", "os.posix_spawn", "os.system", "fork_exec"), C.PROCESS_EXEC)
_NOTHING_ASKED = {hook: CAPABILITY_NUMBER[capability] | NOTHING for hook, capability in _CALLS.items()} | dict.fromkeys(
    ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", *LOOKUPS), RESOLVES | NOTHING
)


def asked(hook: str, capability: C, verdict: int) -> int:
    """Return the answer about an operation that the broker let through."""
    answer = CAPABILITY_NUMBER[capability] | verdict
    if capability in ANNOUNCED:
        if hook not in PERFORMING:
            return answer | (RESOLVES if hook in _NOTHING_ASKED else AHEAD)
        if capability is C.PROCESS_EXEC:
            return answer | MANY  # fork_exec falls back to fork where vfork fails
    return answer


def loading(event: str, answer: int) -> int:
    """Return an answer about an import with what reads the library: the loader, for a loading that is an event."""
    return answer | IMPORTS if event == "import" and answer & WOULD_DENY == WOULD_DENY else answer


def nothing_asked(hook: str) -> int:
    """Return the answer of a hook that found nothing to ask; 0 where the listener need not know."""
    return _NOTHING_ASKED.get(hook, 0)
