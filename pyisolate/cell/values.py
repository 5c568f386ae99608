"""Values on the wire, in both directions: plain data as msgpack, and forms for the types that msgpack has not.

Plain data (None, bool, int of 64 bits, float, str, bytes, list, dict) is encoded as it is. Any other value is encoded
whole in tagged form after the byte `TAGGED`: every container is a list whose first item names its form. Nothing of it
names code, and no form is unpickled. Sizes and depth are measured before a byte is decoded.
"""

from __future__ import annotations

import array
import dataclasses
import datetime
import decimal
import enum
import fractions
import math
import sys
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..native.hashes import SECRET_HASHES
from ..native.msgpack import MAX_NUMBER_KEYS, Unfit, measure
from . import tables

#: First byte of a value in tagged form; msgpack never uses it.
TAGGED = b"\xc1"
#: Largest value on the wire, and as Python objects (bytes); tagged form is decoded twice, hence its smaller share.
MAX_VALUE_BYTES = (16 << 20) - (1 << 10)
MAX_DECODED_BYTES = 256 << 20
_MAX_TAGGED_DECODED_BYTES = MAX_DECODED_BYTES // 4
#: Nesting of a value; deeper is refused, so that host code may recurse over it.
MAX_DEPTH = 64
#: Plain data of so many bytes on the wire takes less than `MAX_DECODED_BYTES`: two bytes, a dict's entry, take 164.
_SURELY_FITS_BYTES = 1 << 20
_REPR_LIMIT_CHARS = 4096
#: A fraction's parts are reduced by Euclid's algorithm, which takes the square of their length.
_MAX_FRACTION_BYTES = 256
_LEAVES = frozenset({type(None), bool, int, float, str, bytes})

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()

Represent = Callable[[Any], str]


class TooDeep(ValueError):
    """A value is nested deeper than any may be, maybe in itself."""

    def __init__(self, text: str = f"it is nested deeper than {MAX_DEPTH}") -> None:
        super().__init__(text)  # callers raise it again with the name of the value


class Record(dict[str, Any]):
    """A guest's dataclass instance as data: its fields by name, also as attributes. `type_name` is the class's name."""

    type_name = ""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{self.type_name or 'record'} has no field {name!r}") from None


def text_of(value: object) -> str:
    """Return a value's repr, or that it has none: a number of more than 4300 digits, which a guest may send, raises."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}: its repr raised {type(error).__name__}>"


def represent(value: object) -> str:
    """Return the start of a value's repr, for what has no form."""
    return text_of(value)[:_REPR_LIMIT_CHARS]


def encode(value: Any, without_form: Represent | None = None) -> tuple[bytes, bool]:
    """Encode a value; True beside it where `without_form` stood in for a part that has no form, or for all that is
    too deep (a list that holds itself).

    Raises TypeError for what has no form, ValueError for what is too large or too deep.
    """
    try:
        encoded, replaced = _encode(value, without_form)
    except TooDeep:
        if without_form is None:
            raise
        encoded, replaced = _encode(without_form(value), None)[0], True
    if len(encoded) > MAX_VALUE_BYTES:
        raise ValueError(f"{len(encoded)} bytes are over the limit of {MAX_VALUE_BYTES}: send it in parts")
    if len(encoded) > _SURELY_FITS_BYTES or encoded[:1] == TAGGED:
        check(encoded)  # else its depth was looked at, and its size cannot be too much
    return encoded, replaced


def _encode(value: Any, without_form: Represent | None) -> tuple[bytes, bool]:
    if (encoded := _encode_plain(value)) is not None:
        return encoded, False
    tagger = _Tagger(without_form)
    return TAGGED + _encoder.encode(tagger.tag(value, 1)), tagger.replaced


def check(encoded: bytes) -> None:
    """Raise ValueError unless it is one value, neither too large nor too deep to be decoded."""
    try:
        if encoded[:1] == TAGGED:
            measure(encoded[1:], max_depth=MAX_DEPTH, limit_bytes=_MAX_TAGGED_DECODED_BYTES)
        else:
            measure(encoded, max_depth=MAX_DEPTH, limit_bytes=MAX_DECODED_BYTES)
    except Unfit as error:
        raise ValueError(str(error)) from None


def decode(encoded: bytes) -> Any:
    """Decode a value that `check` has let pass. Raises TypeError, ValueError, ArithmeticError, MsgspecError."""
    if encoded[:1] == TAGGED:
        return _untag(_decoder.decode(encoded[1:]))
    return _decoder.decode(encoded)


# -- plain data -----------------------------------------------------------------------------------------------


