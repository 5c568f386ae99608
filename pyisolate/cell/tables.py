"""Tables as data: frames of pandas and polars, and tables of Arrow, column by column.

A column travels as the numbers or values that it holds, with the name of its type. No parser of a file format reads
what a guest sent: the host makes columns from values that are decoded already, of types that are listed here.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..native.hashes import collide

Tag = Callable[[Any], Any]

#: Of other values than text; pandas compares each with all before it where their hashes collide.
_MOST_CATEGORIES = 4096

#: Kinds of numpy element that are plain memory: no objects, no structures (numpy.dtype.str).
DTYPE = re.compile(r"[<>|][biufcSUmM][0-9]{1,6}(\[[0-9]{0,6}[a-zA-Z]{1,2}\])?")
#: Names of zones only; pandas would open `dateutil/PATH` as a file.
_ZONE = r"(?:UTC(?:[+-]\d\d:\d\d)?|(?!dateutil)[A-Za-z]+(?:/[A-Za-z0-9_+-]+){0,2})"
_PANDAS_TYPE = re.compile(r"U?Int(?:8|16|32|64)|Float(?:32|64)|boolean|string")
_PANDAS_ZONED = re.compile(rf"datetime64\[(?:s|ms|us|ns), ({_ZONE})\]")
_POLARS_TYPE = re.compile(r"U?Int(?:8|16|32|64)|Float(?:32|64)|Boolean|String|Binary|Null|Date|Time")
_POLARS_TIME = re.compile(rf"(Datetime|Duration)\(time_unit='(ms|us|ns)'(?:, time_zone=(?:None|'({_ZONE})'))?\)")
_ARROW_TYPE = re.compile(r"u?int(?:8|16|32|64)|halffloat|float|double|bool|null|(?:large_)?(?:string|binary)")
_ARROW_TIME = re.compile(rf"(?:date|time|timestamp|duration)(32|64)?\[(day|s|ms|us|ns)(?:, tz=({_ZONE}))?\]")


def library(name: str) -> Any:
    """Return a library of the host's, None where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def tabled(value: Any, tag: Tag) -> list[Any] | None:
    """Return the form of a table, column, or mark of a missing value; None for anything else."""
    if (pandas := sys.modules.get("pandas")) is not None and (found := _of_pandas(value, pandas, tag)) is not None:
        return found
    if (polars := sys.modules.get("polars")) is not None:
        if isinstance(value, polars.DataFrame):
            return ["table", "polars", tag(value.columns), *(_of_polars(one, polars, tag) for one in value)]
        if isinstance(value, polars.Series):
            return ["table", "polars series", tag([value.name]), _of_polars(value, polars, tag)]
    if (arrow := sys.modules.get("pyarrow")) is not None:
        if isinstance(value, arrow.Table | arrow.RecordBatch):
            return ["table", "arrow", tag(value.schema.names), *(_of_arrow(one, arrow, tag) for one in value.columns)]
        if isinstance(value, arrow.Array | arrow.ChunkedArray):
            return ["table", "arrow array", tag([""]), _of_arrow(value, arrow, tag)]
    return None


# -- out ------------------------------------------------------------------------------------------------------


def _of_pandas(value: Any, pandas: Any, tag: Tag) -> list[Any] | None:
    if isinstance(value, pandas.DataFrame):
        columns = (_pandas_column(value.iloc[:, at], pandas, tag) for at in range(value.shape[1]))
        return ["frame", *(_pandas_index(one, pandas, tag) for one in (value.columns, value.index)), *columns]
    if isinstance(value, pandas.Series):
        index, column = _pandas_index(value.index, pandas, tag), _pandas_column(value, pandas, tag)
        return ["series", tag(value.name), index, column]
    if isinstance(value, pandas.Index):
        return _pandas_index(value, pandas, tag)
    return ["as", None] if value is pandas.NA or value is pandas.NaT else None


def _pandas_index(index: Any, pandas: Any, tag: Tag) -> list[Any]:
    levels = isinstance(index, pandas.MultiIndex)
    return ["index", tag(list(index.names)), _pandas_column(index, pandas, tag), *(None,) * levels]


def _pandas_column(column: Any, pandas: Any, tag: Tag) -> Any:
    if isinstance(column, pandas.MultiIndex):
        return tag(column.tolist())
    dtype, values = column.dtype, column.array
    if isinstance(dtype, pandas.CategoricalDtype) and not _by_numbers(dtype.categories):
        return ["category", tag(values.codes), tag(list(values.categories)), bool(values.ordered)]
    if isinstance(dtype, pandas.DatetimeTZDtype) and _PANDAS_ZONED.fullmatch(str(dtype)):
        return ["typed", str(dtype), tag(values.tz_convert("UTC").tz_localize(None).to_numpy())]
    if DTYPE.fullmatch(getattr(dtype, "str", "")):
        return tag(column.to_numpy())
    if _PANDAS_TYPE.fullmatch(str(dtype)):
        return ["typed", str(dtype), tag(column.tolist())]
    return tag(column.tolist())


