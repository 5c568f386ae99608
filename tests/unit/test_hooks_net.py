"""The hooks on names, connections and randomness. Every refusal has its control: the same guest with the grant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guest_hooks_harness import run

ANY = [("*", "*")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path.resolve()
    for name in ("file", "doomed", "doomed2"):
        (root / name).write_text("x")
    (root / "link").symlink_to("file")
    (root / "sub").mkdir()
    (root / "sub" / "inner").write_text("x")
    return root


def test_names_resolve_to_what_the_policy_pins_and_to_nothing_else(tree: Path) -> None:
    ran = run(
        """
        def look(name, port=443, **more):
            try:
                return [answer[4][0] for answer in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, **more)]
            except PolicyError as error:
                return error.denial_event.target
        results = dict(
            granted=look("DB.internal."), local=look("localhost"), literal=look("192.0.2.7"),
            six=look("db.internal", family=socket.AF_INET6), other=look("example.com"),
            short=socket.gethostbyname("db.internal"), long=socket.gethostbyname_ex("db.internal"),
            back=socket.gethostbyaddr("10.0.0.5"), number=socket.getnameinfo(("10.9.9.9", 80), 0)[0],
            name=socket.getnameinfo(("10.0.0.5", 80), 0)[0], own=socket.getfqdn(),
            refused=outcome(socket.gethostbyname, "example.org"), canon=socket.getaddrinfo(
                "db.internal", 1, flags=socket.AI_CANONNAME)[0][3],
            raw=outcome(socket._socket.getaddrinfo, "example.net", 1), gone=look("gone.internal"),
        )
        finish(**results)
        """,
        compiled={"pinned_hosts": {"db.internal": ["10.0.0.5", "fd00::5"], "gone.internal": []}},
    )
    answer = ran.answer
    assert answer["granted"] == ["10.0.0.5", "fd00::5"]
    assert answer["local"] == ["127.0.0.1", "::1"]
    assert answer["literal"] == ["192.0.2.7"]
    assert answer["six"] == ["fd00::5"]
    assert answer["other"] == "example.com:443"
    assert answer["short"] == "10.0.0.5"
    assert answer["long"] == ["db.internal", [], ["10.0.0.5"]]
    assert answer["back"][0] == "db.internal"
    assert (answer["number"], answer["name"], answer["canon"]) == ("10.9.9.9", "db.internal", "db.internal")
    assert (answer["refused"], answer["raw"]) == ("refused", "refused")
    assert ran.denied == [
        ("net.connect", "example.com:443"),
        ("net.connect", "example.org"),
        ("net.connect", "example.net:1"),
        ("net.connect", "gone.internal:443"),  # granted, and it did not resolve: the broker says so
    ]


def test_connections_are_asked_about_by_address_before_a_socket_is_made(tree: Path) -> None:
    ran = run(
        """
        finish(plain=outcome(socket.create_connection, ("10.0.0.5", 5432)),
               client=outcome(http.client.HTTPConnection("10.0.0.6", 81).connect),
               local=outcome(socket.create_connection, ("localhost", 9)),
               pair=outcome(socket.socketpair))
        """,
        allow=[("net.connect", "[::1]:9"), ("net.socket", "*")],
    )
    assert (ran.answer["plain"], ran.answer["client"], ran.answer["pair"]) == ("refused", "refused", "done")
    assert ran.denied[:2] == [("net.connect", "10.0.0.5:5432"), ("net.connect", "10.0.0.6:81")]


def test_listening_is_asked_about(tree: Path) -> None:
    source = """
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        finish(result=outcome(server.listen, 1))
        """
    grants = [("net.socket", "*"), ("net.bind", "127.0.0.1:0")]
    refused = run(source, allow=grants)
    assert refused.answer["result"] == "refused"
    assert refused.denied[0][0] == "net.listen"
    assert run(source, allow=[*grants, ("net.listen", "127.0.0.1:*")]).answer["result"] == "done"


def test_a_socket_pair_and_an_accepted_socket_are_not_new_sockets(tree: Path) -> None:
    ran = run(
        """
        one, two = socket.socketpair()
        finish(copy=outcome(one.dup), adopted=outcome(lambda: socket.socket(fileno=os.dup(two.fileno()))))
        """
    )
    assert (ran.answer["copy"], ran.answer["adopted"], ran.records) == ("done", "done", [])


def test_denied_randomness_is_refused_and_replaced_by_the_seed(tree: Path) -> None:
    source = """
        import uuid
        finish(numbers=[random.random(), random.Random().random(), random.Random(5).random()],
               system=outcome(random.SystemRandom().random), urandom=outcome(os.urandom, 8),
               getrandom=outcome(os.getrandom, 8), token=outcome(secrets.token_bytes), uuid=outcome(uuid.uuid4))
        """
    first = run(source, compiled={"allow_random": False, "random_seed": 7})
    second = run(source, compiled={"allow_random": False, "random_seed": 7})
    other = run(source, compiled={"allow_random": False, "random_seed": 8})
    free = run(source, compiled={"allow_random": True})
    for name in ("system", "urandom", "getrandom", "token", "uuid"):
        assert (first.answer[name], free.answer[name]) == ("refused", "done"), name
    assert first.answer["numbers"] == second.answer["numbers"]
    assert first.answer["numbers"][:2] != other.answer["numbers"][:2]
    assert first.answer["numbers"][:2] != free.answer["numbers"][:2]
    assert {one[0] for one in first.records} == {"random.read"}
    assert free.records == []
