"""What a call sends: numbers and texts by the plain pickle, code by value."""

from __future__ import annotations

import pickle

import pytest

from pyisolate.cell import wire
from pyisolate.policy import Policy
from pyisolate.sandbox.request import Work, encode


class Text(str):
    """No plain text: the guest cannot import its class."""


def sent(*args: object, **kwargs: object) -> tuple[tuple[object, ...], dict[str, object]]:
    data = wire.encode(encode(Work("call", function="f", args=args, kwargs=kwargs), Policy.preset("none")))
    frame = wire.decode_host(data[wire.HEADER.size :])
    assert isinstance(frame, wire.Request)
    return pickle.loads(frame.payload) if frame.payload else (frame.args, frame.kwargs)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(1 << 63),
        (1 << 64) - 1,
        1 << 64,
        1 << 200,
        0.1,
        1j,
        "text",
        "caf\u00e9",
        "\ud800",
        b"bytes",
        [1],
        {"a": (2,)},
        {3},
    ],
)
def test_arguments_arrive_as_they_are(value: object) -> None:
    args, kwargs = sent(value, named=value)
    assert (args, kwargs) == ((value,), {"named": value})
    assert type(args[0]) is type(value)


def test_one_object_twice_is_one_object() -> None:
    shared: list[int] = []
    (first, second), kwargs = sent(shared, shared, third=shared)
    assert first is second is kwargs["third"]


def test_code_is_sent_along() -> None:
    (function,), _ = sent(lambda: 7)
    assert callable(function)
    assert function() == 7
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(lambda: 7)  # the control: the plain pickle sends a name only


def test_what_only_looks_like_text_goes_with_its_class() -> None:
    assert isinstance(sent(Text("a"))[0][0], Text)
