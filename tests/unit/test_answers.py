"""Answers of hooks: what the notification listener is told beside capability and verdict."""

from __future__ import annotations

import pytest

from pyisolate.capability import CAPABILITY_NUMBER
from pyisolate.capability import Capability as C
from pyisolate.hooks import answer_codes as answers
from pyisolate.hooks.operations import EVENTS
from pyisolate.native import audit


def test_flags_are_those_of_the_native_hook() -> None:
    assert {name: getattr(answers, name) for name in audit.FLAGS} == audit.FLAGS


@pytest.mark.parametrize(
    ("hook", "capability", "flags"),
    [
        ("socket.connect", C.NET_CONNECT, 0),
        ("http.client.connect", C.NET_CONNECT, answers.AHEAD),
        ("socket.getaddrinfo", C.NET_CONNECT, answers.RESOLVES),
        ("ask", C.NET_CONNECT, answers.AHEAD),
        ("ask", C.NET_LISTEN, 0),
        ("subprocess.Popen", C.PROCESS_EXEC, answers.AHEAD),
        ("fork_exec", C.PROCESS_EXEC, answers.MANY),
        ("os.fork", C.PROCESS_FORK, 0),
        ("open", C.FS_READ, 0),
    ],
)
def test_an_answer_says_what_the_call_behind_the_hook_is(hook: str, capability: C, flags: int) -> None:
    assert answers.asked(hook, capability, answers.ALLOW) == CAPABILITY_NUMBER[capability] | flags | answers.ALLOW


def test_hooks_that_find_nothing_to_ask_say_so_where_a_call_follows() -> None:
    assert answers.nothing_asked("socket.sendmsg") == CAPABILITY_NUMBER[C.NET_SEND] | answers.NOTHING
    assert answers.nothing_asked("socket.getaddrinfo") == answers.RESOLVES | answers.NOTHING
    assert answers.nothing_asked("open") == 0
    assert set(answers._NOTHING_ASKED) <= EVENTS | {"listen", "fork_exec"} | answers.LOOKUPS
