"""Values keep their type on the wire; what is hostile is an error before it is decoded."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import pickle
import sys
import uuid
from typing import Any

import msgspec
import pytest

import pyisolate
from pyisolate.cell import values, wire
from pyisolate.sandbox.result import Result


@dataclasses.dataclass
class Point:
    x: int
    y: object


class Colour(enum.Enum):
    RED = "red"


KEPT = (
    2**100, -(2**63) - 1, 2**64, {1, 2}, frozenset({(1,)}), (1, (2, [3])), {(1, 2): 3}, decimal.Decimal("1.10"),
    datetime.datetime(2024, 1, 2, 3, 4, 5, 6, fold=1), datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    datetime.date(2024, 1, 2), datetime.time(1, 2), datetime.timedelta(1, 2, 3), uuid.UUID(int=7), 1 + 2j,
    fractions.Fraction(1, 3), "\ud83c", b"x", bytearray(b"x"), [None, True, 1.5, "\xe9", {"a": [(1,)]}],
)  # fmt: skip


@pytest.mark.parametrize("value", KEPT, ids=repr)
def test_a_value_keeps_its_type(value: object) -> None:
    encoded, replaced = values.encode(value)
    found = wire.decode_value(encoded)
    assert found == value
    assert type(found) is type(value)
    assert not replaced


def test_data_of_a_guests_own_class_arrives_as_data() -> None:
    assert wire.decode_value(values.encode(Colour.RED)[0]) == "red"
    point = wire.decode_value(values.encode(Point(1, Colour.RED))[0])
    assert (point, point.x, point.type_name) == ({"x": 1, "y": "red"}, 1, "Point")
    for again in (pickle.loads(pickle.dumps(point)), copy.copy(point)):
        assert (again, again.type_name) == (point, "Point")
    named = collections.namedtuple("named", "a b")
    assert wire.decode_value(values.encode(named(1, 2))[0]) == (1, 2)


def test_nanoseconds_are_not_lost_without_a_word() -> None:
    pandas = pytest.importorskip("pandas")
    for value in (pandas.Timestamp("2020-01-01T00:00:00.123456789"), pandas.Timedelta(1)):
        for sent in (value, [value]):
            encoded, replaced = values.encode(sent, repr)
            assert (replaced, repr(value) in str(wire.decode_value(encoded))) == (True, True)
        with pytest.raises(TypeError, match="no form of its own"):
            values.encode(value)
    for exact in (pandas.Timestamp("2020-01-01T00:00:00.123456"), pandas.Timedelta(1000)):  # the control
        encoded, replaced = values.encode(exact, repr)
        assert (wire.decode_value(encoded) == exact, replaced) == (True, False)


def test_numpy_and_pandas_arrive_as_they_are() -> None:
    numpy = pytest.importorskip("numpy")
    for array in (numpy.arange(6).reshape(2, 3), numpy.array(["a", "bc"]), numpy.zeros((0, 3)), numpy.array(5)):
        found = wire.decode_value(values.encode(array)[0])
        assert numpy.array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert type(wire.decode_value(values.encode(numpy.float32(2.5))[0])) is numpy.float32
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"], "t": pandas.to_datetime(["2020", "2021"])}, index=[5, 6])
    pandas.testing.assert_frame_equal(wire.decode_value(values.encode(frame)[0]), frame)
    for index in (
        pandas.DatetimeIndex(["2020", "2021"], tz="UTC"),
        pandas.to_timedelta([1, 2]),
        pandas.Index([(1, "a"), (2, "b")], tupleize_cols=False),
        pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")]),
        pandas.DataFrame({"a": [1, 1, 2]}).value_counts().index,  # of one level
        pandas.MultiIndex.from_tuples([], names=["a", "b"]),
    ):
        pandas.testing.assert_index_equal(wire.decode_value(values.encode([index])[0])[0], index)


def test_one_odd_leaf_does_not_turn_the_whole_into_text() -> None:
    encoded, replaced = values.encode({"a": (1, object)}, values.represent)
    assert replaced
    assert wire.decode_value(encoded) == {"a": (1, "<class 'object'>")}
    with pytest.raises(TypeError, match="not plain data"):
        values.encode([object])


MODULUS = sys.hash_info.modulus


@pytest.mark.parametrize("kind", ["dict", "set", "frozenset"])
def test_keys_that_a_guest_made_collide_are_a_protocol_error(kind: str) -> None:
    numbers = [number * MODULUS for number in range(1, 2000)]
    parts = [part for number in numbers for part in ([["int", values._int_bytes(number)]] + [0] * (kind == "dict"))]
    with pytest.raises(wire.WireError, match="collide"):
        wire.decode_value(values.TAGGED + msgspec.msgpack.encode([kind, *parts]))
    pytest.importorskip("pandas")
    index = ["index", ["list", "a", "b"], ["list", *(["tuple", part, "x"] for part in parts if part)], None]
    categories = ["category", ["list", 0], ["list", *(part for part in parts if part)], False]
    for form in (index, categories):
        with pytest.raises(wire.WireError, match="collide"):
            wire.decode_value(values.TAGGED + msgspec.msgpack.encode(form))


def test_a_plain_map_has_few_numbers_as_keys() -> None:
    many = {number * 1000: None for number in range(1, 65)}
    assert wire.decode_value(msgspec.msgpack.encode(many)) == many
    with pytest.raises(wire.WireError, match="64 numbers as keys"):
        wire.decode_value(msgspec.msgpack.encode(many | {1 << 20: None}))


@pytest.mark.parametrize("step", [1, -1, 1 << 10, 1 << 32, 1 << 50, 0.25, 1 / 7, 2.0**300, decimal.Decimal("0.1")])
def test_honest_numbers_are_keys(step: Any) -> None:
    keys = [number * step for number in range(3000)]
    for value in (dict.fromkeys(keys), set(keys), {(key, key) for key in keys}):
        assert wire.decode_value(values.encode(value)[0]) == value


def test_a_result_prints_whatever_its_value_is() -> None:
    written = {"stdout": "", "stderr": "", "duration": 0.0}
    assert repr(Result(value=1, **written)) == "Result(stdout='', stderr='', value=1, duration=0.0)"
    shown = repr(Result(value=[10**5000], **written))
    assert shown == "Result(stdout='', stderr='', value='<list: its repr raised ValueError>', duration=0.0)"


def test_what_is_too_deep_is_its_repr_or_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: dict[str, Any] = {}
    for _ in range(values.MAX_DEPTH):
        deep = {"a": deep}
    for value in (loop, deep):
        encoded, replaced = values.encode(value, values.represent)
        assert (wire.decode_value(encoded), replaced) == (repr(value), True)
        with pytest.raises(ValueError, match="nested deeper") as caught:
            values.encode(value)
        assert str(type(caught.value)("post: list: too deep")) == "post: list: too deep"  # as `post` names the value


@pytest.mark.parametrize(
    "form",
    [
        {}, [], ["no"], [["list"]], [1], ["int", 1], ["int", b"1", b"1"], ["dict", 1], ["dict", ["list"], 1],
        ["set", ["list"]], ["record"], ["record", 1], ["record", "P", 1, 2], ["decimal", "x"], ["uuid", b"1"],
        ["fraction", b"\1", b"\0"], ["fraction", b"\1" * 300, b"\1" * 300], ["timedelta", 1 << 60, 0, 0],
        ["datetime", "x", 0], ["datetime", "2020-01-01", 7], ["time", "01:02", "0"], ["numpy", "|O", 1, b"\0" * 8],
        ["numpy", "<i8", 1 << 39, b"\0" * 8], ["numpy", "<i8", -1, b""], ["numpy", "|S0", 1 << 30, 1 << 30, b""],
        ["numpy", "<i8", None, 1, b"\0" * 8],
        ["as"], ["as", {}],
    ],
    ids=repr,
)  # fmt: skip
def test_a_hostile_form_is_a_protocol_error(form: object) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_value(values.TAGGED + msgspec.msgpack.encode(form))


@pytest.mark.parametrize(
    "error",
    [
        pyisolate.GuestError("ValueError", "m", "trace"),
        pyisolate.TimeoutError("t", limit="wall", used=1, allowed=2, hint="h"),
        pyisolate.PolicyError("p", hint="h"),
        pyisolate.PolicySyntaxError("s", file="f", line=3, hint="h"),
        pyisolate.SandboxDied("d", signal=9, last_words="w"),
    ],
    ids=repr,
)
def test_an_error_crosses_processes(error: pyisolate.SandboxError) -> None:
    error.stdout = "out"
    error.add_note("note")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(found), str(found), found.__dict__) == (type(error), str(error), error.__dict__)
