"""Fixtures for tests that run code in sandboxes: pytest finds them by itself where pyisolate is installed.

- `sandbox`: a sandbox under the test's policy, for this test alone
- `policy`: that policy: the marker's, or the preset `compute`; override it in a conftest for others
- `@pytest.mark.sandbox(policy=..., limits=..., **options)`: policy and options of `spawn` for one test, class or module

One supervisor serves a run. Only a test that asks for a fixture starts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..policy import Policy
    from ..sandbox.process import Sandbox
    from ..supervisor.supervisor import Supervisor

_MARKER = "sandbox(policy=None, **options): the policy (a Policy, a preset's name or a file) and options of spawn"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, so that --strict-markers accepts it."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture(scope="session")
def pyisolate_supervisor() -> Iterator[Supervisor]:
    """The supervisor of this run's sandboxes; override it for another pool size or a preload."""
    from ..supervisor.supervisor import Supervisor

    with Supervisor(pool_size=2) as supervisor:
        yield supervisor


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> Policy:
    """The policy of the test's sandbox: its marker's, or the preset `compute`."""
    from ..supervisor.options import choose_policy

    options = _options(request)
    names = ("policy", "limits", "mode", "allowed_imports", "workspace")
    return choose_policy(*(options.get(name) for name in names))


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, policy: Policy, pyisolate_supervisor: Supervisor) -> Iterator[Sandbox]:
    """A sandbox of the test's own, under `policy`; what was refused in it is printed when the test fails."""
    options = {name: value for name, value in _options(request).items() if name != "policy"}
    with pyisolate_supervisor.spawn(request.node.name, policy, **options) as made:
        yield made
        for event in made.get_denial_events():  # pytest shows it beside a failure
            print(f"refused in the sandbox: {event}")  # noqa: T201


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what the markers say; the nearest one counts."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("sandbox"))):
        if len(marker.args) > 1:
            raise pytest.UsageError("@pytest.mark.sandbox takes one argument without a name: the policy")
        options |= dict(zip(("policy",), marker.args, strict=False)) | marker.kwargs
    return options
