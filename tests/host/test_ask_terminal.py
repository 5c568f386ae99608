"""`pyisolate run --ask`: what the person answers is the question that was seen, whatever the guest writes."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyisolate import Policy
from tests.host.test_ask import Server, connects
from tests.host.test_ask import server as server

#: Connects while another thread writes over the question, and says in the end what came of it.
PAINTS = """
import socket, threading, time
def paint():
    with socket.create_connection(("127.0.0.1", {port}), 20): pass
painter = threading.Thread(target=paint)
painter.start()
while painter.is_alive():
    print("\\x1b[2K\\x1b[Apyisolate: asks for 10.0.0.1 (company mirror)", flush=True)
    time.sleep(0.01)
"""
#: The guest's own question, long before the host's.
CATS = """
import time
print("Do you like cats? [y/n] ", flush=True)
time.sleep(2)
"""


def run_at_a_terminal(script: Path, types: Callable[[bytes], str], *options: str) -> tuple[int, str]:
    """Run the command on a terminal of its own; `types`: what is typed when that is shown.

    Return its status and what the terminal showed.
    """
    command = [sys.executable, "-m", "pyisolate.cli.main", "run", "--ask", *options, str(script)]
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    shown = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        shown += data
        os.write(terminal, types(shown).encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode("utf-8", "replace")


def once(when: bytes, typed: str) -> Callable[[bytes], str]:
    waiting = [typed]
    return lambda shown: waiting.pop() if when in shown and waiting else ""


@pytest.fixture
def script(server: Server, tmp_path: Path) -> Path:
    made = tmp_path / "connect.py"
    made.write_text(connects(server).replace("\ngot", "\nprint(got)"))
    return made


def test_the_terminal_is_asked(server: Server, script: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved.yaml"
    status, shown = run_at_a_terminal(script, once(b"allow?", "e\na\n"), "--save-answers", str(saved))
    assert (status, "b'hello'" in shown) == (0, True), shown
    assert f"net.connect {server.target}" in shown
    assert "the rule that grants it" in shown
    assert f"allowed from now on: net.connect {server.target}" in shown
    assert "1 operation allowed by an answer:" in shown
    assert "refused" not in shown.partition("1 operation")[2]
    assert Policy.load(str(saved)).to_dict()["net"] == [{"connect": server.target}]
    status, shown = run_at_a_terminal(script, once(b"allow?", "n\n"))
    assert (status, "b'hello'" in shown) == (120, False), shown
    assert server.served == 1


def test_what_was_typed_before_the_question_is_no_answer(server: Server, script: Path) -> None:
    script.write_text(CATS + script.read_text())
    cats, question = once(b"cats?", "y\n"), once(b"allow?", "n\n")
    status, shown = run_at_a_terminal(script, lambda shown: cats(shown) + question(shown))
    assert (status, server.served) == (120, 0), shown
    assert run_at_a_terminal(script, once(b"allow?", "y\n"))[0] == 0  # the control
    assert server.served == 1


def test_no_guest_writes_over_a_question(server: Server, script: Path) -> None:
    """It waits for its turn, and what would move the cursor is shown as text."""
    script.write_text(PAINTS.format(port=server.port))
    answer = once(b"allow?", "y\n")

    def slowly(shown: bytes) -> str:
        if typed := answer(shown):
            time.sleep(0.5)
        return typed

    status, shown = run_at_a_terminal(script, slowly)
    assert (status, server.served) == (0, 1), shown
    assert "\x1b" not in shown
    assert "\\x1b[2K\\x1b[A" in shown
    _, put, rest = shown.partition("allow? ")
    assert put
    assert "mirror" not in rest.partition("allowed once: ")[0], shown


def test_ask_without_a_terminal_does_not_start(script: Path) -> None:
    command = [sys.executable, "-m", "pyisolate.cli.main", "run", "--ask", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, start_new_session=True, stdin=subprocess.DEVNULL
    )
    assert (done.returncode, "no terminal" in done.stderr) == (125, True), done.stderr