def _encode_plain(value: Any) -> bytes | None:
    """Return the msgpack of plain data, None for anything else."""
    if not _is_plain(value, 1):
        return None
    try:
        return _encoder.encode(value)
    except (OverflowError, UnicodeEncodeError):  # an integer over 64 bits, a lone surrogate
        return None


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _LEAVES:
        return True
    if depth > MAX_DEPTH:
        raise TooDeep
    if kind is list:
        return set(map(type, value)) <= _LEAVES or all(_is_plain(item, depth + 1) for item in value)
    if kind is not dict or not (keys := set(map(type, value))) <= _LEAVES:
        return False
    if len(value) > MAX_NUMBER_KEYS and not keys <= SECRET_HASHES:
        return False  # its hashes are looked at, which tagged form allows
    items = value.values()
    return set(map(type, items)) <= _LEAVES or all(_is_plain(item, depth + 1) for item in items)


# -- tagged form, out -----------------------------------------------------------------------------------------


class _Tagger:
    def __init__(self, without_form: Represent | None) -> None:
        self._without_form = without_form
        self.replaced = False

    def tag(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is int and not -(1 << 63) <= value < 1 << 64:
            return ["int", _int_bytes(value)]
        if kind is str and not value.isascii():
            return value if _encodable(value) else ["str", value.encode("utf-8", "surrogatepass")]
        if kind in _LEAVES:
            return value
        if depth > MAX_DEPTH:
            raise TooDeep
        if (found := self._container(value, depth)) is not None or (found := _scalar(value)) is not None:
            return found
        if (found := self._of_library(value, depth)) is not None:
            return found
        if self._without_form is None:
            raise TypeError(f"{kind.__name__} is not plain data and has no form of its own")
        self.replaced = True
        return self.tag(self._without_form(value), depth)

    def _all(self, values: Iterable[Any], depth: int) -> list[Any]:
        return [self.tag(one, depth + 1) for one in values]

    def _container(self, value: Any, depth: int) -> list[Any] | None:
        if isinstance(value, enum.Enum):
            return ["as", self.tag(value.value, depth + 1)]
        if isinstance(value, dict):
            return ["dict", *self._all((part for item in dict.items(value) for part in item), depth)]
        kind: Any
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return [kind.__name__, *self._all(kind.__iter__(value), depth)]
        if isinstance(value, bytearray | memoryview):
            return ["bytearray" if isinstance(value, bytearray) else "as", bytes(value)]
        if isinstance(value, array.array):
            return ["list", *self._all(value, depth)]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._record(value, depth)
        return None

    def _record(self, value: Any, depth: int) -> list[Any]:
        fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        parts = (part for name in fields for part in (name, getattr(value, name)))
        return ["record", type(value).__name__[:200], *self._all(parts, depth)]

    def _of_library(self, value: Any, depth: int) -> list[Any] | None:
        if (numpy := sys.modules.get("numpy")) is not None:
            masked = isinstance(value, getattr(sys.modules.get("numpy.ma"), "MaskedArray", ()))
            known = isinstance(value, numpy.generic | numpy.ndarray) and tables.DTYPE.fullmatch(value.dtype.str)
            if known and not masked:
                raw = numpy.ascontiguousarray(value)
                return ["numpy", value.dtype.str, *(None,) * (not isinstance(value, numpy.ndarray)),
                        *value.shape, raw.tobytes()]  # fmt: skip
            if isinstance(value, numpy.ndarray):  # of objects, structured, or masked
                return ["as", self.tag(value.tolist(), depth)]
        return tables.tabled(value, lambda part: self.tag(part, depth + 2))


def _scalar(value: Any) -> list[Any] | None:
    """Return the form of a value without parts, None where it has none."""
    if type(value).__module__ == "numpy":
        return None  # numpy.float64 is a float, and more
    if isinstance(value, int):
        return ["int", _int_bytes(value)]
    if isinstance(value, str):
        return ["str", str.encode(value, "utf-8", "surrogatepass")]
    if isinstance(value, float | bytes):
        return ["as", float(value) if isinstance(value, float) else bytes(value)]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, decimal.Decimal):
        return ["decimal", str(value)]
    if isinstance(value, fractions.Fraction):
        parts = _int_bytes(value.numerator), _int_bytes(value.denominator)
        return ["fraction", *parts] if max(map(len, parts)) <= _MAX_FRACTION_BYTES else None
    if isinstance(value, uuid.UUID):
        return ["uuid", value.bytes]
    if isinstance(value, datetime.timedelta):
        if getattr(value, "nanoseconds", 0):
            return None
        return ["timedelta", value.days, value.seconds, value.microseconds]
    return _moment(value)


def _moment(value: Any) -> list[Any] | None:
    """Return the form of a date or time; a zone arrives as its offset.

    None for what a datetime cannot hold: pandas' NaT, and the nanoseconds of its Timestamp.
    """
    if isinstance(value, datetime.datetime):
        if type(value).__name__ == "NaTType" or getattr(value, "nanosecond", False):
            return None
        return ["datetime", datetime.datetime.isoformat(value), value.fold]
    if isinstance(value, datetime.date):
        return ["date", value.isoformat()]
    return ["time", value.isoformat(), value.fold] if isinstance(value, datetime.time) else None


