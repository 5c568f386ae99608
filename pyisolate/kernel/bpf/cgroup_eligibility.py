"""Which sandboxes use the host's network themselves, judged by their control group's programs (`cgroup.py`).

The others sit in an empty network namespace, and the notification listener does for them what their policy grants.
"""

from __future__ import annotations

from ...capability import Capability
from ...decision import Mode
from ...policy.compiled import CompiledPolicy, FsRight, NetAction

#: What the programs decide of such a sandbox; bind and listen stay with the listener.
DECIDED = (Capability.NET_CONNECT, Capability.NET_SEND, Capability.NET_SOCKET)
#: Where a process in the host's network namespace would see more of it than one in an empty one.
_SHOWS_NETWORK = ("/proc/net", "/proc/self/net", "/proc/thread-self/net", "/sys/class/net", "/sys/devices/virtual/net")


def suits(policy: CompiledPolicy) -> bool:
    """True where a policy means the same under the programs as under the listener, and they make it faster.

    Left to the listener: what connects to nothing; monitor modes, which must break nothing (a native cell has no unix
    sockets but pairs); unix socket rules; policies that show files about the network.
    """
    if policy.ask:  # the listener's calls can wait for an answer
        return False
    connects = any(rule.allow and rule.unix_path is None and rule.action == NetAction.CONNECT for rule in policy.net)
    if not connects or any(rule.unix_path is not None for rule in policy.net):
        return False
    if policy.mode_of("net") is not Mode.ENFORCE or policy.mode_of("fs") is not Mode.ENFORCE:
        return False
    return not any(rule.allow & FsRight.READ and _shows_network(rule.path) for rule in policy.fs)


def _shows_network(path: str) -> bool:
    own = path.rstrip("/") + "/"
    return any(f"{place}/".startswith(own) or own.startswith(f"{place}/") for place in _SHOWS_NETWORK)
