"""Frames and tables travel column by column, and arrive with their types; hostile ones are refused."""

from __future__ import annotations

import datetime
import decimal
import importlib.util
import sys
from typing import Any

import msgspec
import pytest

from pyisolate.cell import tables, values, wire

if importlib.util.find_spec("polars") is not None:  # the threads that it starts once are no test's
    importlib.import_module("polars").DataFrame({"a": [1], "b": [2]}).with_columns(c=1).to_arrow()


def trip(value: Any) -> Any:
    encoded, replaced = values.encode(value, values.represent)
    assert not replaced
    return wire.decode_value(encoded)


def pandas_frame(pandas: Any) -> Any:
    zoned = pandas.date_range("2020-03-29", periods=3, freq="h", tz="Europe/Berlin")
    return pandas.DataFrame(
        {
            "int": pandas.array([1, None, 3], dtype="Int64"),
            "small": pandas.array([1, None, 3], dtype="UInt8"),
            "bool": pandas.array([True, None, False], dtype="boolean"),
            "float": [1.5, float("nan"), 2.5],
            "text": ["a", "b", "c"],
            "string": pandas.array(["a", None, "c"], dtype="string"),
            "kind": pandas.Categorical(["x", None, "y"], categories=["y", "x", "z"], ordered=True),
            "zoned": zoned,
            "fixed": zoned.tz_convert("UTC+01:00"),
            "naive": pandas.date_range("2020", periods=3),
            "took": pandas.to_timedelta([1, 2, 3], unit="s"),
        },
        index=pandas.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["p", "q"]),
    )


def test_a_frame_of_pandas_keeps_its_types_names_and_index() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas_frame(pandas)
    pandas.testing.assert_frame_equal(trip(frame), frame)
    for column in frame:
        pandas.testing.assert_series_equal(trip(frame[column]), frame[column])
    wide = pandas.DataFrame([[1, 2]], columns=pandas.MultiIndex.from_tuples([(1, "a"), (1, "b")]))
    pandas.testing.assert_frame_equal(trip(wide), wide)
    named = pandas.Series([1], index=pandas.Index(["k"], name="key"), name="n")
    pandas.testing.assert_series_equal(trip(named), named)
    pandas.testing.assert_frame_equal(trip(pandas.DataFrame()), pandas.DataFrame())
    assert trip([pandas.NA, pandas.NaT, 1]) == [None, None, 1]
    pandas.testing.assert_index_equal(trip(named.index), named.index)


def test_tables_of_polars_and_arrow_keep_their_types() -> None:
    polars = pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    moment = datetime.datetime(2020, 1, 2, 3)
    frame = polars.DataFrame(
        {"int": [1, None], "float": [1.5, 2.5], "text": ["a", None], "when": [moment, None], "day": [moment.date()] * 2,
         "time": [moment.time()] * 2, "took": [datetime.timedelta(1)] * 2, "list": [[1], [2, None]],
         "raw": [b"a", b"b"], "yes": [True, None], "exact": [decimal.Decimal("1.50")] * 2, "deep": [{"x": 1}, {"x": 2}]}
    ).with_columns(
        polars.col("when").dt.replace_time_zone("Europe/Berlin").alias("zoned"), polars.col("int").cast(polars.UInt8)
    )  # fmt: skip
    found = trip(frame)
    assert found.equals(frame)
    assert found.schema == frame.schema
    assert trip(frame["zoned"]).equals(frame["zoned"])
    table = frame.drop("list", "exact", "deep").to_arrow()
    assert trip(table).equals(table)
    assert trip(frame.to_arrow()).to_pylist() == frame.to_arrow().to_pylist()
    assert trip(arrow.chunked_array([["a"], [None]])).equals(arrow.array(["a", None]))
    assert trip(arrow.array(["a", "a"]).dictionary_encode()).to_pylist() == ["a", "a"]


def test_a_masked_array_does_not_show_what_it_masks() -> None:
    numpy = pytest.importorskip("numpy")
    assert trip(numpy.ma.array([1, 2], mask=[False, True])) == [1, None]


