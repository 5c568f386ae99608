"""The shipped JSON Schema, the struct and the documentation say the same; mappings keep every fact."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.records import Actor
from pyisolate.telemetry.event import DenialEvent
from pyisolate.telemetry.formats import to_ecs, to_ocsf
from pyisolate.telemetry.merge import merge
from pyisolate.telemetry.metrics import Metrics
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.schema import generate_schema, load_schema, render_schema
from pyisolate.telemetry.sinks.audit_reader import parse_line
from tests import every_event
from tests.telemetry_events import CONTEXT, broker, event, kernel

ROOT = Path(__file__).parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def test_the_shipped_schema_is_up_to_date() -> None:
    assert (ROOT / "pyisolate/telemetry/denial_event.schema.json").read_text() == render_schema()
    assert load_schema() == json.loads(json.dumps(generate_schema()))
    jsonschema.Draft202012Validator.check_schema(load_schema())


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"code": "MAYBE"},
        {"capability": "fs"},
        {"count": 0},
        {"mode": "audit"},
        {"actor": {"kind": "user"}},
        {"schema": "other/1"},
    ],
)
def test_the_schema_refuses_what_is_no_event(change: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(load_schema())
    sound = event().to_dict()
    validator.validate(sound)
    assert not validator.is_valid({**sound, **change})
    for field in sound:
        assert not validator.is_valid({k: v for k, v in sound.items() if k != field}), field


def test_the_protocol_documents_every_field_code_verdict_and_capability() -> None:
    for field in DenialEvent.__struct_fields__:
        assert re.search(rf"^\| `{field}` \|", PROTOCOL, re.M), field
    for name in [*DenialCode, *Verdict, *Capability]:
        assert f"`{name.value}`" in PROTOCOL, name


def examples() -> list[str]:
    return [text for text in re.findall(r"```json\n(.*?)```", PROTOCOL, re.S) if '"event_id"' in text]


def test_the_protocol_has_a_valid_example_of_each_code() -> None:
    events = [parse_line(json.dumps(json.loads(text)).encode()) for text in examples()]
    assert all(events)
    assert {e.code for e in events if e is not None} == set(DenialCode)
    for text in examples():
        jsonschema.Draft202012Validator(load_schema()).validate(json.loads(text))


def _with_actor() -> DenialEvent:
    return merge(msgspec.structs.replace(CONTEXT, actor=Actor(kind="agent", id="7")), broker(), None)


EVENTS = [
    *(event(capability=c, target="10.0.0.5:443" if c.value.startswith("net") else "/srv/x") for c in Capability),
    event(verdict=Verdict.WOULD_DENY),
    event(capability=Capability.NET_CONNECT, target="[::1]:80"),
    event(capability=Capability.NET_CONNECT, target="unix:/run/x"),
    merge(CONTEXT, None, kernel()),
    _with_actor(),
]


@pytest.mark.parametrize("one", EVENTS, ids=str)
def test_ocsf_and_ecs_say_what_happened(one: DenialEvent) -> None:
    ocsf, ecs = to_ocsf(one), to_ecs(one)
    json.dumps([ocsf, ecs])
    blocked = not one.would_deny
    assert (ocsf["action_id"], ocsf["disposition_id"]) == ((2, 2) if blocked else (1, 17))
    assert ocsf["type_uid"] == ocsf["class_uid"] * 100 + ocsf["activity_id"]
    assert ocsf["class_uid"] // 1000 == ocsf["category_uid"]
    assert ecs["event"]["outcome"] == ("failure" if blocked else "success")
    assert ecs["event"]["action"] == one.capability.value
    assert ocsf["unmapped"] == ecs["pyisolate"] == one.to_dict()


def test_the_target_and_the_actor_land_where_others_look() -> None:
    net = event(capability=Capability.NET_CONNECT, target="[::1]:80")
    assert to_ocsf(net)["dst_endpoint"] == {"ip": "::1", "port": 80}
    assert to_ecs(net)["destination"] == {"address": "::1", "port": 80, "ip": "::1"}
    assert to_ecs(event())["file"] == {"path": "/etc/shadow", "name": "shadow"}
    assert to_ocsf(_with_actor())["actor"]["user"] == {"uid": "7", "type": "agent", "type_id": 99}


@pytest.mark.parametrize("capability", [one for one in Capability if one.value != "control"], ids=str)
@pytest.mark.parametrize(
    "target", ["/etc/shadow", "[::1]:80", "example.org:443", "unix:/run/x", "AF_INET/SOCK_DGRAM", ""]
)
def test_ocsf_records_are_valid_under_the_published_schema(capability: Capability, target: str) -> None:
    for one in (event(capability=capability, target=target), _with_actor()):
        assert [error.message for error in _ocsf_schema(to_ocsf(one)["class_uid"]).iter_errors(to_ocsf(one))] == []
    broken = to_ocsf(event(capability=capability, target=target)) | {"activity_id": 77}
    assert list(_ocsf_schema(broken["class_uid"]).iter_errors(broken))


@functools.cache
def _ocsf_schema(class_uid: int) -> Any:
    from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

    from pyisolate.telemetry.ocsf import OCSF_VERSION

    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=OCSF_VERSION))
    name = schema.lookup_class_name_from_uid(class_uid)
    return jsonschema.Draft202012Validator(schema.get_class_schema(name, ["security_control", "host"]))


def test_the_suites_own_watch_finds_what_does_not_fit() -> None:
    recorder = Recorder(metrics=Metrics(), sinks=(), alerts=None)
    recorder.record(event(target="/fits"))
    assert every_event.WATCH.wrong == []
    seen = len(every_event.WATCH.kinds)
    recorder.record(msgspec.structs.replace(event(), kernel_errno="none", origin=None))
    found, every_event.WATCH.wrong = every_event.WATCH.wrong, []
    assert "kernel_errno" in found[0]
    assert len(every_event.WATCH.kinds) == seen + 1
    recorder.shutdown()
