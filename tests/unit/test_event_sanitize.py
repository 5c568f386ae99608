"""Text from a guest is safe to print, and no byte of it is lost."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyisolate.cell import wire
from pyisolate.sandbox.failed import as_kept
from pyisolate.telemetry.sanitize import escape, escape_bytes, hide_in_text, unescape, unescape_bytes, without_source

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_escaping_reverses_and_prints(text: str) -> None:
    shown = escape(text, 10**6)
    assert shown.isprintable()
    shown.encode()
    assert unescape(shown) == text


@given(st.binary())
def test_bytes_that_are_not_utf8_reverse(data: bytes) -> None:
    shown = escape_bytes(data, 10**6)
    assert shown.isprintable()
    assert unescape_bytes(shown) == data


@given(ANY_TEXT, st.integers(1, 50))
def test_length_is_capped_and_the_cut_is_told(text: str, limit: int) -> None:
    shown = escape(text, limit)
    body, mark, rest = shown.rpartition("\\+")
    if len(escape(text, 10**6)) <= limit:
        assert shown == escape(text, 10**6)
    else:
        assert mark
        assert len(body) <= limit
        assert text.startswith(unescape(shown))
        assert len(unescape(shown)) + int(rest) == len(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/data", "/srv/data"),
        ("a\nb\x1b[31m", "a\\x0ab\\x1b[31m"),
        ("/t/\udcff", "/t/\\xff"),
        ("a\\b", "a\\\\b"),
        ("\x85", "\\u0085"),
        ("\u202eevil", "\\u202eevil"),
        ("päth", "päth"),
    ],
)
def test_known_forms(text: str, shown: str) -> None:
    assert escape(text) == shown


@pytest.mark.parametrize("text", ["\\q", "\\", "\\xZZ", "\\U00ffffff", "a\\"])
def test_unknown_escapes_stay(text: str) -> None:
    assert unescape(text) == text


def test_a_huge_text_costs_no_more_than_its_limit() -> None:
    assert escape("\n" * 10_000_000).endswith("\\+9998976")


def test_of_a_traceback_frames_and_what_was_raised_are_kept_of_groups_too() -> None:
    try:
        try:
            raise ValueError("one")  # secret
        except ValueError as one:
            raise ExceptionGroup("both", [one, ExceptionGroup("inner", [KeyError("two")])]) from OSError("before")
    except ExceptionGroup as group:
        text = "".join(traceback.format_exception(group))
    assert "# secret" in text
    assert "raise ExceptionGroup" in text
    kept = without_source(text)
    for said in ("OSError: before", "ExceptionGroup: both", "ValueError: one", "KeyError: 'two'", "- 2 -", 'File "'):
        assert said in kept
    for source in ("# secret", "raise ", "^^^"):
        assert source not in kept
    lone = 'Traceback (most recent call last):\n  File "x", line 1, in f\n    a\n    | b # secret\nTypeError: no'
    assert without_source(lone) == 'Traceback (most recent call last):\n  File "x", line 1, in f\nTypeError: no'


_LONG = 1 << 20
_OF_GROUP = "  + Exception Group Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        *((_OF_GROUP, one) for one in (" ", "  |", " +", "  +-", " File ", ' File "', "\n ", "\n  | ")),
        (_OF_GROUP + '  File "x", line ', "1"),
        *(("", one) for one in (_OF_GROUP[:30], "a:/", "a:", "a", "a.", "[", "[/", "a://b@", "\n@", "\\", "\\+1")),
        ("a://", "b"),
        ("\\+", "1"),
    ],
)
def test_what_a_guest_writes_costs_in_proportion_to_its_length(head: str, repeated: str) -> None:
    """What tries a repetition anew at each of its characters takes most of an hour: the test runs out of time."""
    text = head + repeated * (_LONG // len(repeated)) + "x"
    assert len(without_source(text)) <= len(text)
    assert len(unescape(text)) <= len(text)
    assert hide_in_text(text + "@").endswith("@")


def test_the_host_cuts_what_a_guest_says_of_its_exception_as_the_cell_does() -> None:
    raw = wire.Failed(id=1, type_name="T" * _LONG, message="m" * _LONG, traceback="a" + "t" * _LONG + "z")
    kept = as_kept(raw)
    assert (len(kept.type_name), len(kept.message), len(kept.traceback)) == (200, 4096, 16 << 10)
    assert kept.traceback.endswith("tz")
    short = wire.Failed(id=1, type_name="T", message="m", traceback="t")
    assert as_kept(short) == short
