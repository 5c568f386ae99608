"""The first steps of a policy zygote's cell, in one C call: what it does by itself, and what it leaves to Python."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyisolate.cell.confine import HAND_OUT
from pyisolate.cell.fresh import STEP_NUMBERS
from pyisolate.choices import STANDBY
from pyisolate.limits import rlimit
from pyisolate.native import cell_start, landlock, seccomp
from pyisolate.native.cell_confine import Confinement
from tests import zygote
from tests.require import require

FRAMES = cell_start.Frames(b"report", b"the foreseen hand-out", b"answer")
LIMITS = ((resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, 7, 7), (resource.RLIMIT_NOFILE, 3, 64))
#: Refuses to set RLIMIT_CPU, as a listener would that is asked about each limit: an address on the stack has bit 46.
NO_CPU_LIMIT = seccomp.FilterRule(
    "prlimit64",
    seccomp.refuse(errno.EPERM),
    (seccomp.Compare(1, resource.RLIMIT_CPU), seccomp.Compare(2, 1 << 46, 1 << 46)),
)


def become(start: cell_start.CellStart, came: cell_start.Came) -> dict[str, Any]:
    """Be a cell; return what there is to say of it."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, files[1]), files[1]))
    failed = {}
    for step in (cell_start.ROOT, cell_start.DIRECTORY, cell_start.LIMITS, cell_start.LANDLOCK):
        try:
            start.check(step)
        except OSError as error:
            failed[str(step)] = error.errno
    with open("/proc/self/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    try:
        os.listdir("/usr")
    except PermissionError:
        status["/usr"] = "refused"
    return {
        "came": came.name,
        "failed": failed,
        "received": start.received[0].decode() if came is cell_start.Came.OTHER else "",
        "cpu": resource.getrlimit(resource.RLIMIT_CPU),
        "files": files,
        "entropy": start.entropy.hex(),
        "descriptors": sorted(os.listdir("/proc/self/fd")) if came is cell_start.Came.DONE else [],
        **{key: status.get(key) for key in ("Name", "NoNewPrivs", "CapEff", "Seccomp", "/usr")},
    }


def be_zygote(control: int) -> None:
    """Be a zygote whose cells say on their channels what became of them."""
    number = os.open(os.devnull, os.O_RDWR)
    start = zygote.start_of(number, FRAMES, cell_start.HandOut(("landlock",), LIMITS, "/", STANDBY), (NO_CPU_LIMIT,))

    def be_cell(came: cell_start.Came) -> None:
        said, channel = become(start, came), socket.socket(fileno=number)
        while channel.recv(4096):
            pass  # what is closed unread would reset the host's end
        channel.sendall(b"|" + json.dumps(said).encode())

    zygote.serve(control, start, be_cell)


def cell(send: Callable[[socket.socket], None]) -> tuple[dict[str, Any], bytes]:
    """Have a cell forked, let `send` hand out to it, and return what it says of itself with all that it has sent."""
    with zygote.Zygote("tests.host.test_cell_start") as own, contextlib.closing(own.fork()) as made:
        first = made.channel.recv(64)
        send(made.channel)
        made.channel.shutdown(socket.SHUT_WR)
        rest = first + b"".join(iter(lambda: made.channel.recv(1 << 16), b""))
        assert own.exited().status == 0, os.read(made.err, 1 << 16).decode()
    sent, _, said = rest.partition(b"|")
    return json.loads(said), sent


@pytest.fixture
def ruleset() -> Iterator[int]:
    """Yield a Landlock ruleset that grants /proc alone."""
    try:
        made = landlock.create_ruleset(landlock.handled_for(landlock.abi_version()))
    except OSError as error:
        require("landlock", False, str(error))
        raise
    place = os.open("/proc", os.O_PATH)
    landlock.add_path_rule(made, landlock.AccessFs.READ_FILE | landlock.AccessFs.READ_DIR, place)
    os.close(place)
    yield made
    os.close(made)


def hand_out(frame: bytes, *descriptors: int) -> Callable[[socket.socket], None]:
    return lambda host: (socket.send_fds(host, [frame[:5]], descriptors), host.sendall(frame[5:]))[1]


def test_the_steps_are_numbered_in_the_order_in_which_python_takes_them() -> None:
    """C goes by the numbers, so that a cell of a policy zygote is confined in the same order as any other."""
    assert list(STEP_NUMBERS) == list(HAND_OUT)
    assert list(STEP_NUMBERS.values()) == list(range(cell_start.STEPS))


@pytest.mark.once
def test_the_foreseen_hand_out_is_applied_and_answered(ruleset: int) -> None:
    said, sent = cell(hand_out(FRAMES.init, ruleset))
    assert sent == FRAMES.warm + FRAMES.ready
    assert said["came"] == "DONE"
    assert said["failed"] == {}
    assert (said["/usr"], said["Name"], said["files"]) == ("refused", STANDBY, [3, 64])
    assert (said["NoNewPrivs"], said["CapEff"], said["Seccomp"]) == ("1", "0" * 16, "2")
    assert len(said["descriptors"]) == 5  # the standard ones, the channel, and the list's own
    other, _ = cell(hand_out(FRAMES.init, ruleset))
    assert len({said["entropy"], other["entropy"], "00" * 32}) == 3


@pytest.mark.once
def test_foreseen_limits_are_set_before_the_filter_but_that_of_the_files_which_are_still_opened(ruleset: int) -> None:
    """Each would be a question to the listener; without a number for it the ruleset would be lost on the way."""
    said, _ = cell(hand_out(FRAMES.init, ruleset))
    assert (said["came"], said["cpu"], said["files"]) == ("DONE", [6, 7], [3, 64])
    waiting, _ = cell(lambda _host: None)
    assert (waiting["came"], waiting["cpu"]) == ("GONE", [6, 7])
    assert waiting["files"][1] > 64


@pytest.mark.once
@pytest.mark.parametrize("frame", [b"another hand-out", FRAMES.init[:-1] + b"!", FRAMES.init + b" and more"])
def test_what_was_not_foreseen_is_left_as_it_came(ruleset: int, frame: bytes) -> None:
    said, sent = cell(hand_out(frame, ruleset))
    assert (said["came"], sent) == ("OTHER", FRAMES.warm)
    assert frame.startswith(said["received"].encode())
    assert said["/usr"] is None


@pytest.mark.once
def test_a_step_that_fails_is_told_and_nothing_is_answered() -> None:
    with open(os.devnull) as no_ruleset:
        said, sent = cell(hand_out(FRAMES.init, no_ruleset.fileno()))
    assert (said["came"], sent) == ("HAND_OUT", FRAMES.warm)
    assert said["failed"] == {str(cell_start.LANDLOCK): errno.EBADFD}
    assert said["/usr"] is None


@pytest.mark.once
def test_a_host_that_goes_is_noticed() -> None:
    said, sent = cell(lambda _host: None)
    assert (said["came"], sent) == ("GONE", FRAMES.warm)


def cpu_limit_after(present: int, confine: Callable[[int], object]) -> tuple[int, int]:
    """Return RLIMIT_CPU of a child under a hard limit of `present` that has confined itself, and kept a descriptor."""
    reads, writes = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (present, present))
            confine(writes)
            os.write(writes, json.dumps(resource.getrlimit(resource.RLIMIT_CPU)).encode())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as file:
        said = file.read()
    os.waitpid(pid, 0)
    soft, hard = json.loads(said)
    return soft, hard


@pytest.mark.once
@pytest.mark.parametrize("present", [1, 2, 30, resource.RLIM_INFINITY])
def test_c_and_python_come_to_the_same_limit_of_processor_time(present: int) -> None:
    if present == resource.RLIM_INFINITY != resource.getrlimit(resource.RLIMIT_CPU)[1]:
        pytest.skip("this process has a hard limit")
    for pair in ((1, 1), (1, 2), (2, 2), (29, 30), (30, 30), (30, 31), (40, 50)):
        in_c = Confinement(0, (os.getuid(), os.getgid()), [(resource.RLIMIT_CPU, *pair)], (), dumpable=True)
        found = cpu_limit_after(present, lambda kept, in_c=in_c: in_c.run(kept, None))  # type: ignore[misc]
        assert found == cpu_limit_after(present, lambda _, pair=pair: rlimit.apply({resource.RLIMIT_CPU: pair})), pair  # type: ignore[misc]


if __name__ == "__main__":
    be_zygote(int(sys.argv[1]))
