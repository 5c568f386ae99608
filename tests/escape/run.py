"""One run of a technique, as it was seen from outside the guest. Plain data: it travels from worker to judge."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class CellState:
    """What /proc says of a cell: nothing that the cell itself says."""

    status: dict[str, str] = field(default_factory=dict)
    namespaces: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, str] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)
    mounts: str = ""
    root: str = ""
    exe: str = ""
    processes: int = 0


@dataclass
class Run:
    """What became of one attack or control."""

    text: str = ""
    error: str = ""
    error_text: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    #: denials counted, of which `events` are those that the store still holds
    denials: int = 0
    messages: list[str] = field(default_factory=list)
    before: CellState | None = None
    after: CellState | None = None
    pid: int = 0
    sandbox_id: str = ""
    #: the second request, where there is one
    then_error: str = ""
    then_text: str = ""
    host: dict[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    #: why the sandbox has no workspace, though its policy says so
    no_workspace: str = ""
    #: the run could not be made, and why
    impossible: str = ""

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Run:
        """Return the run that plain data describes."""
        for key in ("before", "after"):
            if data[key] is not None:
                data[key] = CellState(**data[key])
        return cls(**data)

    @property
    def said(self) -> str:
        """Everything that came out of the guest."""
        return "\n".join([self.text, self.error_text, self.then_text, *self.messages])

    def lines(self, mark: str) -> list[str]:
        """Return what the attack printed after `mark`."""
        return [line.partition(mark)[2].strip() for line in self.said.splitlines() if line.startswith(mark)]
