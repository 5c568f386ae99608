"""A call that a yes carries out, on a file system that does not answer: it holds up nobody else, and has its event."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate import Allow, Policy
from pyisolate.kernel.rootview.calls import MOST_OF_ONE
from tests.asking import refused
from tests.fuse import Hanging, hanging
from tests.waiting import until

pytestmark = pytest.mark.once  # FUSE is root's

POLICY = Policy.preset("compute").with_ask("fs.delete")
_REMOVED = """
import os
def removed(name):
    try:
        os.remove(name)
    except OSError as error:
        return error.errno
    return 0
"""


@pytest.fixture
def hangs() -> Iterator[Hanging]:
    place = Path("/var/tmp") / f"pyisolate-fuse-{os.getpid()}"
    place.mkdir()
    try:
        with hanging(place) as made:
            yield made
    finally:
        place.rmdir()


class _Removal(threading.Thread):
    """A sandbox's guest that removes the file, which is allowed."""

    def __init__(self, sandbox: pyisolate.Sandbox, file: Path) -> None:
        super().__init__()
        self._sandbox, self._file = sandbox, file
        self.errno: int | None = None
        self.start()

    def run(self) -> None:
        try:
            self.errno = self._sandbox.eval(f"removed({str(self._file)!r})")
        except pyisolate.SandboxError:  # it was closed
            pass


def answers_of(sandbox: pyisolate.Sandbox) -> list[tuple[str, str | None, bool]]:
    return [(one.target, one.answer, one.would_deny) for one in sandbox.get_denial_events()]


def test_a_call_that_hangs_holds_up_no_other_sandbox(hangs: Hanging, place: Path) -> None:
    with (
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("hangs", POLICY, on_ask=lambda _: Allow("sandbox")) as sandbox,
    ):
        sandbox.exec(_REMOVED)
        removal = _Removal(sandbox, hangs.file)
        hangs.wait_asked()
        other = POLICY.allow_read(str(place))  # needs a view of its own
        with supervisor.spawn("other", other, on_ask=lambda _: Allow()) as another:
            another.exec(f"import os\nos.remove({str(place / 'data')!r})")  # and asks, too
        assert removal.is_alive()
        hangs.answer()
        removal.join()
        assert removal.errno == 0
        assert answers_of(sandbox) == [(str(hangs.file), "sandbox", True)]


def test_a_call_that_hangs_has_an_end_in_time_and_its_sandbox_few_such_calls(
    hangs: Hanging, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("hangs", POLICY, on_ask=lambda _: Allow("sandbox")) as sandbox,
    ):
        sandbox.exec(_REMOVED)
        with monkeypatch.context() as short:
            short.setattr("pyisolate.kernel.rootview.view._ANSWER_TIMEOUT_S", 0.01)
            for _ in range(MOST_OF_ONE):
                assert sandbox.eval(f"removed({str(hangs.file)!r})") == errno.ETIMEDOUT
        event = refused(sandbox, f"os.remove({str(place / 'data')!r})")
        assert event.answer == "sandbox"
        assert (place / "data").exists()
        assert answers_of(sandbox)[0] == (str(hangs.file), "sandbox", True)
        with supervisor.spawn("other", POLICY, on_ask=lambda _: Allow()) as another:  # which has its own
            another.exec(f"import os\nos.remove({str(place / 'data')!r})")


def test_tables_of_a_place_that_does_not_answer_hold_up_no_other_policys(hangs: Hanging, place: Path) -> None:
    with (
        pyisolate.Supervisor(pool_size=1) as supervisor,
        supervisor.spawn("hangs", POLICY, on_ask=lambda _: Allow()) as sandbox,
    ):
        sandbox.exec(_REMOVED)
        removal = _Removal(sandbox, hangs.file)
        hangs.wait_asked()
        granted = POLICY.allow_read(str(hangs.file.with_name("absent")))  # in a directory that the removal has locked
        stuck = threading.Thread(target=lambda: supervisor.spawn("stuck", granted).close())
        stuck.start()
        until(a_thread_waits_for_files)
        with supervisor.spawn("other", POLICY.allow_read(str(place))) as other:
            assert other.eval("1") == 1
        assert stuck.is_alive()
        hangs.answer()
        for thread in (stuck, removal):
            thread.join()


def a_thread_waits_for_files() -> bool:
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/self/task/{task}/stat").read_text().rpartition(") ")[2].startswith("D"):
                return True
    return False


def test_a_supervisor_that_closes_leaves_no_call_without_its_event(hangs: Hanging) -> None:
    with pyisolate.Supervisor(pool_size=1) as supervisor:
        sandbox = supervisor.spawn("hangs", POLICY, on_ask=lambda _: Allow())
        sandbox.exec(_REMOVED)
        removal = _Removal(sandbox, hangs.file)
        hangs.wait_asked()
    removal.join()
    assert answers_of(sandbox) == [(str(hangs.file), "once", True)]