@pytest.mark.parametrize("missing", ["pandas", "polars", "pyarrow"])
def test_without_the_library_columns_arrive_by_name(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip(missing)
    if missing == "pyarrow":
        value = library.table({"a": [1, None], "b": ["x", "y"]})
    else:
        value = library.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    encoded = [values.encode(one)[0] for one in (value, value["a"])]
    monkeypatch.setitem(sys.modules, missing, None)
    frame, column = map(wire.decode_value, encoded)
    assert list(frame["b"]) == ["x", "y"]
    assert list(column) in ([1, 2], [1, None])


ROWS = ["index", ["list", None], ["list", 0]]
NAMES = ["index", ["list", None], ["list", "a"]]


@pytest.mark.parametrize(
    "form",
    [
        ["frame"], ["frame", NAMES, ROWS], ["frame", 1, 2], ["frame", NAMES, ROWS, ["list"]],
        ["frame", NAMES, ROWS, ["numpy", "<i8", 1, 1, b"\0" * 8]], ["frame", NAMES, ROWS, 1],
        ["series", "a", ROWS, ["list"]], ["series", ["list"], ROWS, ["list", 1]], ["series"],
        ["index"], ["index", ["list"], ["list", 1]], ["index", 1, ["list", 1]],
        ["index", ["list", "a", "b"], ["list", ["tuple", 1]]], ["index", ["list", "a", "b"], ["list", 1]],
        ["typed", "object", ["list", 1]], ["typed", "Int64", ["list", "x"]], ["typed", 1, ["list", 1]],
        ["typed", "datetime64[ns, dateutil//etc/passwd]", ["numpy", "<M8[ns]", 1, b"\0" * 8]],
        ["typed", "datetime64[ns, ../../etc/passwd]", ["numpy", "<M8[ns]", 1, b"\0" * 8]],
        ["typed", "datetime64[ns, No/Where]", ["numpy", "<M8[ns]", 1, b"\0" * 8]],
        ["typed", "datetime64[ns, UTC]", ["list", "x"]],
        ["category", ["list", 5], ["list", "a"], False], ["category", ["list", 0], ["list", "a", "a"], False],
        ["category", ["list", "x"], ["list", "a"], False], ["category", 1, 2, 3],
        ["table"], ["table", "polars", 1], ["table", "pickle", ["list"]], ["table", ["list"], ["list"]],
        ["table", "polars series", ["list"]], ["table", "arrow array", ["list"]],
        ["table", "polars", ["list", 1], ["list", None, ["list", 1]]],
        ["table", "polars", ["list", "a", "a"], ["list", None, ["list", 1]], ["list", None, ["list", 1]]],
        ["table", "polars", ["list", "a"], ["list", "Object", ["list", 1]]],
        ["table", "polars", ["list", "a"], ["list", "Int8", ["list", 1 << 40]]],
        ["table", "polars", ["list", "a"], ["list", "Datetime(time_unit='us', time_zone='No/Where')", ["list", 1]]],
        ["table", "arrow", ["list", "a"], ["list", "int8", ["list", 1 << 40]]],
        ["table", "arrow", ["list", "a"], ["list", "extension<x>", ["list", 1]]],
        ["table", "arrow", ["list", "a"], ["list", "timestamp[us, tz=No/Where]", ["list", "x"]]],
        ["table", "arrow", ["list", "a"], ["list", "date32[us]", ["list", 1]]],
    ],
    ids=repr,
)  # fmt: skip
def test_a_hostile_table_is_a_protocol_error(form: list[Any]) -> None:
    for name in ("pandas", "polars", "pyarrow"):
        pytest.importorskip(name)
    with pytest.raises(wire.WireError):
        wire.decode_value(values.TAGGED + msgspec.msgpack.encode(form))


def test_a_panic_of_a_library_is_a_value_error() -> None:
    class PanicException(BaseException):
        pass

    def fail(error: BaseException) -> Any:
        raise error

    with pytest.raises(ValueError, match="Panic"):
        tables.made(lambda: fail(PanicException("x")))
    with pytest.raises(KeyboardInterrupt):
        tables.made(lambda: fail(KeyboardInterrupt()))
