"""Fixtures of the tests that run inside the VM: one enforcer for the session, guests that do what they are told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.markers import MARKERS

IN_VM = os.environ.get("PYISOLATE_VM") == "1"
collect_ignore_glob = [] if IN_VM else ["test_*.py"]


# tests/conftest.py stays outside: its leak check would cost more here than the tests.
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed: a machine that is ended for its slowness writes no report."""
    if report.failed:
        sys.__stdout__.write(f"\nFAILED {report.nodeid} ({report.when})\n{report.longreprtext[-2000:]}\n")
        sys.__stdout__.flush()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not (item.get_closest_marker("fuzz") or item.get_closest_marker("soak"))]


if IN_VM:
    import pyisolate
    from pyisolate.kernel.bpf.lsm import BpfLsmEnforcer
    from pyisolate.kernel.bpf.runtime import BpfSettings
    from pyisolate.policy.compiled import CompiledPolicy
    from tests import inside
    from tests.vm.inside.guests import Guest, Recorder, template

    @pytest.fixture(scope="session")
    def recorder() -> Recorder:
        return Recorder()

    @pytest.fixture(scope="session")
    def lsm(recorder: Recorder) -> Iterator[BpfLsmEnforcer]:
        """The enforcer, loaded and attached once."""
        enforcer = BpfLsmEnforcer(settings=BpfSettings(events_per_s=100_000))
        enforcer.start(recorder)
        recorder.drain = enforcer.shared.records.drain
        yield enforcer
        template().close()
        enforcer.close()

    @pytest.fixture(scope="session")
    def kept_supervisor() -> Iterator[pyisolate.Supervisor]:
        """One for all files: the kernel takes most of a minute to verify its programs here."""
        with pyisolate.Supervisor(pool_size=1) as made:
            assert inside.plan(made).bpf.decides, made.diagnostics().enforcers["bpf-lsm"].reason
            yield made

    @pytest.fixture
    def supervisor(kept_supervisor: pyisolate.Supervisor) -> pyisolate.Supervisor:
        return kept_supervisor

    @pytest.fixture
    def guest(lsm: BpfLsmEnforcer, recorder: Recorder) -> Iterator[Callable[..., Guest]]:
        """Make confined guests; all are ended with the test."""
        made: list[Guest] = []

        def make(policy: CompiledPolicy, shadow: CompiledPolicy | None = None, **options: object) -> Guest:
            one = Guest(lsm, recorder, **options)
            made.append(one)
            one.confine(policy, shadow)
            return one

        yield make
        for one in made:
            one.close()

    @pytest.fixture
    def files() -> Iterator[Path]:
        """A folder on a tmpfs of its own: granted/ and secret/, each with a file `f`."""
        import shutil

        base = Path(f"/mnt/{os.getpid()}-{os.urandom(4).hex()}")
        for name in ("granted", "secret"):
            (base / name).mkdir(parents=True)
            (base / name / "f").write_text(name)
        yield base
        shutil.rmtree(base, ignore_errors=True)
