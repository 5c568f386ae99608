"""One policy's Landlock ruleset, shared by all of its sandboxes."""

from __future__ import annotations

import os

from ..native.landlock import Handled


class LandlockRuleset:
    """One policy's ruleset, shared by all of its sandboxes. `notes` says what it leaves to others."""

    def __init__(self, fd: int, handled: Handled, notes: tuple[str, ...], unenforced: tuple[str, ...] = ()) -> None:
        self.fd, self.handled, self.notes, self.unenforced = fd, handled, notes, unenforced

    def close(self) -> None:
        """Close the descriptor; threads that it confined stay confined. Further calls do nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> LandlockRuleset:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