def _of_polars(column: Any, polars: Any, tag: Tag) -> list[Any]:
    name = str(column.dtype)
    if name.startswith(("Categorical", "Enum")):
        name, column = "String", column.cast(polars.String)
    if not (_POLARS_TYPE.fullmatch(name) or _POLARS_TIME.fullmatch(name)):
        return ["list", None, tag(column.to_list())]
    column = column.to_physical()
    whole = not column.null_count() and column.dtype.is_numeric() and "numpy" in sys.modules
    return ["list", name, tag(column.to_numpy() if whole else column.to_list())]


def _of_arrow(column: Any, arrow: Any, tag: Tag) -> list[Any]:
    if isinstance(column, arrow.ChunkedArray):
        column = arrow.concat_arrays(column.chunks) if column.num_chunks else arrow.array([], column.type)
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    name = str(column.type)
    if moment := _ARROW_TIME.fullmatch(name):
        return ["list", name, tag(column.view(_arrow_whole(arrow, moment)).to_pylist())]
    return ["list", name if _ARROW_TYPE.fullmatch(name) else None, tag(column.to_pylist())]


# -- in -------------------------------------------------------------------------------------------------------


def made(build: Callable[[], Any]) -> Any:
    """Return what a library makes of a guest's values. Raises ValueError for whatever it raises."""
    try:
        return build()
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how a library in Rust fails (pyo3)
            raise
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _lengths(columns: list[Any]) -> None:
    if any(getattr(column, "ndim", 1) != 1 for column in columns) or len({len(column) for column in columns}) > 1:
        raise ValueError("columns of unlike lengths")


def _by_numbers(categories: Sequence[Any]) -> bool:
    """Say whether categories are so many that comparing them takes long where a guest has chosen the numbers."""
    return len(categories) > _MOST_CATEGORIES and not all(type(one) is str for one in categories)


def spread(keys: Sequence[Any], *, in_set: bool = False) -> None:
    """Raise ValueError for keys whose hashes collide, TypeError for what has none. Not for keys that repeat."""
    if collide(keys, in_set=in_set):
        raise ValueError("keys whose hashes collide")


def index(found: list[Any]) -> Any:
    """Return an index of pandas, of names and values, and None for one of levels; without pandas, its values."""
    if len(found) < 2 or type(found[0]) is not list or not found[0] or found[2:] not in ([], [None]):
        raise ValueError("an index needs names and values")
    names, values = found[:2]
    if not found[2:] and len(names) > 1:
        raise ValueError("several names of an index without levels")
    if (pandas := library("pandas")) is None:
        return values
    if found[2:]:
        return made(lambda: _multi_index(pandas, values, names))
    return made(lambda: pandas.Index(values, name=names[0], tupleize_cols=False))


def _multi_index(pandas: Any, values: list[tuple[Any, ...]], names: list[Any]) -> Any:
    """Return `MultiIndex.from_tuples`, whose tables of numbers collide as a guest likes: sorted levels need none."""
    if not values:
        return pandas.MultiIndex.from_tuples(values, names=names)
    levels, codes = [], []
    for column in zip(*values, strict=True):
        different = list({repr(one): one for one in column if one is not None and one == one}.values())
        spread(different)
        places = dict.fromkeys(different)
        with contextlib.suppress(TypeError):  # of kinds that have no order: then pandas goes by the values' own hashes
            places = dict.fromkeys(sorted(different))
        levels.append(list(places))
        places.update(zip(places, range(len(places)), strict=True))
        codes.append([-1 if one is None or one != one else places[one] for one in column])
    return pandas.MultiIndex(levels, codes, names=names)


def frame(found: list[Any]) -> Any:
    """Return a frame of pandas, of columns' names, index and columns; where pandas is missing, columns by name."""
    if len(found) < 2 or len(found[0]) != len(found) - 2:
        raise ValueError("a frame needs a name for each column")
    names, rows, *columns = found
    _lengths([rows, *columns])
    if (pandas := library("pandas")) is None:
        spread(list(names))
        return dict(zip(names, columns, strict=True))

    def build() -> Any:
        if any(isinstance(column, pandas.Series | pandas.DataFrame) for column in columns):
            raise ValueError("a column with an index of its own")
        table = pandas.DataFrame(dict(enumerate(columns)), index=rows)
        table.columns = names
        return table

    return made(build)


