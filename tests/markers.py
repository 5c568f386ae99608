"""The markers of all tests, here and in the virtual machines."""

from __future__ import annotations

MARKERS = (
    "leaks(reason): leave the leak check out; the reason is required",
    "slow: left out of `make test-fast`",
    "once: of the host tier, what no user's rights change: left out where the tier is run again as a user",
    "core: of the host tier, what `make test-fast` runs",
    "alone: measures time, or counts what the machine has: not beside another run of its tier",
    "fuzz: property tests for `make fuzz` (see the fixture fuzz_seconds)",
    "soak: endurance tests for `make soak` (see the fixture soak_seconds)",
)
