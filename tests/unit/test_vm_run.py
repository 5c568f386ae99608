"""What the VM tier says is what its machines reported; what failed is judged in a machine of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.run_tiers import AGAIN
from tests.vm import boot, kernels, run

KERNEL = kernels.Kernel(series="6.12", release="6.12-x", root=Path("/"))
FAILS = '<testcase classname="tests.vm.inside.test_a" name="test_one[a]"><failure message="late"/></testcase>'
ERRS = '<testcase classname="tests.vm.inside.test_a" name="test_one[a]"><error message="left"/></testcase>'
PASSES = '<testcase classname="tests.vm.inside.test_a" name="test_one[a]"/>'
OTHERS = (
    '<testcase classname="tests.vm.inside.test_a" name="test_two"/>'
    '<testcase classname="tests.vm.inside.test_a" name="test_three"><skipped message="no"/></testcase>'
)


class Machines:
    """In the place of emulated ones: each writes the next report, and keeps its command."""

    def __init__(self, *reports: str | None) -> None:
        self.reports, self.commands = list(reports), list[str]()

    def boot(self, _kernel: object, command: str, *, writable: Path, **_options: Any) -> int:
        self.commands.append(command)
        report = self.reports.pop(0)
        if report is None:
            return 124
        name = next(word for word in command.split() if word.startswith("--junitxml=")).partition("=")[2]
        assert Path(name).parent == writable
        Path(name).write_text(f"<testsuites><testsuite>{report}</testsuite></testsuites>")
        return int("<failure" in report or "<error" in report)


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def of(*reports: str | None) -> tuple[tuple[int, int, int], Machines]:
        machines = Machines(*reports)
        monkeypatch.setattr(boot, "boot", machines.boot)
        monkeypatch.setattr(boot, "vng", lambda: "vng")
        monkeypatch.setattr(kernels, "kernel", lambda _series: KERNEL)
        return run.again(run.run_kernel("6.12", tmp_path, []), tmp_path).totals(), machines

    return of


def test_what_failed_first_runs_again_alone_and_is_said(outcome: Any, capsys: pytest.CaptureFixture[str]) -> None:
    totals, machines = outcome(FAILS + ERRS + OTHERS, PASSES)
    assert totals == (2, 0, 1)
    assert len(machines.commands) == 2
    assert f"{boot.ROOT}/tests/vm/inside/test_a.py::test_one[a]" in machines.commands[1]
    assert str(run.INSIDE) not in machines.commands[1].replace("::", " ").split()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(AGAIN)]
    assert said == [f"{AGAIN}Linux 6.12-x: tests/vm/inside/test_a.py::test_one[a]"]


def test_what_fails_again_has_failed(outcome: Any) -> None:
    assert outcome(FAILS + OTHERS, FAILS)[0] == (1, 1, 1)


def test_what_was_not_found_again_has_not_passed(outcome: Any) -> None:
    assert outcome(FAILS + OTHERS, "")[0] == (1, 1, 1)


def test_what_passes_runs_once(outcome: Any) -> None:
    totals, machines = outcome(PASSES + OTHERS)
    assert totals == (2, 0, 1)
    assert len(machines.commands) == 1


@pytest.mark.parametrize("report", [None, "".join(FAILS.replace("one", f"n{n}") for n in range(run.AGAIN_MOST + 1))])
def test_a_machine_that_died_and_one_where_most_fails_are_no_accident(outcome: Any, report: str | None) -> None:
    totals, machines = outcome(report)
    assert totals[1] == (1 if report is None else run.AGAIN_MOST + 1)
    assert len(machines.commands) == 1
