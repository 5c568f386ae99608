"""A policy over another's file takes its rules, and can only narrow what they grant."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pyisolate.errors import PolicySyntaxError
from pyisolate.policy import Policy
from pyisolate.policy.check import check
from pyisolate.policy.explain import diff, explain

BASE = """\
name: base
extends: compute
fs:
  - {path: /srv/data, allow: [read, write]}
  - {path: /srv/data/secret, deny: [read]}
net:
  - {connect: "10.0.0.0/8:443"}
process:
  - {fork: true}
import: {allow: [numpy]}
workspace: 64MiB
limits: {wall: 30s}
"""


def over(tmp_path: Path, text: str, base: str = BASE) -> Policy:
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "mine.yaml").write_text(f"extends: ./base.yaml\n{text}")
    return Policy.load(tmp_path / "mine.yaml")


def test_a_layer_takes_the_rules_below_and_narrows_them(tmp_path: Path) -> None:
    policy = over(
        tmp_path,
        "name: mine\nlimits: {wall: 5s}\nworkspace: 1MiB\nnet: [{connect: '10.0.0.7:443', deny: true}]\n"
        "fs:\n  - {path: /srv, deny: [read]}\n  - {path: /srv/data/public, allow: [read]}\n",
    )
    base = Policy.load(tmp_path / "base.yaml")
    assert (policy.name, policy.limits.wall_s) == ("mine", 5.0)
    assert explain(policy, "fs.read", "/srv/data/public/x").verdict == "allow"
    assert explain(policy, "net.connect", "10.0.0.7:443").verdict == "deny"
    assert explain(policy, "net.connect", "10.0.0.8:443").verdict == "allow"
    assert {change.effect for change in diff(base, policy)} == {"narrowed"}


def test_no_advice_is_to_give_back_what_a_layer_takes_away(tmp_path: Path) -> None:
    policy = over(tmp_path, "fs: [{path: /srv/data, deny: [read, write]}]\nimport: {deny: [numpy]}\n")
    hints = {finding.hint for finding in check(policy) if "no rule grants" in finding.message}
    assert hints == {"remove it, or keep it as a reminder; where it takes back what an extended policy grants, keep it"}


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("fs:\n  - {path: /srv/data/x, allow: [read]}\n  - {path: /etc, allow: [read]}", 4, "/etc"),
        ("fs: [{path: /srv/data/secret/x, allow: [read]}]", 2, "/srv/data/secret/x"),
        ("fs: [{path: /srv/data, allow: [delete]}]", 2, "fs.delete"),
        ("net: [{connect: '11.0.0.1:443'}]", 2, "11.0.0.1"),
        ("net: [{connect: '10.0.0.1:80'}]", 2, "10.0.0.1:80"),
        ("net: [{connect: 'db.internal:443'}]", 2, "db.internal"),
        ("net: [{bind: '127.0.0.1:0'}]", 2, "net.bind"),
        ("net: [{connect: '*.internal:443'}]", 2, "*.internal"),
        ("net: [{http: 'GET 10.internal/*'}]", 2, "10.internal"),
        ("process: [{exec: /bin/sh}]", 2, "/bin/sh"),
        ("import: {native: [numpy]}", 2, "import.native numpy"),
        ("mode: monitor", 2, "mode"),
        ("modes: {net: monitor}", 2, "mode of net"),
        ("ask: [net.connect]", 2, "ask"),
        ("workspace: 1GiB", 2, "workspace"),
        ("limits: {wall: 1m}", 2, "limit.wall"),
        ("limits: {memory: null}", 2, "limit.memory"),
    ],
)
def test_a_layer_that_widens_is_refused_by_the_line_of_its_rule(
    tmp_path: Path, text: str, line: int, word: str
) -> None:
    with pytest.raises(PolicySyntaxError, match=r"widens '\./base\.yaml'") as caught:
        over(tmp_path, text)
    assert word in caught.value.summary
    assert caught.value.line == line
    assert caught.value.file == str(tmp_path / "mine.yaml")


WITH_EGRESS = """\
name: base
extends: compute
net: [{http: "GET api.internal/*"}]
egress: {requests: 100, sent: 1MiB}
secrets: [{name: api, from: "env:API_KEY", inject: "bearer api.internal/*"}]
"""


def test_bounds_of_the_egress_proxy_narrow_and_its_secrets_stay(tmp_path: Path) -> None:
    policy = over(
        tmp_path, "egress: {requests: 5, received: 1MiB}\nnet: [{http: 'GET api.internal/x', deny: true}]", WITH_EGRESS
    )
    base = Policy.load(tmp_path / "base.yaml")
    assert (policy.egress.requests, policy.egress.sent_bytes) == (5, base.egress.sent_bytes)
    assert policy.secrets == base.secrets
    assert {change.effect for change in diff(base, policy)} == {"narrowed"}
    for text in ("egress: {requests: 200}", "egress: {requests: null}"):
        with pytest.raises(PolicySyntaxError, match=r"egress\.requests.*widens '\./base\.yaml'"):
            over(tmp_path, text, WITH_EGRESS)


@pytest.mark.parametrize(
    "item",
    [
        "{name: other, from: 'env:OTHER', inject: 'bearer api.internal/*'}",
        "{name: api, from: 'env:OTHER', inject: 'bearer api.internal/*'}",
        "{name: api, from: 'env:API_KEY', inject: 'bearer elsewhere.internal/*'}",
    ],
)
def test_a_layer_states_no_secrets(tmp_path: Path, item: str) -> None:
    with pytest.raises(PolicySyntaxError, match="secrets: not in a policy that extends a file"):
        over(tmp_path, f"secrets: [{item}]", WITH_EGRESS)


def test_random_numbers_cannot_come_back(tmp_path: Path) -> None:
    closed = "random: {allow: false, seed: 1}\n"
    assert not over(tmp_path, "", base=closed).random
    with pytest.raises(PolicySyntaxError, match="random"):
        over(tmp_path, "random: {allow: true}", base=closed)


def test_layers_may_lie_on_layers_up_to_a_number(tmp_path: Path) -> None:
    (tmp_path / "0.yaml").write_text(BASE)
    for number in range(1, 10):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number - 1}.yaml\nlimits: {{wall: {30 - number}s}}\n")
    assert Policy.load(tmp_path / "8.yaml").limits.wall_s == 22
    with pytest.raises(PolicySyntaxError, match="more than 8"):
        Policy.load(tmp_path / "9.yaml")


def test_a_circle_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PolicySyntaxError, match="extends this file") as raised:
        over(tmp_path, "", base="extends: ./mine.yaml\n")
    assert len(str(raised.value)) < 400 + 3 * len(str(tmp_path))


def test_a_base_in_another_directory_and_format(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.json").write_text('{"name": "base", "fs": [{"path": "/srv", "allow": ["read"]}]}')
    (tmp_path / "mine.toml").write_text('extends = "shared/base.json"\n')
    assert explain(Policy.load(tmp_path / "mine.toml"), "fs.read", "/srv/x").verdict == "allow"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: ./missing.yaml", "No such file"),
        ("extends: /etc/passwd", "not a policy file"),
        ("extends: ./", "not a policy file"),
        ("extends: ./broken.yaml", "broken.yaml"),
    ],
)
def test_a_base_that_is_none_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "broken.yaml").write_text("fs: [")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(PolicySyntaxError, match=message):
        Policy.load(tmp_path / "mine.yaml")


def test_data_without_a_file_extends_presets_only() -> None:
    assert Policy.from_dict({"extends": "compute"}).rules == Policy.preset("compute").rules
    with pytest.raises(PolicySyntaxError, match="no file"):
        Policy.from_dict({"extends": "./base.yaml"})


def test_many_rules_about_the_network_are_refused_at_once(tmp_path: Path) -> None:
    rules = [{"connect": f"10.{n}.0.0/16:443", "deny": True} for n in range(200)]
    with pytest.raises(PolicySyntaxError, match="at most 100"):
        over(tmp_path, yaml.safe_dump({"net": rules}))


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("nightly job.yaml", "extends: compute\n", "nightly job"),
        ("rules.d.yaml", "limits: {wall: 1s}\n", "rules.d"),
        (".häuser.yaml", "extends: compute\n", "h_user"),
        ("___.yaml", "extends: compute\n", "compute"),
        ("-.yaml", "", "policy"),
        ("mine.yaml", "name: theirs\nextends: compute\n", "theirs"),
        (f"{'x' * 80}.yaml", "", "x" * 63),
    ],
)
def test_a_file_that_states_no_name_gives_its_own(tmp_path: Path, file: str, text: str, name: str) -> None:
    """Events called it `compute`, or `policy`, as every other one."""
    (tmp_path / file).write_text(f"version: 1\n{text}")
    assert Policy.load(tmp_path / file).name == name
    assert Policy.from_dict({"version": 1, "extends": "compute"}).name == "compute"
