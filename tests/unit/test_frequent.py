"""Which policies have cells ahead: the usual one of the last spawns, and the frequent ones."""

from __future__ import annotations

import itertools
import random

from pyisolate.supervisor.frequent import Frequent, Key


def key(number: int) -> Key:
    return number, "strict"


def looked_at(*numbers: int) -> Frequent:
    frequent = Frequent()
    for number in numbers:
        frequent.note(key(number))
    return frequent


def test_the_usual_one_has_most_of_the_last_eight() -> None:
    assert not looked_at(1).is_usual(key(1))
    assert looked_at(1, 1).is_usual(key(1))
    assert not looked_at(1, 2, 1, 2).is_usual(key(1))
    assert looked_at(*[2] * 20, *[1] * 5).is_usual(key(1))
    assert not looked_at(*[1] * 20, *[2] * 4).is_usual(key(1))


def test_a_frequent_one_was_asked_for_again_in_the_last_64() -> None:
    assert not looked_at(1, 2).is_frequent(key(1))
    assert looked_at(1, *range(2, 64), 1).is_frequent(key(1))
    assert not looked_at(1, 1, *range(2, 66)).is_frequent(key(1))
    frequent = looked_at(1, 1)
    frequent.forget(key(1))
    assert not frequent.is_frequent(key(1))


def test_many_in_turn_do_not_push_each_other_out() -> None:
    frequent, places = Frequent(), [key(number) for number in range(8)]
    for number in itertools.islice(itertools.cycle(range(20)), 500):
        frequent.note(key(number))
    assert all(frequent.less_frequent(key(number), places) is None for number in range(8, 20))
    for _ in range(8):
        frequent.note(key(19))
    assert frequent.less_frequent(key(19), places) in places


def test_of_hundreds_at_random_hardly_one_takes_a_place() -> None:
    frequent, places, taken = Frequent(), [key(number) for number in range(8)], 0
    numbers = random.Random(1)
    for _ in range(1000):
        asked = key(numbers.randrange(200))
        frequent.note(asked)
        if asked not in places and (least := frequent.less_frequent(asked, places)) is not None:
            places[places.index(least)] = asked
            taken += 1
    assert taken < 20
