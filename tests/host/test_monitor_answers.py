"""What the kernel answers whoever asks is no event in monitor mode either, nor of a shadow policy."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyisolate
from tests.foreign_functions import with_ctypes

PREPARED = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def told(call, *args):
    try:
        made = call(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return errno.errorcode[ctypes.get_errno()] if made == -1 else "done"
"""


@pytest.fixture
def host_file() -> Iterator[str]:
    """A file of the host's /tmp, of a name that no other test has."""
    path = Path(f"/tmp/monitor-answers-{uuid.uuid4().hex}")
    path.write_text("x")
    path.chmod(0o644)
    yield str(path)
    path.unlink()


@pytest.mark.skipif(sys.prefix.startswith("/tmp/"), reason="the policy speaks of what is below /tmp")
@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize(
    "call",
    [
        "open, NAME",
        "open, NAME, 'r+'",
        "os.remove, NAME",
        "os.listdir, NAME",
        "os.rename, NAME, '/sandbox/workspace/a'",
        "os.chmod, NAME, 0o600",
        "libc.open, NAME.encode(), 0",
        "libc.unlink, NAME.encode()",
    ],
)
def test_a_name_that_nothing_has_in_tmp_is_refused_in_neither_mode(
    supervisor: pyisolate.Supervisor, host_file: str, mode: str, call: str
) -> None:
    with supervisor.spawn("absent", with_ctypes(), mode=mode) as sandbox:
        sandbox.exec(PREPARED)
        assert sandbox.eval(f"told({call.replace('NAME', repr(host_file + '.none'))})") == "ENOENT"
        assert sandbox.get_denial_events() == []
        sandbox.exec(f"told(open, {host_file!r})")  # the control: enforcing leads it to the workspace
        assert [event.target for event in sandbox.get_denial_events()] == [host_file] * (mode == "monitor")


@pytest.mark.parametrize("mode", ["enforce", "monitor"])
@pytest.mark.parametrize("way", ["open, NAME, 'w'", "os.open, NAME, os.O_RDWR", "libc.open, NAME.encode(), 1"])
def test_a_directory_that_is_opened_to_write_is_no_refusal(
    supervisor: pyisolate.Supervisor, tmp_path: Path, mode: str, way: str
) -> None:
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_text("x")
    (place / "file").chmod(0o666)
    with supervisor.spawn("directory", with_ctypes().allow_read(place), mode=mode) as sandbox:
        sandbox.exec(PREPARED)
        assert sandbox.eval(f"told({way.replace('NAME', repr(str(place)))})") == "EISDIR"
        assert sandbox.get_denial_events() == []
        sandbox.exec(f"told({way.replace('NAME', repr(str(place / 'file')))})")  # the control
        (event,) = sandbox.get_denial_events()
    assert (event.capability, event.target) == ("fs.write", str(place / "file"))


def test_a_shadow_policy_leads_tmp_to_the_workspace_as_enforcing_it_does(supervisor: pyisolate.Supervisor) -> None:
    policy = with_ctypes()
    code = "os.stat('/tmp'); os.listdir('/tmp'); libc.access(b'/tmp', 4); open('/tmp/own', 'w').close()"
    with supervisor.spawn("shadowed", policy, shadow=policy.with_name("other")) as sandbox:
        sandbox.exec(f"{PREPARED}\n{code}\nlibc.access(b'/tmp/own', 4)")
        assert sandbox.get_denial_events() == []
        sandbox.exec("told(open, '/etc/passwd')")  # the control
        assert {event.shadow for event in sandbox.get_denial_events()} == {True, False}
