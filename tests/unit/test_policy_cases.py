"""`pyisolate policy test`: the verdicts that a policy must give, by the broker that guests have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pyisolate.cli import main

POLICY = """\
name: report
extends: compute
fs: [{path: /srv/data, allow: [read]}, {path: /srv/data/private, deny: [read]}]
modes: {net: monitor}
"""
CASES = """\
policy: ./report.yaml
cases:
  - {fs.read: /srv/data/x, expect: allow}
  - {fs.read: /srv/data/private/x, expect: deny, code: EXPLICIT_DENY}
  - {net.connect: "10.0.0.1:443", expect: would_deny}
  - {import.module: json, expect: allow}
  - {kernel.namespace: unshare, expect: deny, code: ALWAYS_DENIED}
"""


def test(tmp_path: Path, cases: str, *options: str) -> Any:
    (tmp_path / "report.yaml").write_text(POLICY)
    (tmp_path / "cases.yaml").write_text(cases)
    return CliRunner().invoke(main.cli, ["policy", "test", str(tmp_path / "cases.yaml"), *options])


test.__test__ = False  # type: ignore[attr-defined]


def test_a_policy_that_says_what_it_must_passes(tmp_path: Path) -> None:
    answer = test(tmp_path, CASES)
    assert (answer.exit_code, answer.output) == (0, "5 of 5 cases as expected\n")


@pytest.mark.parametrize(
    ("old", "new", "miss"),
    [
        ("/srv/data/x, expect: allow", "/srv/other, expect: allow", "expected allow, got deny"),
        ("private/x, expect: deny, code: EXPLICIT_DENY", "private/x, expect: allow", "expected allow, got deny"),
        ("code: EXPLICIT_DENY", "code: NOT_GRANTED", "expected code NOT_GRANTED, got EXPLICIT_DENY"),
        ("expect: would_deny", "expect: deny", "expected deny, got would_deny"),
        ("json, expect: allow", 'json, expect: allow, rule: "import: {allow: [json]}"', "expected rule import"),
    ],
)
def test_a_miss_is_named_with_its_line_and_fails(tmp_path: Path, old: str, new: str, miss: str) -> None:
    assert old in CASES
    changed = CASES.replace(old, new)
    answer = test(tmp_path, changed)
    assert answer.exit_code == 1
    line = next(number for number, text in enumerate(CASES.splitlines(), start=1) if old in text)
    assert f"cases.yaml:{line}: " in answer.output
    assert miss in answer.output
    assert "4 of 5 cases as expected" in answer.output


def test_another_policy_can_be_named_and_the_answer_be_json(tmp_path: Path) -> None:
    answer = test(tmp_path, CASES, "--policy", "compute", "--json")
    document = json.loads(answer.output)
    assert (answer.exit_code, document["ok"]) == (1, False)
    assert [one["missed"] is None for one in document["cases"]] == [False, False, False, True, True]
    assert document["cases"][0]["decision"]["verdict"] == "deny"


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ("cases: [{fs.raed: /x, expect: deny}]", "did you mean 'fs.read'"),
        ("cases: [{fs.read: /x}]", "expects nothing"),
        ("cases: [{fs.read: /x, fs.write: /x, expect: deny}]", "one capability"),
        ("cases: [{fs.read: 7, expect: deny}]", "one capability"),
        ("cases: [{fs.read: /x, expect: refuse}]", "unknown"),
        ("cases: [{fs.read: /x, expect: deny, code: NO}]", "unknown"),
        ("cases: []", "expected a list"),
        ("cases: [x]", "expected a mapping"),
        ("case: []", "did you mean 'cases'"),
        ("policy: ./none.yaml\ncases: [{fs.read: /x, expect: deny}]", "none.yaml"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, cases: str, message: str) -> None:
    answer = test(tmp_path, cases, *([] if cases.startswith("policy") else ["--policy", "compute"]))
    assert answer.exit_code == 125
    assert message in answer.output + answer.stderr


def test_cases_without_a_policy_are_a_wrong_command_line(tmp_path: Path) -> None:
    answer = test(tmp_path, "cases: [{fs.read: /x, expect: deny}]")
    assert answer.exit_code == 2
