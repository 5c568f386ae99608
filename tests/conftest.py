"""Every test runs inside a leak check; long-running kinds run only when asked for."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from tests import leaks
from tests.markers import MARKERS

try:
    import hypothesis
except ImportError:
    pass
else:
    # No deadline: a loaded two-core machine is no defect. No database: the tree may not be writable.
    hypothesis.settings.register_profile("pyisolate", deadline=None, database=None)
    hypothesis.settings.load_profile("pyisolate")

try:
    from tests.every_event import _events_are_watched, _every_event_fits_the_schema  # noqa: F401 (fixtures of all tests)
except ImportError:  # without jsonschema nothing can be validated
    pass

GRACE_S = 2.0


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    # A job in the background ignores SIGINT, and so would all that it starts: Ctrl-C is tested here.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marker = item.get_closest_marker("leaks")
        if marker is not None and not (marker.args and isinstance(marker.args[0], str) and marker.args[0].strip()):
            raise pytest.UsageError(f"{item.nodeid}: the marker `leaks` needs a reason")
    if config.getoption("-m"):
        return
    on_request = [item for item in items if item.get_closest_marker("fuzz") or item.get_closest_marker("soak")]
    if on_request:
        config.hook.pytest_deselected(items=on_request)
        items[:] = [item for item in items if item not in on_request]


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("leaks"):
        yield
        return
    before = leaks.snapshot()
    yield
    if found := _wait_for_none(before):
        pytest.fail("the test left behind: " + "; ".join(found), pytrace=False)


@pytest.fixture(autouse=True, scope="session")
def _session_leaves_nothing_behind() -> Iterator[None]:
    before = leaks.snapshot()
    yield
    # A dead default supervisor must leave nothing, so it is closed before the exact comparison.
    module = sys.modules.get("pyisolate.api")
    default = getattr(module, "_default", None)
    if default is not None:
        default.close()
        module._default = None  # type: ignore[union-attr]
    if found := _wait_for_none(before, keep=("process", "cgroup", "mount")):
        pytest.fail("the session left behind: " + "; ".join(found), pytrace=False)


def _wait_for_none(before: leaks.Snapshot, keep: tuple[str, ...] = ()) -> list[str]:
    """Return what is still there after garbage collection and a short grace: reaping is asynchronous."""
    deadline = time.monotonic() + GRACE_S
    collected = False
    while found := leaks.difference(before, leaks.snapshot()):
        # Imports start native threads and open files once in a session: those are no test's leak.
        found = [line for line in found if not keep or line.startswith(keep)]
        if not found or time.monotonic() > deadline:
            return found
        if not collected:
            gc.collect()
            collected = True
        else:
            time.sleep(0.02)
    return []


@pytest.fixture(scope="session")
def fuzz_seconds(request: pytest.FixtureRequest) -> float:
    """How long a fuzz test should run: its share of PYISOLATE_FUZZ_SECONDS."""
    sharing = sum("fuzz_seconds" in getattr(item, "fixturenames", ()) for item in request.session.items)
    return float(os.environ.get("PYISOLATE_FUZZ_SECONDS", "60")) / max(1, sharing)


@pytest.fixture(scope="session")
def soak_seconds() -> float:
    """How long a soak test should run."""
    return float(os.environ.get("PYISOLATE_SOAK_SECONDS", "10"))
