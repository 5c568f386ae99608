"""Unix sockets: the cell's own are its own, and those of the host are reached by a rule that names them."""

from __future__ import annotations

import os
import socket

import pytest

from pyisolate.decision import Mode, Verdict
from tests.confined import confined, policy, rule
from tests.in_child import NOBODY, outcome

USERS = [None, NOBODY] if os.geteuid() == 0 else [None]


@pytest.fixture(params=USERS, ids=lambda uid: f"uid={uid}")
def uid(request: pytest.FixtureRequest) -> int | None:
    return request.param


def test_unix_sockets_work_inside_the_cell_before_and_after_an_inet_socket(uid: int | None) -> None:
    def exchange() -> object:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("\0cell")
            server.listen()
            client.connect("\0cell")
            peer, _ = server.accept()
            reader, writer = os.pipe()
            socket.send_fds(client, [b"fd"], [writer])
            data, (passed,), _, _ = socket.recv_fds(peer, 10, 1)
            os.write(passed, b"through")
            return data.decode(), os.read(reader, 10).decode()

    def guest() -> object:
        before = exchange()
        socket.socket(socket.AF_INET).close()
        return before, exchange()

    seen = confined(guest, policy(rule("connect", "127.0.0.1:9")), uid=uid)
    assert seen.value == [["fd", "through"]] * 2
    assert seen.refusals == []


def test_a_unix_socket_outside_is_refused_unless_it_is_granted(tmp_path: os.PathLike[str]) -> None:
    path = f"{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def guest() -> str:
            return outcome(lambda: socket.socket(socket.AF_UNIX).connect(path))

        refused = confined(guest, policy())
        assert refused.value == "EACCES"
        assert refused.refusals == [("net.connect", f"unix:{path}", "NOT_GRANTED")]
        grant = rule("connect", "127.0.0.1:1").__class__(action=1, unix_path=path, text=f"connect: unix:{path}")
        assert confined(guest, policy(grant)).value == "ok"
        if os.geteuid() == 0:  # another user would borrow root's name at the peer
            assert confined(guest, policy(grant), uid=NOBODY).value == "EACCES"


def test_a_unix_name_is_bound_where_a_rule_states_it(tmp_path: os.PathLike[str]) -> None:
    path, other = f"{tmp_path}/granted", f"{tmp_path}/other"
    grant = rule("bind", "127.0.0.1:1")
    grant = grant.__class__(action=grant.action, unix_path=path, text=f"bind: unix:{path}")

    def guest() -> object:
        return [outcome(lambda one=one: socket.socket(socket.AF_UNIX).bind(one)) for one in (path, other)]

    seen = confined(guest, policy(grant))
    assert seen.value == ["ok", "EACCES"]
    assert seen.refusals == [("net.bind", f"unix:{other}", "SCOPE_INSUFFICIENT")]
    assert (os.path.exists(path), os.path.exists(other)) == (True, False)
    os.unlink(path)
    watched = confined(guest, policy(grant, mode=Mode.MONITOR))
    assert watched.value == ["ok", "ok"]
    assert [(one.verdict, one.target) for one in watched.records] == [(Verdict.WOULD_DENY, f"unix:{other}")]
