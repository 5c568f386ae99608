"""What the root view's builder says of a worker that ended without an answer."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile

import pytest

from pyisolate.errors import EnforcementError
from pyisolate.kernel.rootview import forker, stager, tree, worker
from pyisolate.kernel.rootview.names import HostName, NameCall, NameChange, change_names
from pyisolate.native.descriptors import receive
from tests.in_child import NOBODY, in_child


def status_of(end: int | None) -> int:
    pid = os.fork()
    if pid == 0:
        if end is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(end or 0)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize(
    ("end", "words", "number"),
    [
        (None, "by signal 9 (Killed)", errno.ENOMEM),
        (3, "with exit status 3", 0),
        (errno.ENOMEM, "memory", errno.ENOMEM),
    ],
)
def test_the_end_of_a_worker_in_words(end: int | None, words: str, number: int) -> None:
    reply = forker.ended_without_answer(status_of(end))
    assert words in reply.error
    assert reply.error_number == number


def test_a_defect_is_named_in_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, as always: `work` ends it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            monkeypatch.setattr(worker, "_build", lambda *_arguments: {}["gone"])
            policy = worker.CompiledPolicy(name="p", version="1")
            request = worker.Request(policy=policy, uid=1, gid=1)
            data = worker.msgspec.msgpack.encode(request)
            ours.sendall(worker.LENGTH.pack(len(data)) + data)
            worker.work(theirs, None, None)
        assert os.waitpid(pid, 0)[1] == 0
        body = worker.read_message(ours)
    assert body is not None
    assert worker.msgspec.msgpack.decode(body, type=worker.Reply).error == "the builder failed with KeyError: 'gone'"


def test_threads_may_ask_at_a_time_whether_a_stager_lives() -> None:
    """Each spawn asks. One poll object for all raised RuntimeError in the second thread."""
    import concurrent.futures

    from pyisolate.kernel.rootview.tree import RootView

    ours, theirs = socket.socketpair()
    view = RootView(os.open("/", os.O_PATH | os.O_CLOEXEC), (), (), (), ours)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: [view.lives for _ in range(500)], range(8)))
        assert all(all(one) for one in answers)
        theirs.close()
        assert not view.lives
    finally:
        view.close()
        theirs.close()
    assert view.lives  # nothing stages any more


def test_a_stage_that_was_broken_off_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer comes later, with a directory of the host's: the next sandbox of the policy had it."""
    ours, theirs = socket.socketpair()
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    view = tree.RootView(os.dup(place), (), (), (), ours)
    with view, theirs:
        socket.send_fds(theirs, [b"\0"], [place, place])  # a workspace that was asked for ahead
        with monkeypatch.context() as patched:
            send = socket.send_fds

            def interrupted(*arguments: object) -> int:
                send(*arguments)  # type: ignore[arg-type]
                raise KeyboardInterrupt

            patched.setattr(socket, "send_fds", interrupted)
            with pytest.raises(KeyboardInterrupt):
                view.stage(place)
        assert not view.lives  # the policy's view is made anew
        for given in (None, place):
            with pytest.raises(EnforcementError, match="broken off"):
                view.stage(given)
    os.close(place)


def test_an_answer_that_does_not_come_ends_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_STAGE_TIMEOUT_S", 0.01)
    ours, theirs = socket.socketpair()
    with theirs, tree.RootView(os.open("/", os.O_PATH | os.O_CLOEXEC), (), (), (), ours) as view:
        with pytest.raises(EnforcementError):
            view.stage()
        assert not view.lives


def test_a_refusal_of_the_stagers_leaves_the_view() -> None:
    ours, theirs = socket.socketpair()
    with theirs, tree.RootView(os.open("/", os.O_PATH | os.O_CLOEXEC), (), (), (), ours) as view:
        theirs.send(errno.EMFILE.to_bytes(1))
        with pytest.raises(EnforcementError) as raised:
            view.stage()
        assert raised.value.errno == errno.EMFILE
        assert view.lives
        socket.send_fds(theirs, [b"\0"], [view.fd, view.fd])
        view.stage().close()


def test_a_directory_that_is_lost_on_the_way_is_no_workspace_of_memory() -> None:
    """The kernel drops what the stager cannot have open: the sandbox wrote to memory, which ended with it."""
    staged: list[int | None] = []

    class Template:
        def __init__(self, peer: socket.socket) -> None:
            self.peer = peer

        def stage(self, given: int | None) -> tuple[int, int]:
            staged.append(given)
            return os.dup(0), os.dup(0)

    ours, theirs = socket.socketpair()
    with ours, theirs:
        one = stager.Stager(theirs)
        one._templates[theirs.fileno()] = Template(theirs)  # type: ignore[assignment]
        for asked in (stager.WITH_DIRECTORY, stager.WITHOUT_DIRECTORY):
            ours.send(asked)
            one._serve(theirs.fileno())
            answer, descriptors, _ = receive(ours, 1, 2)
            for descriptor in descriptors:
                os.close(descriptor)
            assert (answer[0], len(descriptors)) == ((errno.EMFILE, 0) if asked == b"d" else (0, 2))
    assert staged == [None]


def test_a_supervisor_that_goes_in_the_middle_of_a_request_leaves_no_traceback() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code = f"from pyisolate.kernel.rootview.forker import main; main({theirs.fileno()})"
    command = [sys.executable, "-c", code]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as builder:
        for half in (b"", worker.LENGTH.pack(4) + b"no"):
            asks, asked = socket.socketpair()
            with asks, asked:
                socket.send_fds(ours, [forker.WITH_STAGER], [asked.fileno()])
                asks.sendall(half)
        ours.close()
        theirs.close()
        _, said = builder.communicate(timeout=60)
    assert (builder.returncode, said) == (0, b"")


@pytest.mark.parametrize("call", ["mkdir", "symlink"])
def test_what_cannot_be_given_is_not_left(call: NameCall) -> None:
    uid = os.geteuid() or NOBODY
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        os.chown(top, uid, -1)
        found = os.stat(top)

        def made(name: str, owner: int) -> int:
            change = NameChange(call, HostName(top, found.st_dev, found.st_ino, name), mode=0o750, text="anywhere")
            return in_child(lambda: change_names(change, owner, os.getgid()), uid=uid)

        assert made("kept", uid) == 0
        assert made("another's", 0) == errno.EPERM
        assert os.listdir(top) == ["kept"]
        assert call == "symlink" or os.stat(os.path.join(top, "kept")).st_mode & 0o777 == 0o750
