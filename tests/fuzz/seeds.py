"""Inputs to begin with, made from the code so that they never go out of date, and words that inputs are made of."""

from __future__ import annotations

import datetime
import decimal
import fractions
import json
import uuid

import msgspec

from pyisolate.capability import Capability
from pyisolate.cell import values, wire
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.policy.load import load_preset
from pyisolate.records import BrokerRecord, SandboxContext
from pyisolate.telemetry.merge import merge

RECORD = BrokerRecord(
    sequence=7, capability=Capability.FS_READ, target="/etc/shadow", verdict=Verdict.DENY, code=DenialCode.NOT_GRANTED
)
CONTEXT = SandboxContext(
    sandbox="fuzz", sandbox_id="f" * 16, policy="p", policy_version="v", policy_generation=1, isolation="process",
    mode=Mode.ENFORCE,
)  # fmt: skip
ASKED = 0x71 << 56  # the number of the request that `plain_answer` is for
ANSWER = wire.encode(wire.Done(id=ASKED, encoded=b"\x93\x01\xa1a\x81\x02\xcb@@@@@@@@", duration_s=0.5))
POLICY = b"""\
version: 1
name: report
extends: compute
mode: enforce
fs:
  - {path: /srv/data, allow: [read]}
  - {path: "/srv/data/private", deny: [read]}
net:
  - {connect: "10.0.0.0/8:443"}
  - {connect: "[2001:db8::1]:80-90"}
  - {bind: "127.0.0.1:0"}
process:
  - {exec: /usr/bin/git}
  - fork
import: {allow: [json, "numpy.*"], native: [numpy]}
limits: {wall: 30s, cpu: 10s, memory: 256MiB, processes: 16, open_files: 64, output: 1MiB, messages: 1000}
"""
TOML = b"""\
version = 1
name = "report"
[[fs]]
path = "/srv/data"
allow = ["read"]
[limits]
wall = "30s"
memory = 268435456
"""
POLICY_WORDS = (
    "version: 1\n|name|mode|enforce|monitor|fs|net|process|import|random|limits|path|allow|deny|connect|bind|exec|fork|"
    "native|modes|extends|seed|wall|memory|read|write|create|delete|metadata|literal|/srv/../x|*:1|[::1]:1|10.0.0.0/8:|"
    "1e9|true|null|~|&a|*a|!!int|compute|@interpreter|5s|1MiB|[[|]]|{|}|- |\n  |\\u0000|0x1|\xff"
)


def frames() -> tuple[bytes, ...]:
    made = (
        wire.Warm(steps=("a",)), wire.Ready(steps=("a",), failed=(("b", "why"),)), wire.Reloaded(id=1),
        wire.Done(id=1, encoded=msgspec.msgpack.encode({"a": [1, 2.5, None, True, b"x", "y"]}), is_repr=True),
        wire.Failed(id=1, type_name="E", message="m", traceback="t", sequence=1, errno=13),
        wire.GuestMessage(encoded=msgspec.msgpack.encode([[[]], {}, 1 << 63, -1])), wire.Denial(record=RECORD),
        wire.Shown(kind="execute_result", text={"a": "b"}, data={"c": b"d"}, metadata={"a": {"e": 1.5}}),
        wire.GaveUp(id=7),
        wire.HostCall(id=7, name="search", arguments=msgspec.msgpack.encode([["q"], {"limit": 3}])),
    )  # fmt: skip
    return tuple(wire.encode(frame)[wire.HEADER.size :] for frame in made)


def tagged_values() -> tuple[bytes, ...]:
    made = (
        {1 << 70, (1, "\ud800")}, frozenset({b"x"}), {(1, 2): decimal.Decimal("1.5")}, fractions.Fraction(1, 3),
        datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC), datetime.date(2020, 1, 2), datetime.time(3, fold=1),
        datetime.timedelta(1, 2, 3), uuid.UUID(int=1), 1 + 2j, bytearray(b"x"), values.Record(a=(1, None)),
    )  # fmt: skip
    encoded = tuple(values.encode(one)[0].removeprefix(values.TAGGED) for one in made)
    arrays = (["numpy", "<i4", 2, b"\0" * 8], ["numpy", "<f8", None, b"\0" * 8], ["numpy", "<M8[ns]", 0, b""])
    names, rows = ["index", ["list", None], ["list", "a"]], ["index", ["list", None], ["list", 0]]
    frame = (
        ["frame", names, rows, ["list", 1]], ["series", "a", rows, ["list", 1]],
        ["index", ["list", "a", "b"], ["list", ["tuple", 1, 2]]], ["typed", "Int64", ["list", 1, None]],
        ["category", ["numpy", "|i1", 1, b"\0"], ["list", "a"], True],
        ["table", "polars", ["list", "a"], ["list", "Date", ["list", 1]]],
        ["table", "arrow", ["list", "a"], ["list", "timestamp[us, tz=UTC]", ["list", 1]]],
    )  # fmt: skip
    return (*encoded, *(msgspec.msgpack.encode(one) for one in (*arrays, *frame, ["record", "P", "x", 1])))


def conversations() -> tuple[bytes, ...]:
    warm, handout, ready, request = b"\xff\x00\x00\x00", b"\x01", b"\xff\x01\x00\x00\x00", b"\x00"
    done, denial, reload, reloaded = b"\xff\x02\x01\x00", b"\xff\x05\x01\x01x", b"\x02", b"\xff\x07\x02"
    life = warm + handout + ready + request + denial + done
    return (life, warm + handout + ready + request + reload + reloaded + done, life + denial + b"\x60\x02\x01\x03")


def records() -> tuple[bytes, ...]:
    full = BrokerRecord(
        sequence=1, capability=Capability.NET_CONNECT, target="10.0.0.1:443", verdict=Verdict.DENY,
        code=DenialCode.SCOPE_INSUFFICIENT, reason="why", rule="r", presented="p", origin="<x>:1 in f", pid=2,
        tid=3, monotonic_ns=4, count=5, errno=13, syscall="connect", shadow=False,
    )  # fmt: skip
    return tuple(msgspec.msgpack.encode(record) for record in (RECORD, full))


def policies() -> tuple[bytes, ...]:
    names = ("compute", "data", "none", "readonly", "shell", "web-client", "web-names")
    made = [load_preset(name) for name in names]
    texts = [b"\x00" + one.to_yaml().encode() for one in made]
    texts += [b"\x02" + json.dumps(one.to_dict()).encode() for one in made[:2]]
    return (*texts, b"\x00" + POLICY, b"\x01" + TOML)


def logs() -> tuple[bytes, ...]:
    lines = [merge(CONTEXT, RECORD, None).to_json().encode() for _ in range(2)]
    return (
        b"\x0f" + lines[0] + b"\n" + lines[1] + b"\n",
        b"\xff" + lines[0][:200] + b"\n" + lines[1] + b"\nforeign\n\n{}\n" + lines[0],
    )
