"""`pyisolate top` in a real terminal, at 80x24 and wide, against a running supervisor."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyisolate
from pyisolate.telemetry.recorder import Recorder
from pyisolate.telemetry.sinks.audit import AuditLog
from tests.require import require


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, directory: Path, width: int, height: int, command: str) -> None:
        self._tmux = ["tmux", "-f", "/dev/null", "-S", str(directory / "tmux")]
        size = ["-x", str(width), "-y", str(height)]
        # The shell after it keeps the screen, and says how the command ended.
        # An account without a login shell would end it at once.
        subprocess.run(
            [*self._tmux, "new-session", "-d", *size, f"{command}; echo ended $?; sleep 60"],
            check=True,
            env={**os.environ, "SHELL": "/bin/sh"},
        )

    def screen(self) -> str:
        done = subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True)
        return done.stdout

    def wait(self, seen: Callable[[str], bool], within_s: float = 15.0) -> str:
        deadline = time.monotonic() + within_s
        while not seen(screen := self.screen()):
            assert time.monotonic() < deadline, screen
            time.sleep(0.1)
        return screen

    def press(self, key: str) -> None:
        subprocess.run([*self._tmux, "send-keys", key], check=True)

    def resize(self, width: int, height: int) -> None:
        subprocess.run([*self._tmux, "resize-window", "-x", str(width), "-y", str(height)], check=True)

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[pyisolate.Sandbox, str]]:
    """A sandbox whose refusals are counted and audited; yields it and the options of `top`."""
    log = tmp_path / "audit.jsonl"
    audit = AuditLog(log)
    with contextlib.ExitStack() as stack:
        stack.callback(audit.close)
        supervisor = stack.enter_context(pyisolate.Supervisor(pool_size=1, recorder=Recorder(audit=audit)))
        server = pyisolate.serve_metrics(port=0)
        stack.callback(server.close)
        sandbox = stack.enter_context(supervisor.spawn("watched-guest"))
        yield sandbox, f"--url {server.url} --audit-log {log} --interval 0.3"


def refuse(sandbox: pyisolate.Sandbox, path: str) -> None:
    with pytest.raises(pyisolate.PolicyError):
        sandbox.exec(f"open({path!r})")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (180, 45)])
def test_it_shows_sandboxes_and_refusals_as_they_come(
    watched: tuple[pyisolate.Sandbox, str], tmp_path: Path, width: int, height: int
) -> None:
    require("tmux", shutil.which("tmux") is not None, "tmux is not installed")
    sandbox, options = watched
    refuse(sandbox, "/etc/first")
    command = f"{sys.executable} -m pyisolate.cli.main top {options}"
    terminal = Terminal(tmp_path, width, height, command)
    try:
        screen = terminal.wait(lambda text: "/etc/first" in text and "1 idle" in text)
        assert "fs.read" in screen
        assert "compute" in screen
        assert "watched-g" in screen
        assert len(screen.splitlines()) <= height
        assert max(len(line) for line in screen.splitlines()) <= width
        refuse(sandbox, "/etc/second")
        terminal.wait(lambda text: "/etc/second" in text)
        terminal.resize(100, 30)
        terminal.wait(lambda text: max(len(line.rstrip()) for line in text.splitlines()) in range(81, 101))
        terminal.press("q")
        terminal.wait(lambda text: "ended 0" in text)
    finally:
        terminal.close()


def test_a_supervisor_that_goes_away_is_a_message(tmp_path: Path) -> None:
    require("tmux", shutil.which("tmux") is not None, "tmux is not installed")
    with pyisolate.serve_metrics(port=0) as server:
        url = server.url
        terminal = Terminal(tmp_path, 80, 24, f"{sys.executable} -m pyisolate.cli.main top --url {url} -i 0.3")
        try:
            terminal.wait(lambda text: "sandboxes none" in text)
            server.close()
            terminal.wait(lambda text: "refused" in text and "Connection refused" in text)
            terminal.press("q")
            terminal.wait(lambda text: "ended 0" in text)
        finally:
            terminal.close()
