"""What hooks make of a call: operations to put to the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..capability import Capability as C

Operation = tuple[C, str, dict[str, Any]]


Operations = Sequence[Operation]


Arguments = tuple[Any, ...]


class DoneWithout(Exception):
    """What the hook answers in the kernel's place, for nothing was refused: that something is not there."""

    def __init__(self, error: FileNotFoundError) -> None:
        super().__init__(error)
        self.error = error
