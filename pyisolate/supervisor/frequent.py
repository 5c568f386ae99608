"""Which policies are asked for often enough that cells are confined for them ahead: the usual one, and the frequent."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

#: A policy as `spawn` asks for it: the number of its tables, and how strict.
Key = tuple[int, str]
#: The last spawns that are looked at for the usual policy: more than half of them, twice at least.
_RECENT = 8
_SEEN_AT_LEAST = 2
#: The last spawns that are looked at for frequent policies, which were asked for twice at least.
_WINDOW = 64
#: How often at least, and how much more often than the least frequent one, a policy is asked for that takes its place.
#: Of many policies, in turn or at random, some keep theirs: else each would push out the next, and none find its cell.
_TAKES_AT, _MORE = 4, 2


class Frequent:
    """Looks at the last spawns."""

    def __init__(self) -> None:
        self._window: deque[Key] = deque(maxlen=_WINDOW)
        self._last: deque[Key] = deque(maxlen=_RECENT)
        self._counts: Counter[Key] = Counter()

    def note(self, key: Key) -> None:
        """A policy was asked for."""
        if len(self._window) == _WINDOW:
            oldest = self._window[0]
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]
        self._window.append(key)
        self._last.append(key)
        self._counts[key] += 1

    def forget(self, key: Key) -> None:
        """Have a policy be one that was never asked for."""
        self._window = deque((one for one in self._window if one != key), maxlen=_WINDOW)
        self._last = deque(list(self._window)[-_RECENT:], maxlen=_RECENT)
        del self._counts[key]

    def count(self, key: Key, *, recent: bool = False) -> int:
        """Return how often a policy was asked for, of all spawns that are looked at or of the last eight."""
        return self._last.count(key) if recent else self._counts[key]

    def is_usual(self, key: Key) -> bool:
        """Tell whether most of the last spawns were of one policy."""
        seen = self._last.count(key)
        return seen >= _SEEN_AT_LEAST and 2 * seen > len(self._last)

    def is_frequent(self, key: Key) -> bool:
        """Tell whether a policy was asked for again."""
        return self._counts[key] >= _SEEN_AT_LEAST

    def less_frequent(self, key: Key, others: Iterable[Key]) -> Key | None:
        """Return the one of the others whose place a policy takes, None where all keep theirs. The first of equals."""
        least = min(others, key=self._counts.__getitem__, default=None)
        return None if least is None or self._counts[key] < max(_TAKES_AT, self._counts[least] + _MORE) else least
