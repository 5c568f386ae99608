"""What hooks make of a call: operations to put to the broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..capability import Capability as C

Operation = tuple[C, str, dict[str, Any]]


Operations = Sequence[Operation]


Arguments = tuple[Any, ...]


class DoneWithout(FileNotFoundError):
    """What a library is answered that only tries a program: there is none, and nothing was refused."""
