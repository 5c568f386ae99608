"""Which symbolic links a policy's root view has: a name that leads by another one to what is granted finds nothing.

A view has the links inside of what it shows, and those by which rules and the root's own names lead there. All others
are names in directories of which nothing is granted: to show them would tell what is in those.
"""

from __future__ import annotations

import functools

from ..capability import Capability
from ..decision import Mode
from ..native import looks
from ..policy.broker import Broker
from ..policy.compile import with_gates
from .rootview.paths import Places

_REMEMBERED = 256


class ShownLinks:
    """Tells of links, by what the host has now; a view has those of the time when it was built. Looks when asked."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: the guest sees nothing by other links; monitor mode shows it
        self.hides = broker.policy.mode_of("fs") is Mode.ENFORCE
        self.lacks = functools.lru_cache(_REMEMBERED)(self._lacks)

    def grants(self, path: str) -> bool:
        """Tell whether a path, its links followed, is one that the policy shows."""
        return self._broker.decide(Capability.FS_LOOKUP, path).code is None

    def _lacks(self, link: str) -> bool:
        """Tell whether the view has no such link; those of its directory are followed in its name."""
        return not self.grants(link) and self._on_the_way is not None and link not in self._on_the_way

    @functools.cached_property
    def _on_the_way(self) -> frozenset[str] | None:
        try:
            # what a server has is left out: nothing that it is asked for there is looked at either
            return frozenset(Places.of(with_gates(self._broker.policy), looks).shown_links())
        except OSError:
            return None  # not known
