"""Addresses, and what the C library does by itself to look up a name: no event, or one that accuses nobody."""

from __future__ import annotations

import os
import socket

import pytest

import pyisolate
from pyisolate import Policy
from tests import inside
from tests.foreign_functions import with_ctypes
from tests.require import require

_NET = Policy.preset("compute").allow_connect("10.0.0.0/8:1000")


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize("flags", [0, int(socket.AI_PASSIVE), int(socket.AI_ADDRCONFIG)])
def test_addresses_of_no_host_are_answered_without_an_event(
    supervisor: pyisolate.Supervisor, mode: str, flags: int
) -> None:
    with supervisor.spawn("own", _NET, mode=mode) as sandbox:
        found = sandbox.eval(f"__import__('socket').getaddrinfo(None, 80, flags={flags})")
        assert sandbox.get_denial_events() == []
        refused = sandbox.eval("[__import__('socket').getaddrinfo(None, 80, type=1, family=2), 0][0]")
    wanted = socket.getaddrinfo(None, 80, flags=flags & ~socket.AI_ADDRCONFIG)
    assert {(int(one[0]), int(one[1]), one[4][:2]) for one in found} == {
        (int(one[0]), int(one[1]), one[4][:2]) for one in wanted
    }
    assert [one[4] for one in refused] == [("127.0.0.1", 80)]


@pytest.mark.parametrize("arguments", ["None, None", "'', 80", "None, 80, family=1", "None, 80, flags=2"])
def test_what_names_nothing_is_an_error_as_ever_without_an_event(
    supervisor: pyisolate.Supervisor, arguments: str
) -> None:
    code = f"import socket\ntry: said = socket.getaddrinfo({arguments})\nexcept socket.gaierror as e: said = e.errno"
    plain: dict[str, object] = {}
    exec(code, plain)
    with supervisor.spawn("nothing", _NET) as sandbox:
        sandbox.exec(code)
        assert sandbox.eval("said") == plain["said"]
        assert isinstance(plain["said"], int)
        assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize("form", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0"])
def test_an_address_in_another_form_is_that_address(supervisor: pyisolate.Supervisor, mode: str, form: str) -> None:
    code = """
import socket
def connect(host, port):
    try:
        socket.socket().connect((host, port))
    except OSError as error:
        return type(error).__name__
"""
    with supervisor.spawn("forms", Policy.preset("compute").allow_connect("127.0.0.1:1"), mode=mode) as sandbox:
        sandbox.exec(code)
        assert sandbox.eval(f"connect({form!r}, 1)") == "ConnectionRefusedError"
        assert sandbox.get_denial_events() == []
        sandbox.eval(f"connect({form!r}, 2)")
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.count) == ("net.connect", "127.0.0.1:2", 1)
    assert event.suggestion == {"net": [{"connect": "127.0.0.1:2"}]}


@pytest.mark.parametrize("host", ["127.0.0.1 x", "1.2.3.4.5", "0x", "08.1", "1.2.3.256", "a.1"])
def test_what_no_resolver_takes_for_an_address_stays_a_name(supervisor: pyisolate.Supervisor, host: str) -> None:
    with supervisor.spawn("names", _NET) as sandbox:
        with pytest.raises(pyisolate.PolicyError):
            sandbox.exec(f"import socket; socket.socket().connect(({host!r}, 1000))")
        (event,) = sandbox.get_denial_events()
    assert event.target == f"{host}:1000"


