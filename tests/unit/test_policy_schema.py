"""The JSON Schema of policy files refuses nothing that reading takes, and finds what an editor should underline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyisolate.errors import PolicySyntaxError
from pyisolate.policy import Policy, units
from pyisolate.policy.json_schema import json_schema
from pyisolate.policy.parse import PRESETS, parse_bytes, preset_path
from pyisolate.policy.schema import TOP_KEYS

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = jsonschema.Draft202012Validator(json_schema())


def valid(data: Any) -> bool:
    return SCHEMA.is_valid(data)


def test_it_is_a_schema_and_has_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert tuple(json_schema()["properties"]) == TOP_KEYS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_as_written_and_as_shown(name: str) -> None:
    text = preset_path(name).read_bytes()
    assert list(SCHEMA.iter_errors(parse_bytes(text)[0])) == []
    assert list(SCHEMA.iter_errors(Policy.preset(name).to_dict())) == []


def test_every_policy_of_the_page_is_valid() -> None:
    blocks = [part.split("```")[0] for part in (DOCS / "policy.md").read_text().split("```yaml\n")[1:]]
    policies = [data for data in map(yaml.safe_load, blocks) if isinstance(data, dict) and "cases" not in data]
    assert policies
    for data in policies:
        assert list(SCHEMA.iter_errors(data)) == []


WRONG: list[dict[str, Any]] = [
    {"nmae": "x"},
    {"version": 2},
    {"name": "a/b"},
    {"extends": "cmpute"},
    {"mode": "audit"},
    {"modes": {"files": "enforce"}},
    {"fs": [{"path": "srv", "allow": ["read"]}]},
    {"fs": [{"path": "/srv"}]},
    {"fs": [{"path": "/srv", "allow": ["raed"]}]},
    {"fs": [{"path": "@interpeter", "allow": ["read"]}]},
    {"net": [{"connect": "https://example.org"}]},
    {"net": [{"connect": "example.org"}]},
    {"net": [{"connect": "a:1", "bind": "b:2"}]},
    {"net": [{"http": "api.example.org"}]},
    {"net": [{"deny": True}]},
    {"process": [{"exec": "git"}]},
    {"process": [{"fork": "yes"}]},
    {"import": {"alow": ["json"]}},
    {"random": {"seed": -1}},
    {"ask": ["process.exec"]},
    {"workspace": "much"},
    {"limits": {"wall": "30 parsecs"}},
    {"limits": {"processes": 0}},
    {"limits": {"ram": "1GiB"}},
]


@pytest.mark.parametrize("data", WRONG, ids=str)
def test_what_is_wrong_is_refused_by_both(data: dict[str, Any]) -> None:
    assert not valid(data)
    with pytest.raises(PolicySyntaxError):
        Policy.from_dict(data)


_size = st.builds(str.__add__, st.integers(1, 999).map(str), st.sampled_from([*units.SIZE_UNITS, " MiB", "Kib"]))
_policies = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["report", "a.b-c", "two words"]),
        "mode": st.sampled_from(["enforce", "monitor"]),
        "fs": st.lists(
            st.fixed_dictionaries(
                {"path": st.sampled_from(["/srv/data", "/", "@zoneinfo"]), "allow": st.just(["read", "exec"])}
            ),
            max_size=3,
        ),
        "net": st.lists(
            st.fixed_dictionaries(
                {"connect": st.sampled_from(["10.0.0.0/8:443", "*:80-90", "[::1]:*", "unix:/run/x", "@resolver"])}
            )
            | st.fixed_dictionaries({"http": st.sampled_from(["GET api.example.org/v1/*", "* *.example.org:8080/"])}),
            max_size=3,
        ),
        "import": st.fixed_dictionaries({}, optional={"allow": st.just(["json", "numpy.*"]), "native": st.just(["*"])}),
        "workspace": st.one_of(st.none(), st.just("64MiB")),
        "limits": st.fixed_dictionaries({}, optional={"memory": _size, "wall": st.just("1.5m"), "cpu": st.none()}),
    },
)


@settings(max_examples=60, deadline=None)
@given(_policies)
def test_what_is_read_is_valid(data: dict[str, Any]) -> None:
    policy = Policy.from_dict(data)
    assert list(SCHEMA.iter_errors(data)) == []
    assert list(SCHEMA.iter_errors(policy.to_dict())) == []


def test_the_command_prints_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyisolate", "policy", "schema"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads(json.dumps(json_schema()))
