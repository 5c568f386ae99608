"""An event is there when its refusal is seen: `get_denial_events()` right after it has it, on every path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import pyisolate
from tests.require import require

#: The claim is 1000 of 1000: `pytest -m soak` tries that many on each path.
TIMES = (pytest.param(40, id="40"), pytest.param(1000, id="1000", marks=pytest.mark.soak))
NATIVE = "import ctypes, struct\nlibc = ctypes.CDLL(None)\n"
SOCKET = NATIVE + "s = libc.socket(2, 1, 0)\naddress = struct.pack('=HHI8x', 2, 0x5000, 0x0100000A)\n"
#: path -> (what a guest sets up once, what it does each time; a refusal may be raised)
PATHS = {
    "import": ("", "import pluggy"),
    "open": ("", "open('/etc/shadow')"),
    "connect": ("import socket", "socket.create_connection(('10.0.0.1', 80))"),
    "connect, native": (SOCKET, "libc.connect(s, address, 16)"),
    "open, native": (NATIVE, "libc.open(b'/etc/shadow', 0)"),
    "open, a raw call": (NATIVE, "libc.syscall(2, b'/etc/shadow', 0, 0)"),
    "floor": (NATIVE, "libc.unshare(0x10000000)"),
    "swallowed": ("", "try:\n    open('/etc/shadow')\nexcept OSError:\n    pass"),
}


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as made:
        with made.spawn("network", pyisolate.Policy.preset("compute").allow_connect("127.0.0.1:1")):
            pass  # the cells of the host's network have a zygote of their own, which stays
        yield made


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("path", PATHS)
def test_an_event_is_there_when_its_refusal_is_seen(supervisor: pyisolate.Supervisor, path: str, times: int) -> None:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees native calls")
    before, refused = PATHS[path]
    policy = pyisolate.Policy.preset("compute").allow_native("ctypes").allow_connect("127.0.0.1:9")
    policy = policy.allow_import("ctypes", "_ctypes")
    seen = []
    with supervisor.spawn("order", policy) as sandbox:
        sandbox.exec(before)
        assert sandbox.get_denial_events() == []
        for _ in range(times):
            raised = None
            try:
                sandbox.exec(refused)
            except pyisolate.PolicyError as error:
                raised = error.denial_event
            events = sandbox.get_denial_events()
            seen.append(sum(event.count for event in events))
            assert raised is None or raised.event_id in {event.event_id for event in events}
    assert seen == list(range(1, times + 1))
