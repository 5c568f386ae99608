"""What `make test` prints and returns is what happened."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import run_tiers

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.host.test_a" name="test_passes"/>
<testcase classname="tests.host.test_a" name="test_fails"><failure message="assert 0"/></testcase>
<testcase classname="tests.host.test_a" name="test_leaks"><error message="left behind"/></testcase>
<testcase classname="tests.host.test_a" name="test_skips"><skipped message="vm missing: no qemu"/></testcase>
<testcase classname="tests.host.test_a" name="test_skips_too"><skipped message="vm missing: no qemu"/></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted_with_errors_as_failures(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT)
    outcome = run_tiers.Outcome("host")
    assert run_tiers.read_junit(tmp_path / "junit.xml", outcome)
    assert (outcome.ran, outcome.passed, outcome.failed, outcome.skipped) == (3, 1, 2, 2)
    assert outcome.reasons == {"vm missing: no qemu": 2}


def test_a_run_without_a_report_is_noticed(tmp_path: Path) -> None:
    assert not run_tiers.read_junit(tmp_path / "junit.xml", run_tiers.Outcome("host"))


def test_a_tier_left_out_is_a_skip_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYISOLATE_REQUIRE", raising=False)
    assert (run_tiers.left_out("vm", "vm", "no qemu").failed, run_tiers.left_out("vm", "vm", "no qemu").skipped) == (
        0,
        1,
    )
    monkeypatch.setenv("PYISOLATE_REQUIRE", "landlock, vm")
    assert run_tiers.left_out("vm", "vm", "no qemu").failed == 1


def test_the_last_line_is_plain_and_every_reason_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    passed = run_tiers.Outcome("unit", passed=3)
    failed = run_tiers.Outcome("host (root)", passed=1, skipped=1)
    failed.reasons["landlock missing: old kernel"] += 1
    failed.fail("tests.host.test_a::test_fails")
    run_tiers.print_table([passed, failed])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "4 passed, 1 failed, 1 skipped"
    assert "  left out in host (root): 1 x landlock missing: old kernel" in lines
    assert "  FAILED in host (root): tests.host.test_a::test_fails" in lines


def test_a_tier_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 60 & sleep 60"]
    assert run_tiers.run(command, timeout_s=0.2, env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path) == 124


def test_the_exit_status_comes_through_a_captured_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "echo seen; exit 3"]
    env = {"PATH": "/usr/bin:/bin"}
    assert run_tiers.run(command, timeout_s=10, env=env, cwd=tmp_path, capture=log, shown=True) == 3
    assert log.read_text() == "seen\n"


SHARED = """
import os, pathlib, pytest
@pytest.fixture
def leaves():
    yield
    assert False, "left behind"
@pytest.fixture
def ends():
    yield
    assert "alone" in os.environ["HOW"]
def test_passes(): pass
def test_skips(): pytest.skip("no reason")
def test_fails(): assert False
def test_leaves(leaves): pass
def test_fails_and_leaves_beside(ends): assert "alone" in os.environ["HOW"]
def test_fails_beside(): assert "alone" in os.environ["HOW"]
@pytest.mark.alone
def test_measures(): assert "alone" in os.environ["HOW"]
"""


def write(claims: Path, what: str) -> None:
    with (claims / f"{what}-1").open("a") as file:
        file.write("tests/test_a.py::test_one\n")


@pytest.mark.parametrize("what", ["alone", "failed", None])
def test_tests_are_collected_again_only_where_some_are_to_run_alone(tmp_path: Path, what: str | None) -> None:
    runs = list[bool]()

    def one(folder: Path, options: list[str]) -> run_tiers.Outcome:
        (folder / "output").touch()
        runs.append("--alone" in options)
        if what and not runs[-1]:
            write(Path(options[options.index("--claims") + 1]), what)
        return run_tiers.Outcome("small", passed=1)

    (outcome,) = run_tiers.run_jobs([run_tiers.Job("small", tmp_path, one, 1)])
    assert runs == ([False, True] if what else [False])
    assert outcome.passed == len(runs)


@pytest.mark.timeout(60)
@pytest.mark.slow
def test_a_tier_shared_by_two_runs_is_run_once_and_what_failed_is_judged_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(SHARED)

    def one(folder: Path, options: list[str]) -> run_tiers.Outcome:
        outcome, report = run_tiers.Outcome("small"), folder / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", str(tmp_path), f"--junitxml={report}", *options]
        how = "alone" if "--alone" in options else "beside another"
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(run_tiers.ROOT), "HOW": how}
        with (folder / "output").open("w") as output:
            subprocess.run(command, cwd=run_tiers.ROOT, env=env, stdout=output, check=False)
        assert run_tiers.read_junit(report, outcome)
        return outcome

    (outcome,) = run_tiers.run_jobs([run_tiers.Job("small", tmp_path, one, 2)])
    assert "left behind" in capsys.readouterr().out
    assert (outcome.passed, outcome.failed, outcome.skipped) == (8, 4, 2)
    assert sorted(name.split("::")[-1] for name in outcome.failures) == ["test_fails"] * 2 + ["test_leaves"] * 2
    beside = next(reason for reason in outcome.reasons if reason.startswith("failed first"))
    assert beside.count("test_fails_beside") == beside.count("test_fails_and_leaves_beside") == 2


def test_two_tiers_run_at_a_time_and_are_judged_one_by_one(tmp_path: Path) -> None:
    meet, running = threading.Barrier(2), list[str]()

    def job(name: str) -> run_tiers.Job:
        def one(folder: Path, options: list[str]) -> run_tiers.Outcome:
            (folder / "output").touch()
            if "--alone" not in options:
                write(Path(options[options.index("--claims") + 1]), "alone")
            else:
                return run_tiers.Outcome(name, passed=len(running) == 0)
            running.append(name)
            meet.wait(60)
            running.remove(name)
            return run_tiers.Outcome(name, passed=1)

        return run_tiers.Job(name, tmp_path, one, 1)

    missing = run_tiers.Outcome("missing", failed=1)
    outcomes = run_tiers.run_jobs([job("first"), missing, job("second"), job("third"), job("fourth")], 2)
    assert [one.tier for one in outcomes] == ["first", "missing", "second", "third", "fourth"]
    assert [one.passed for one in outcomes] == [2, 0, 2, 2, 2]


def test_tiers_that_run_beside_others_run_together_and_all_of_them_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = list[tuple[list[str], int]]()

    def run(jobs: list[run_tiers.Outcome], at_once: int = 1) -> list[run_tiers.Outcome]:
        made.append(([one.tier for one in jobs], at_once))
        return list(jobs)

    monkeypatch.setattr(run_tiers, "run_jobs", run)
    monkeypatch.setattr(run_tiers, "vm_tier", lambda _scratch: run_tiers.Outcome("vm"))
    monkeypatch.setattr(
        run_tiers, "jobs_of", lambda tier, _scratch: [run_tiers.Outcome(f"{tier} {user}") for user in ("root", "user")]
    )
    outcomes = run_tiers.run_tiers(run_tiers.TIERS, tmp_path)
    together = [f"{tier} {user}" for tier in run_tiers.BESIDE_OTHERS for user in ("root", "user")]
    assert (together, run_tiers.at_once(True)) in made
    assert [[f"{tier} {user}"] for tier in run_tiers.SIDE_BY_SIDE for user in ("root", "user")] == [
        jobs for jobs, _ in made if jobs != together
    ]
    assert len(outcomes) == 2 * (len(run_tiers.TIERS) - 1) + 1
    assert {one.tier.split()[0] for one in outcomes} == set(run_tiers.TIERS)