def series(found: list[Any]) -> Any:
    """Return a series of pandas, of name, index and values; where pandas is missing, the values."""
    if len(found) != 3:
        raise ValueError("a series needs name, index and values")
    name, rows, column = found
    _lengths([rows, column])
    pandas = library("pandas")
    return column if pandas is None else made(lambda: pandas.Series(column, index=rows, name=name))


def typed(found: list[Any]) -> Any:
    """Return an array of pandas, of a type's name and values; where pandas is missing, the values."""
    if len(found) != 2 or type(found[0]) is not str:
        raise ValueError("a column needs its type")
    name, values = found
    zoned = _PANDAS_ZONED.fullmatch(name)
    if not zoned and not _PANDAS_TYPE.fullmatch(name):
        raise ValueError("a type that is not listed")
    if (pandas := library("pandas")) is None:
        return values
    if zoned:
        return made(lambda: pandas.array(values).tz_localize("UTC").tz_convert(zoned[1]))
    return made(lambda: pandas.array(values, dtype=name))


def category(found: list[Any]) -> Any:
    """Return categories of pandas, of codes, values and their order; where pandas is missing, each row's value."""
    if len(found) != 3 or type(found[1]) is not list or type(found[2]) is not bool:
        raise ValueError("categories need codes and values")
    codes, values, ordered = found
    if _by_numbers(values):
        raise ValueError(f"more than {_MOST_CATEGORIES} categories that are no text")
    spread(values)
    if (pandas := library("pandas")) is not None:
        return made(lambda: pandas.Categorical.from_codes(codes, values, ordered=ordered))
    return made(lambda: [values[code] if code >= 0 else None for code in codes])


def table(found: list[Any]) -> Any:
    """Return a table of polars or Arrow, of its kind, names, and a type and values for each column.

    Where the library is missing: columns by name.
    """
    if len(found) < 2 or type(found[1]) is not list or len(found[1]) != len(found) - 2:
        raise ValueError("a table needs a name for each column")
    kind, names, *columns = found
    build = _TABLES.get(kind) if isinstance(kind, str) else None
    if build is None or not all(type(one) is list and len(one) == 2 for one in columns):
        raise ValueError("a table needs a known kind, and columns of type and values")
    _lengths([values for _, values in columns])
    if not all(type(name) is str for name in names) or not all(type(name) in (str, type(None)) for name, _ in columns):
        raise ValueError("a table whose names are no text")
    if (loaded := library("polars" if kind.startswith("polars") else "pyarrow")) is None:
        plain = [values for _, values in columns]
        return dict(zip(names, plain, strict=True)) if " " not in kind else plain[0]
    return made(lambda: build(loaded, names, columns))


def _polars_column(polars: Any, name: str, column: list[Any]) -> Any:
    text, values = column
    if text is None:
        return polars.Series(name, values)
    if moment := _POLARS_TIME.fullmatch(text):
        kind, unit, zone = moment.groups()
        dtype = polars.Duration(unit) if kind == "Duration" else polars.Datetime(unit, zone)
        return polars.Series(name, values, dtype=polars.Int64).cast(dtype)
    if not _POLARS_TYPE.fullmatch(text):
        raise ValueError("a type that is not listed")
    if text in ("Date", "Time"):
        whole = polars.Int32 if text == "Date" else polars.Int64
        return polars.Series(name, values, dtype=whole).cast(getattr(polars, text))
    return polars.Series(name, values, dtype=getattr(polars, text))


def _polars_frame(polars: Any, names: list[str], columns: list[Any]) -> Any:
    return polars.DataFrame([_polars_column(polars, name, one) for name, one in zip(names, columns, strict=True)])


def _arrow_whole(arrow: Any, moment: re.Match[str]) -> Any:
    return arrow.int32() if moment[1] == "32" else arrow.int64()


def _arrow_column(arrow: Any, column: list[Any]) -> Any:
    text, values = column
    if text is None:
        return arrow.array(values)
    if moment := _ARROW_TIME.fullmatch(text):
        kind = arrow.timestamp(moment[2], moment[3]) if moment[3] else arrow.type_for_alias(text)
        return arrow.array(values, _arrow_whole(arrow, moment)).view(kind)
    if not _ARROW_TYPE.fullmatch(text):
        raise ValueError("a type that is not listed")
    return arrow.array(values, arrow.type_for_alias(text))


def _arrow_table(arrow: Any, names: list[str], columns: list[Any]) -> Any:
    return arrow.table([_arrow_column(arrow, one) for one in columns], names=names)


_TABLES: dict[str, Callable[[Any, list[str], list[Any]], Any]] = {
    "polars": _polars_frame,
    "polars series": lambda polars, names, columns: _polars_column(polars, names[0], columns[0]),
    "arrow": _arrow_table,
    "arrow array": lambda arrow, _names, columns: _arrow_column(arrow, columns[0]),
}
