"""A rule's reason reaches the event and the error, whoever sees the refusal first."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyisolate


def test_a_refusal_by_a_rule_says_why_to_host_and_guest(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    secret, public = tmp_path / "secret", tmp_path / "public"
    for file in (secret, public):
        file.write_text("x")
        file.chmod(0o644)
    rules = [
        {"path": str(tmp_path), "allow": ["read"]},
        {"path": str(secret), "deny": ["read"], "reason": "ask privacy"},
    ]
    policy = pyisolate.Policy.from_dict({"name": "r", "extends": "compute", "fs": rules})
    with supervisor.spawn("guest", policy) as sandbox:
        assert sandbox.eval(f"open({str(public)!r}).read()") == "x"
        with pytest.raises(pyisolate.PolicyError, match="the policy says: ask privacy") as caught:
            sandbox.exec(f"open({str(secret)!r})")
        assert caught.value.denial_event is not None
        assert caught.value.denial_event.rule_reason == "ask privacy"
        seen = sandbox.exec(f"try: open({str(secret)!r})\nexcept OSError as error: print(error)").stdout
        assert "ask privacy" in seen
        rules[1]["reason"] = "ask the new owner"
        sandbox.reload_policy(pyisolate.Policy.from_dict({"name": "r", "extends": "compute", "fs": rules}))
        with pytest.raises(pyisolate.PolicyError, match="ask the new owner"):
            sandbox.exec(f"open({str(secret)!r})")


def test_randomness_that_a_rule_denies_names_that_rule(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").deny_random()
    with supervisor.spawn("denied", policy) as sandbox, pytest.raises(pyisolate.PolicyError) as refused:
        sandbox.exec("import os; os.urandom(8)")
    event = refused.value.denial_event
    assert event is not None
    assert (event.capability, event.code, event.policy_rule) == (
        "random.read",
        "EXPLICIT_DENY",
        "random: {allow: false}",
    )
    with supervisor.spawn("granted", pyisolate.Policy.preset("compute")) as sandbox:  # the control
        assert len(sandbox.exec("import os; os.urandom(8)").value) == 8
