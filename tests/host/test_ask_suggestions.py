"""A question changes who decides, and not what its events say: code, presented grant and suggestion are as without."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Allow, Deny, Policy
from pyisolate.policy.suggest import apply
from tests.asking import Asked
from tests.require import require

pytestmark = pytest.mark.usefixtures("kept_supervisor")

CALLS = {
    "read": "os.open(f'{top}/data', os.O_RDONLY)",
    "write": "os.open(f'{top}/data', os.O_WRONLY)",
    "make": "os.open(f'{top}/new', os.O_WRONLY | os.O_CREAT)",
    "make, and read": "os.open(f'{top}/new', os.O_RDWR | os.O_CREAT)",
    "make alone": "os.open(f'{top}/new', os.O_WRONLY | os.O_CREAT | os.O_EXCL)",
    "mkdir": "os.mkdir(f'{top}/new')",
    "unlink": "os.unlink(f'{top}/data')",
    "rmdir": "os.rmdir(f'{top}/empty')",
    "rename": "os.rename(f'{top}/data', f'{top}/new')",
    "replace": "os.rename(f'{top}/data', f'{top}/other')",
    "move": "os.rename(f'{top}/data', f'{top}/empty/data')",
    "link": "os.link(f'{top}/data', f'{top}/new')",
}
#: No grants of both would do: the kernel lets no file go from one granted place to another.
NOT_ADVISED = ("move",)


@pytest.fixture
def top(place: Path) -> Path:
    (place / "empty").mkdir()
    for path in (place, *place.iterdir()):
        path.chmod(0o777 if path.is_dir() else 0o666)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)  # who a guest of a root host is
    return place


@pytest.fixture
def policy() -> Iterator[Policy]:
    """Grant each right elsewhere, which does not reach what is asked for."""
    granted = Path(os.path.realpath(tempfile.mkdtemp(prefix="pyisolate-granted-", dir="/var/tmp")))
    granted.chmod(0o777)
    yield Policy.preset("compute").allow_read(granted).allow_write(granted)
    granted.rmdir()


def events_of(
    supervisor: pyisolate.Supervisor, policy: Policy, call: str, asked: Asked | None = None
) -> list[pyisolate.DenialEvent]:
    with supervisor.spawn("calls", policy, on_ask=asked) as sandbox:
        try:
            sandbox.exec(f"import os\n{call}")
        except pyisolate.SandboxError:
            assert asked is None or isinstance(asked.given, Deny)
        return sandbox.get_denial_events()


def said(event: pyisolate.DenialEvent) -> Any:
    rules = sorted((event.suggestion or {}).get("fs", ()), key=lambda rule: str(rule["path"]))
    return event.capability, event.target, event.code, event.presented_capability, rules


class Always(Asked):
    """Gives each question the same answer."""

    def __init__(self, given: Allow | Deny) -> None:
        super().__init__()
        self.given = given

    def __call__(self, question: pyisolate.Question) -> Allow | Deny:
        self.questions.append(question)
        return self.given


@pytest.mark.parametrize("call", CALLS)
def test_an_event_says_the_same_with_a_question_and_without(
    supervisor: pyisolate.Supervisor, top: Path, policy: Policy, call: str
) -> None:
    code = CALLS[call].replace("{top}", str(top))
    asking = policy.with_ask("fs.read", "fs.write", "fs.create", "fs.delete")
    (plain,) = events_of(supervisor, policy, code)
    assert plain.code == "SCOPE_INSUFFICIENT", "what is to be seen of questions, too"
    (denied,) = events_of(supervisor, asking, code, no := Always(Deny()))
    assert said(denied) == said(plain)
    allowed = events_of(supervisor, asking, code, yes := Always(Allow()))
    assert said(allowed[0]) == said(plain)
    assert {event.code for event in allowed} == {plain.code}
    assert {str(said(event)[-1]) for event in allowed} == {str(said(plain)[-1])}, "one call, one advice"
    assert len(yes.questions) == len(allowed) >= len(no.questions) == 1
    assert (plain.suggestion is None) == (call in NOT_ADVISED)


@pytest.mark.parametrize("call", [one for one in CALLS if one not in NOT_ADVISED])
def test_what_is_answered_as_rules_passes_under_the_answered_policy(
    supervisor: pyisolate.Supervisor, top: Path, policy: Policy, call: str
) -> None:
    code = f"import os\n{CALLS[call].replace('{top}', str(top))}"
    asking = policy.with_ask("fs.read", "fs.write", "fs.create", "fs.delete")
    with supervisor.spawn("kept", asking, on_ask=(asked := Always(Allow("rule")))) as sandbox:
        sandbox.exec(code)
        kept = sandbox.answered_policy
    rules = asking
    for question in asked.questions:
        assert question.suggestion is not None
        rules = apply(rules, question.suggestion)
    assert kept.to_dict() == rules.to_dict(), "what the questions showed, no more"
    for name in ("new", "data", "empty"):  # as it was before
        path = top / name
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
    (top / "empty").mkdir()
    (top / "data").write_text("again")
    for path in (top / "data", top / "empty"):
        path.chmod(0o777)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
    with supervisor.spawn("again", kept, on_ask=(again := Always(Deny()))) as sandbox:
        sandbox.exec(code)
        assert sandbox.get_denial_events() == []
    assert again.questions == []


def test_a_file_that_its_own_mode_keeps_from_guests_has_no_rule(
    supervisor: pyisolate.Supervisor, top: Path, policy: Policy
) -> None:
    """A policy with one could not start here; the answer holds for the sandbox all the same."""
    require("root", os.geteuid() == 0, "an ordinary user's guests have its own rights to files")
    data = top / "data"
    os.chown(data, 0, 0)
    data.chmod(0o600)
    policy = policy.with_ask("fs.read")
    with supervisor.spawn("kept out", policy, on_ask=(asked := Always(Allow("rule")))) as sandbox:
        for _ in range(2):
            sandbox.exec(f"open({str(data)!r}).close()")
        assert [question.suggestion for question in asked.questions] == [None]
        assert [event.suggestion for event in sandbox.get_denial_events()] == [None]
        assert sandbox.answered_policy.to_dict() == policy.to_dict()
