"""What a benchmark returns."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """How much to measure."""

    quick: bool = False

    def rounds(self, full: int, quick: int) -> int:
        """Return the number of repetitions for this run."""
        return quick if self.quick else full


class Reference(msgspec.Struct, frozen=True):
    """What a figure is compared with: measured in the same run, in the figure's unit."""

    what: str
    value: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table. `spread` describes the samples.

    `budget` is text, empty where there is none; `met` is None when there is one and the noise leaves it open.
    """

    what: str
    value: float
    unit: str
    spread: str = ""
    reference: Reference | None = None
    budget: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure over its reference."""
        if self.reference is None or not self.reference.value:
            return None
        return self.value / self.reference.value


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be measured here, and why."""

    what: str
    why: str


class Outcome(msgspec.Struct, kw_only=True):
    """Everything one benchmark has to say."""

    figures: list[Figure] = msgspec.field(default_factory=list)
    skipped: list[Skipped] = msgspec.field(default_factory=list)


def at_most_ratio(
    what: str,
    ours: float,
    reference: Reference,
    limit: float,
    *,
    unit: str,
    budget: str,
    spread: str = "",
    note: str = "",
) -> Figure:
    """Return a figure whose budget is a ratio to its reference."""
    return Figure(
        what=what,
        value=ours,
        unit=unit,
        spread=spread,
        reference=reference,
        budget=budget,
        met=ours <= limit * reference.value,
        note=note,
    )
