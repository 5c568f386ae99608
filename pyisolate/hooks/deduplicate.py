"""One request, several hooks: a connection or a program is announced (by name, by a library) before the call itself.

Where a refusal is raised, the first hook that sees a request ends it. Where it is let through (monitor mode, a shadow
policy) all of them see it, and it must count once.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Hashable

from ..capability import Capability

#: What is announced before it is done.
ANNOUNCED = frozenset({Capability.NET_CONNECT, Capability.PROCESS_EXEC})
#: Hooks of the calls themselves; every other hook that asks about one of these capabilities announces it.
PERFORMING = frozenset(
    {"socket.connect", "os.exec", "os.posix_spawn", "os.system", "pty.spawn", "syslog.syslog", "fork_exec"}
)
#: Threads, and requests of one thread, that are remembered at once.
_THREADS, _REQUESTS = 1024, 64


class Announcements:
    """Per thread, the requests that were reported already and have not been made yet, with the hooks that saw them."""

    def __init__(self) -> None:
        self._by_thread: dict[int, dict[Hashable, set[str]]] = {}

    def counted(self, request: Hashable, hook: str) -> bool:
        """Tell whether a request that `hook` sees was reported for another hook; remembers it otherwise."""
        if len(self._by_thread) >= _THREADS:
            self._by_thread.clear()
        known = self._by_thread.setdefault(get_ident(), {})
        hooks = known.get(request)
        if hook in PERFORMING:
            known.pop(request, None)
            return hooks is not None
        if hooks is None or hook in hooks:  # the same hook again is another request
            if len(known) >= _REQUESTS:
                known.clear()
            known[request] = {hook}
            return False
        hooks.add(hook)
        return True

    def forget(self) -> None:
        """Start afresh: for a forked child."""
        self._by_thread.clear()
