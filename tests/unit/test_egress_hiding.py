"""Credentials in an answer are covered alike, wherever it is cut."""

from __future__ import annotations

import itertools
import random

from pyisolate.egress.hiding import Hider, hide


def _in_pieces(hider: Hider, pieces: list[bytes]) -> bytes:
    hider = hider.fresh()
    return b"".join(map(hider.more, pieces)) + hider.end()


def test_an_answer_in_pieces_is_covered_as_the_whole_is() -> None:
    chance = random.Random(7)

    def text(shortest: int, longest: int) -> bytes:
        return bytes(chance.choices(b"ab", k=chance.randint(shortest, longest)))  # so that ends are like beginnings

    for _ in range(5000):
        hider = Hider()
        hider.hidden = [text(2, 5) for _ in range(chance.randint(1, 3))]
        data = text(1, 12)
        cuts = [0, *sorted(chance.choices(range(len(data) + 1), k=chance.randint(0, len(data)))), len(data)]
        pieces = [data[start:end] for start, end in itertools.pairwise(cuts)]
        assert _in_pieces(hider, pieces) == hide(data, hider.hidden), (hider.hidden, pieces)


def test_the_end_of_a_credential_that_is_like_its_beginning_is_covered() -> None:
    hider = Hider()
    hider.hidden = [b"abcdefgh-12345-abcdefg"]
    assert _in_pieces(hider, [b"=", b"abcdefgh-12345-abcdefg", b"h", b"."]) == b"=" + b"*" * 22 + b"h."
