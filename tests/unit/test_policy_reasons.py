"""What a policy says of a rule: it decides nothing, survives every form of the policy, and reaches the event."""

from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from pyisolate.capability import Capability
from pyisolate.cli import main
from pyisolate.decision import DenialCode
from pyisolate.errors import PolicySyntaxError
from pyisolate.policy import Policy
from pyisolate.policy.compile import compile_policy
from pyisolate.policy.explain import diff, explain
from pyisolate.policy.load import load_bytes
from pyisolate.telemetry.formats import to_ecs, to_ocsf
from pyisolate.telemetry.policy_error import policy_error
from pyisolate.telemetry.sinks.otel import attributes
from tests.telemetry_events import CONTEXT, event

TEXT = """\
name: report
fs:
  - {path: /srv, allow: [read]}
  - {path: /srv/private, deny: [read], reason: "customer data: ask privacy"}
net:
  - {connect: "10.0.0.0/8:443"}
  - {connect: "10.0.0.7:443", deny: true, reason: being moved}
process:
  - {exec: /usr/bin/git, deny: true, reason: no history here}
  - {fork: false, reason: one at a time}
"""


def without_reasons(text: str) -> Policy:
    data = load_bytes(text.encode()).to_dict()
    for section in ("fs", "net", "process"):
        for item in data[section]:
            item.pop("reason", None)
    return Policy.from_dict(data)


def test_it_decides_nothing_and_survives_every_form() -> None:
    policy = load_bytes(TEXT.encode())
    assert policy == load_bytes(policy.to_yaml().encode()) == Policy.from_dict(policy.to_dict())
    plain = without_reasons(TEXT)
    assert diff(policy, plain) == diff(plain, policy) == []
    assert policy.version != plain.version  # what events say has changed
    assert [rule.text for rule in policy.rules] == [rule.text for rule in plain.rules]
    assert [rule.reason for rule in policy.rules if rule.reason] == [
        "customer data: ask privacy", "being moved", "no history here", "one at a time",
    ]  # fmt: skip


def test_rules_that_become_one_keep_both_in_an_order_of_their_own() -> None:
    def rule(right: str, reason: str) -> dict[str, object]:
        return {"path": "/srv", "deny": [right], "reason": reason}

    one = Policy.from_dict({"fs": [rule("read", "b"), rule("write", "a")]})
    other = Policy.from_dict({"fs": [rule("write", "a"), rule("read", "b")]})
    assert one == other
    assert one.files[0].reason == "a; b"


@pytest.mark.parametrize("reason", ["", "   ", "x" * 201, "two\nlines", "\x1b[31m", 7, None, ["x"]])
def test_what_is_no_short_plain_text_is_refused(reason: object) -> None:
    with pytest.raises(PolicySyntaxError, match="reason"):
        Policy.from_dict({"fs": [{"path": "/srv", "deny": ["read"], "reason": reason}]})


@pytest.mark.parametrize(
    ("capability", "target", "said"),
    [
        ("fs.read", "/srv/private/x", "customer data: ask privacy"),
        ("net.connect", "10.0.0.7:443", "being moved"),
        ("process.exec", "/usr/bin/git", "no history here"),
    ],
)
def test_the_deciding_rule_leads_to_it(capability: str, target: str, said: str) -> None:
    policy = load_bytes(TEXT.encode())
    decision = explain(policy, capability, target)
    assert decision.code == "EXPLICIT_DENY"
    context = msgspec.structs.replace(CONTEXT, reasons=compile_policy(policy).reasons)
    found = event(context, capability=Capability(capability), target=target, rule=decision.rule)
    assert found.rule_reason == said
    assert said in str(policy_error(found))
    assert attributes(found)["security_rule.description"] == said
    assert to_ecs(found)["rule"]["description"] == to_ocsf(found)["policy"]["desc"] == said
    none = event(context, capability=Capability(capability), target=target, rule="fs: {path: /other, deny: [read]}")
    assert none.rule_reason is None


def test_a_rule_that_denies_is_to_be_removed_and_one_beside_it_helps_nothing() -> None:
    rule = "fs: {path: /srv/private, deny: [read]}"
    found = event(target="/srv/private/x", rule=rule, code=DenialCode.EXPLICIT_DENY)
    assert policy_error(found).hint == f"remove or narrow the rule {rule}"
    assert "remove" not in str(policy_error(event(target="/srv/private/x", rule=None)).hint)  # the control


def test_explain_prints_it(tmp_path: object) -> None:
    path = f"{tmp_path}/report.yaml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(TEXT)
    answer = CliRunner().invoke(main.cli, ["policy", "explain", path, "fs.read", "/srv/private/x"])
    assert answer.exit_code == 1
    assert "the policy says: customer data: ask privacy" in answer.output


def test_a_name_that_is_looked_up_alone_leads_to_a_rule_with_a_port() -> None:
    refused = event(capability=Capability.NET_CONNECT, target="example.com")
    assert refused.suggestion is None
    assert '{"net": [{"connect": "example.com:443"}]}' in str(policy_error(refused))
    asked = Policy.preset("compute").allow_connect("example.com:443")
    found = explain(asked, "net.connect", "example.com", resolve=lambda host: ["192.0.2.7"])
    assert found.code is None  # what the hint says of it
    assert explain(Policy.preset("compute"), "net.connect", "example.com").code is not None  # the control