def test_all_users_are_one_event_in_monitor_mode(supervisor: pyisolate.Supervisor) -> None:
    require("seccomp", inside.plan(supervisor).listener is not None, "nothing but a listener sees what is let through")
    with supervisor.spawn("users", Policy.preset("compute"), mode="monitor") as sandbox:
        assert sandbox.eval("len(__import__('pwd').getpwall()) > 0")
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target, event.count) == ("fs.read", "/etc/passwd", 1)
    assert event.broker_decision == "would_deny"


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
def test_files_that_are_read_for_a_name_accuse_no_native_code(supervisor: pyisolate.Supervisor, mode: str) -> None:
    require("seccomp", inside.plan(supervisor).listener is not None, "nothing else tells what native code opens")
    code = """
import contextlib, ctypes, socket
libc = ctypes.CDLL(None)
with contextlib.suppress(OSError):
    socket.getaddrinfo(None, "http")
"""
    with supervisor.spawn("services", with_ctypes(), mode=mode) as sandbox:
        sandbox.exec(code)
        (read,) = [one for one in sandbox.get_denial_events() if one.capability == "fs.read"]
        assert (read.target, read.broker_decision) == ("/etc/services", "unavailable")
        assert not [one for one in sandbox.get_denial_events() if one.capability == "fs.lookup"]
        # the control: what native code opens after another question is its own
        sandbox.exec(
            "import os\nwith contextlib.suppress(OSError): os.kill(os.getpid(), 0)\nlibc.open(b'/etc/group', 0)"
        )
        events = {one.target: one.broker_decision for one in sandbox.get_denial_events()}
    assert events["/etc/group"] == "not_consulted"


def test_what_native_code_opens_after_a_name_was_looked_up_is_its_own(supervisor: pyisolate.Supervisor) -> None:
    require("seccomp", inside.plan(supervisor).listener is not None, "nothing else tells what native code opens")
    with supervisor.spawn("after", with_ctypes().allow_import("socket")) as sandbox:
        sandbox.exec("import ctypes, socket\nlibc = ctypes.CDLL(None)\nsocket.getaddrinfo('127.0.0.1', 80)")
        sandbox.exec("try: socket.getaddrinfo('localhost', 80)\nexcept OSError: pass\nlibc.open(b'/etc/shadow', 0)")
        (event,) = [one for one in sandbox.get_denial_events() if one.target == "/etc/shadow"]
    assert event.broker_decision == "not_consulted"


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_RAW"])
def test_a_socket_that_no_rule_reaches_has_one_code_whoever_asks(supervisor: pyisolate.Supervisor, kind: str) -> None:
    """Of the family the kernel's tables know that it is refused, and not that rules grant addresses of others."""
    reached = with_ctypes().allow_connect("10.0.0.0/8:1000")
    by_interpreter = f"with contextlib.suppress(OSError): socket.socket(socket.AF_UNIX, socket.{kind})"
    by_native_code = f"libc.socket(int(socket.AF_UNIX), int(socket.{kind}), 0)"
    with supervisor.spawn("kinds", reached) as sandbox:
        sandbox.exec("import contextlib, ctypes, socket\nlibc = ctypes.CDLL(None)")
        codes = []
        for way in (by_interpreter, by_native_code):
            seen = len(sandbox.get_denial_events())
            sandbox.exec(way)
            codes += [(one.capability, one.target, one.code) for one in sandbox.get_denial_events()[seen:]]
    assert codes[0] == ("net.socket", f"AF_UNIX/{kind}", "SCOPE_INSUFFICIENT")
    assert set(codes) == {codes[0]}
    with supervisor.spawn("none", with_ctypes()) as sandbox:  # the control
        sandbox.exec("import contextlib, socket\n" + by_interpreter)
        assert [one.code for one in sandbox.get_denial_events()] == ["NOT_GRANTED"]


@pytest.mark.parametrize("before", ["pass", "socket.getaddrinfo('localhost', 80)", "pwd.getpwnam('root')"])
def test_a_name_that_was_looked_up_hides_no_later_look(supervisor: pyisolate.Supervisor, before: str) -> None:
    require("seccomp", inside.plan(supervisor).listener is not None, "nothing else tells of look-ups")
    code = f"""
import contextlib, os, pwd, socket
with contextlib.suppress(OSError, KeyError): {before}
for name in ("/etc/shadow", "/etc/ssh", "/root"):
    with contextlib.suppress(OSError): os.stat(name)
"""
    with supervisor.spawn("later", Policy.preset("compute").allow_import("pwd", "socket")) as sandbox:
        sandbox.exec(code)
        looked = [event.target for event in sandbox.get_denial_events() if event.capability == "fs.lookup"]
    there = [name for name in ("/etc/shadow", "/etc/ssh", "/root") if os.path.exists(name)]
    assert looked == there