def _int_bytes(number: int) -> bytes:
    return int.to_bytes(number, number.bit_length() // 8 + 1, "big", signed=True)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- tagged form, in ------------------------------------------------------------------------------------------


def _untag(form: Any) -> Any:
    if type(form) is not list:
        if type(form) is dict:
            raise ValueError("a dict in tagged form")
        return form
    if not form or type(form[0]) is not str or (build := _BUILDERS.get(form[0])) is None:
        raise ValueError("a list of no known form")
    return build(form[1:])


def _each(parts: list[Any]) -> list[Any]:
    return [_untag(part) for part in parts]


def _dict(parts: list[Any]) -> dict[Any, Any]:
    found = _each(parts)
    tables.spread(found[::2])
    return dict(zip(found[::2], found[1::2], strict=True))


def _set(parts: list[Any]) -> list[Any]:
    found = _each(parts)
    tables.spread(found, in_set=True)
    return found


def _record(parts: list[Any]) -> Record:
    if not parts or not all(type(name) is str for name in parts[::2][:1] + parts[1::2]):
        raise ValueError("a record whose names are no text")
    record = Record(_dict(parts[1:]))
    record.__dict__["type_name"] = parts[0]
    return record


def _exactly(count: int, kind: type, build: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    """Return a builder that takes so many parts of one type."""

    def checked(parts: list[Any]) -> Any:
        if len(parts) != count or any(type(part) is not kind for part in parts):
            raise ValueError(f"needs {count} {kind.__name__}")
        return build(*parts)

    return checked


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _fraction(numerator: bytes, denominator: bytes) -> fractions.Fraction:
    if max(len(numerator), len(denominator)) > _MAX_FRACTION_BYTES:
        raise ValueError("a fraction of too many digits")
    return fractions.Fraction(_signed(numerator), _signed(denominator))


def _of_time(kind: type[datetime.datetime] | type[datetime.time]) -> Callable[[list[Any]], Any]:
    def build(parts: list[Any]) -> Any:
        if [type(part) for part in parts] != [str, int]:
            raise ValueError("a time needs its text and fold")
        return kind.fromisoformat(parts[0]).replace(fold=parts[1])

    return build


def _untagged(parts: list[Any]) -> Any:
    if len(parts) != 1:
        raise ValueError("needs one part")
    return _untag(parts[0])


def _numpy(parts: list[Any]) -> Any:
    if (
        len(parts) < 2
        or type(parts[0]) is not str
        or type(parts[-1]) is not bytes
        or not tables.DTYPE.fullmatch(parts[0])
    ):
        raise ValueError("an array needs its type and bytes")
    text, *shape, data = parts
    single = shape == [None]
    shape = [] if single else shape
    if len(shape) > 32 or any(type(side) is not int or not 0 <= side < 1 << 40 for side in shape):
        raise ValueError("an array's shape")
    if (numpy := tables.library("numpy")) is None:
        return Record(dtype=text, shape=shape, data=data)
    dtype = numpy.dtype(text)
    if dtype.itemsize * math.prod(shape) != len(data) or (not dtype.itemsize and math.prod(shape) > 1 << 20):
        raise ValueError("an array of another size than its shape says")
    found = numpy.frombuffer(data, dtype).reshape(shape) if dtype.itemsize and data else numpy.zeros(shape, dtype)
    return found[()] if single else found.copy()


def _of_library(build: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    return lambda parts: build(_each(parts))


_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "int": _exactly(1, bytes, _signed),
    "str": _exactly(1, bytes, lambda data: data.decode("utf-8", "surrogatepass")),
    "as": _untagged,
    "list": _each,
    "tuple": lambda parts: tuple(_each(parts)),
    "set": lambda parts: set(_set(parts)),
    "frozenset": lambda parts: frozenset(_set(parts)),
    "dict": _dict,
    "bytearray": _exactly(1, bytes, bytearray),
    "record": _record,
    "complex": _exactly(2, float, complex),
    "decimal": _exactly(1, str, decimal.Decimal),
    "fraction": _exactly(2, bytes, _fraction),
    "uuid": _exactly(1, bytes, lambda data: uuid.UUID(bytes=data)),
    "timedelta": _exactly(3, int, datetime.timedelta),
    "datetime": _of_time(datetime.datetime),
    "date": _exactly(1, str, datetime.date.fromisoformat),
    "time": _of_time(datetime.time),
    "numpy": _numpy,
    "index": _of_library(tables.index),
    "frame": _of_library(tables.frame),
    "series": _of_library(tables.series),
    "typed": _of_library(tables.typed),
    "category": _of_library(tables.category),
    "table": _of_library(tables.table),
}
#: The forms that a value may have beside plain data.
NAMES = tuple(_BUILDERS)
