"""Questions about files that are written to, or made: a yes gives that file, opened as the guest asked, no more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Allow, Deny, EnforcementError, Policy
from pyisolate.decision import Verdict

from .test_ask_files import Asked, place, refused  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("kept_supervisor")

POLICY = Policy.preset("compute").with_ask("fs.write", "fs.create")


def written(path: Path, mode: str = "w", text: str = "new") -> str:
    return f"with open({str(path)!r}, {mode!r}) as file: file.write({text!r})"


def test_yes_writes_and_no_does_not_each_with_one_event(supervisor: pyisolate.Supervisor, place: Path) -> None:  # noqa: F811
    asked = Asked(Deny("keep it"), Allow(), Allow("rule"))
    file = place / "data"
    with supervisor.spawn("writes", POLICY, on_ask=asked) as sandbox:
        event = refused(sandbox, written(file))
        assert (event.capability, event.target, event.answer) == ("fs.write", str(file), "deny")
        assert event.kernel_decision == Verdict.DENY
        assert file.read_text() == "asked"
        sandbox.exec(written(file))
        assert file.read_text() == "new"
        sandbox.exec(written(file, "a", ", and more"))
        sandbox.exec(written(file, "a", ", and again"))
        assert file.read_text() == "new, and more, and again"
        events = [(one.answer, one.would_deny, one.count) for one in sandbox.get_denial_events()]
        assert sorted(events, key=str) == [("deny", False, 1), ("once", True, 1), ("rule", True, 2)]
        assert {"path": str(file), "allow": ["write"]} in sandbox.answered_policy.to_dict()["fs"]
        assert refused(sandbox, f"open({str(file)!r}).read()").answer is None  # reading is another thing
        assert refused(sandbox, written(file, "r+")).answer is None  # and so are both at once
    assert asked.targets == [str(file)] * 3


def test_a_file_is_made_where_the_answer_says_so_and_is_the_guests(
    supervisor: pyisolate.Supervisor,
    place: Path,  # noqa: F811
) -> None:
    asked, new = Asked(Deny(), Allow(), Allow()), place / "new"
    with supervisor.spawn("makes", POLICY, on_ask=asked) as sandbox:
        sandbox.exec("import os\nos.umask(0o027)")
        event = refused(sandbox, written(new))
        assert (event.capability, event.target, event.answer) == ("fs.create", str(new), "deny")
        assert not new.exists()
        sandbox.exec(written(new, "x"))
        found = new.stat()
        assert (new.read_text(), found.st_mode & 0o777) == ("new", 0o640)
        assert found.st_uid == (65534 if os.geteuid() == 0 else os.geteuid())
        sandbox.exec(written(new, "w", "newer"))
        assert new.read_text() == "newer"
        asked_for = [(one.capability, one.target) for one in asked.questions]
        assert asked_for == [("fs.create", str(new))] * 2 + [("fs.write", str(new))]
        assert [one.answer for one in sandbox.get_denial_events()] == ["deny", "once", "once"]


def test_what_takes_its_name_while_the_call_waits_is_not_written_to(
    supervisor: pyisolate.Supervisor,
    place: Path,  # noqa: F811
) -> None:
    data, other, new = place / "data", place / "other", place / "new"
    asked = Asked(Allow(), Allow())
    with supervisor.spawn("swaps", POLICY, on_ask=asked) as sandbox:
        asked.before = lambda: os.replace(other, data)
        refused(sandbox, written(data))
        assert data.read_text() == "not asked"
        asked.before = lambda: new.symlink_to(data)
        refused(sandbox, written(new))
        assert data.read_text() == "not asked"


def test_rules_and_other_calls_are_no_questions(supervisor: pyisolate.Supervisor, place: Path) -> None:  # noqa: F811
    asked = Asked(Allow())
    policy = Policy.preset("compute").with_ask({"write": str(place / "data")}).deny("fs.write", str(place / "other"))
    with supervisor.spawn("rules", policy, on_ask=asked) as sandbox:
        sandbox.exec("import os")
        sandbox.exec(written(place / "data"))
        for attempt in (
            written(place / "other"),
            written(place / "new"),
            f"os.remove({str(place / 'data')!r})",
            f"os.rename({str(place / 'data')!r}, {str(place / 'new')!r})",
            f"os.mkdir({str(place / 'new')!r})",
        ):
            assert refused(sandbox, attempt).answer is None
    assert asked.targets == [str(place / "data")]
    assert (place / "data").read_text() == "new"


def test_a_sum_of_what_is_written_is_not_promised_beside_questions(supervisor: pyisolate.Supervisor) -> None:
    with pytest.raises(EnforcementError, match=r"limits\.disk"):
        supervisor.spawn("bounded", POLICY.with_limits(disk="1MiB"))
