"""Heads that are known again: only bytes that h11 took for a head, whatever follows them."""

from __future__ import annotations

import h11
import pytest

from pyisolate.egress.forward import read_apart
from pyisolate.egress.heads import Heads, KnownAnswer, body_bytes, read_head
from pyisolate.egress.hiding import Hider

_HEAD = b"GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (_HEAD, _HEAD),
        (_HEAD + b"more", _HEAD),
        (_HEAD + _HEAD, _HEAD),
        (_HEAD[:-1], None),  # not whole
        (
            b"GET / HTTP/1.1\nHost: a\n\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n",
            None,
        ),  # h11 ends it at the first of two lines
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", None),
    ],
)
def test_a_head_is_what_h11_took_for_one(data: bytes, head: bytes | None) -> None:
    assert read_head(h11.Connection(h11.SERVER), data)[1] == head


def test_what_comes_in_parts_is_read_as_ever() -> None:
    http = h11.Connection(h11.SERVER)
    assert read_head(http, _HEAD[:7]) == (h11.NEED_DATA, None)
    event, head = read_head(http, _HEAD[7:])
    assert (isinstance(event, h11.Request), head) == (True, None)


def test_a_head_is_found_where_it_begins_what_came_and_few_are_kept() -> None:
    known: Heads[int] = Heads(2)
    known.put(_HEAD, 1, "a:443")
    assert known.find(_HEAD + b"body", "a:443") == (1, b"body")
    for data, place in (
        (b"X" + _HEAD, "a:443"),
        (_HEAD, "b:443"),
        (_HEAD, None),
        (_HEAD[:-2], "a:443"),
        (b"", "a:443"),
    ):
        assert known.find(data, place) is None
    known.put(_HEAD, 2)
    known.put(_HEAD, 3, "b:443")
    assert known.find(_HEAD, "a:443") is None
    assert known.find(_HEAD) == (2, b"")


@pytest.mark.parametrize(
    ("headers", "length"),
    [
        ([], 0),
        ([("Content-Length", "7")], 7),
        ([("Transfer-Encoding", "chunked")], None),
        ([("Expect", "100-continue")], None),
    ],
)
def test_a_body_that_no_number_states_has_none(headers: list[tuple[str, str]], length: int | None) -> None:
    assert body_bytes(h11.Request(method="POST", target="/", headers=[("Host", "a"), *headers])) == length


_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\nX-Id: 1\r\nConnection: x-id\r\n\r\nbody"


def test_an_answer_is_written_as_h11_writes_it() -> None:
    answers: Heads[KnownAnswer] = Heads(4)
    guest = h11.Connection(h11.SERVER)
    guest.receive_data(_HEAD)
    guest.next_event()
    headers = [("content-LENGTH", "4")]  # without what is of one hop
    written = guest.send(h11.Response(status_code=200, headers=headers, reason="OK"))
    found = read_apart("GET", _ANSWER, answers, Hider())
    assert found == (KnownAnswer(written or b"", 4), b"body")
    assert answers.find(_ANSWER) == found


@pytest.mark.parametrize(
    "data",
    [
        _ANSWER[:-1],  # not all of it
        _ANSWER + b"x",
        _ANSWER.replace(b"x-id\r\n\r\n", b"close\r\n\r\n"),
        _ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"HTTP/1.1 200 OK\r\n\r\nbody",  # to the end of the connection
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
        b"HTTP/1.1 103 Early\r\n\r\n" + _ANSWER,
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_an_answer_that_is_not_whole_or_not_kept_is_read_for_both_connections(data: bytes) -> None:
    answers: Heads[KnownAnswer] = Heads(4)
    assert read_apart("GET", data, answers, Hider()) is None
    assert answers.find(data) is None
