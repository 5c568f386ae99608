"""The kernel behind a real Jupyter server, driven by the REST calls and the websocket that JupyterLab uses."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

pytestmark = pytest.mark.timeout(90)
#: How long a loaded machine may take to start the server, or a kernel (seconds).
_PATIENCE_S = 40


@dataclass(frozen=True)
class Server:
    """A server that listens, and its token."""

    address: str
    token: str

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """Make one call of the REST interface, and return what it answers."""
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://{self.address}/api/{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A Jupyter server whose only installed kernel is a walled one."""
    require("jupyter_server", importlib.util.find_spec("jupyter_server") is not None, "pip install jupyter_server")
    install = [sys.executable, "-m", "pyisolate", "kernel", "install", "--prefix", str(tmp_path), "--name", "walled"]
    subprocess.run([*install, "--policy", "compute"], check=True, timeout=60)
    token = secrets.token_hex(16)
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    options = {"port_retries": 50, "ip": "127.0.0.1", "open_browser": False, "allow_root": True,
               "root_dir": tmp_path, "terminals_enabled": False}  # fmt: skip
    command = [sys.executable, "-m", "jupyter_server", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    environment = {**os.environ, **own, "JUPYTER_PATH": str(tmp_path / "share/jupyter")}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while (made := _started(tmp_path / "JUPYTER_RUNTIME_DIR" / f"jpserver-{process.pid}.json", token)) is None:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def _started(about: Path, token: str) -> Server | None:
    """Return a server once it answers: it looked for a free port itself, and wrote it into its runtime file."""
    with contextlib.suppress(OSError, json.JSONDecodeError, urllib.error.URLError):
        server = Server(f"127.0.0.1:{json.loads(about.read_text())['port']}", token)
        server.ask("GET", "status")
        return server
    return None


class Page:
    """What a page of JupyterLab has: a session's websocket."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._session = connection, secrets.token_hex(8)

    async def send(self, kind: str, **content: Any) -> str:
        """Send a request on the shell channel, and return its number."""
        number = secrets.token_hex(8)
        header = {"msg_id": number, "msg_type": kind, "username": "lab", "session": self._session, "version": "5.3"}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self._connection.write_message(json.dumps({**message, "buffers": []}))
        return number

    async def message(self, number: str, kind: str) -> dict[str, Any]:
        """Return the next message of a kind that came of a request; what came before it is dropped."""
        while True:
            text = await asyncio.wait_for(self._connection.read_message(), _PATIENCE_S)
            assert text is not None, kind
            message: dict[str, Any] = json.loads(text)
            if message["parent_header"].get("msg_id") == number and message["msg_type"] == kind:
                return message

    async def answers(self, number: str) -> list[dict[str, Any]]:
        """Return all that came of a request, up to its reply and the word that the kernel is idle."""
        found: list[dict[str, Any]] = []
        replied = idle = False
        while not (replied and idle):
            text = await asyncio.wait_for(self._connection.read_message(), _PATIENCE_S)
            assert text is not None, found
            message = json.loads(text)
            if message["parent_header"].get("msg_id") == number:
                found.append(message)
                replied = replied or message["channel"] == "shell"
                idle = idle or message["content"].get("execution_state") == "idle"
        return found

    async def close(self) -> None:
        """Leave, and wait for the server's goodbye."""
        self._connection.close()
        while await asyncio.wait_for(self._connection.read_message(), _PATIENCE_S) is not None:
            pass

    async def run(self, code: str) -> dict[str, dict[str, Any]]:
        """Run a cell; what came of it by the type of message. Output may come in several: their text is joined."""
        number = await self.send("execute_request", code=code, silent=False, store_history=True, allow_stdin=False)
        found: dict[str, dict[str, Any]] = {}
        for message in await self.answers(number):
            if message["msg_type"] == "stream" and (before := found.get("stream")) is not None:
                message["content"]["text"] = before["content"]["text"] + message["content"]["text"]
            found[message["msg_type"]] = message
        return found


@pytest.mark.once
def test_a_notebook_in_a_browser_is_a_sandbox(server: Server) -> None:
    asyncio.run(_notebook(server))


async def _notebook(server: Server) -> None:
    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    assert "walled" in server.ask("GET", "kernelspecs")["kernelspecs"]
    kernel = {"kernel": {"name": "walled"}, "name": "n", "path": "n.ipynb", "type": "notebook"}
    number = server.ask("POST", "sessions", kernel)["kernel"]["id"]
    channels = f"ws://{server.address}/api/kernels/{number}/channels"
    headers = {"Authorization": f"token {server.token}"}
    page = Page(await websocket_connect(HTTPRequest(channels, headers=headers)))

    (told,) = [one for one in await page.answers(await page.send("kernel_info_request")) if one["channel"] == "shell"]
    assert told["content"]["language_info"]["name"] == "python"
    await page.answers(await page.send("comm_info_request"))
    cell = await page.run("import os\nkept = 6\nprint('hello')\nkept * 7, os.getpid()")
    assert cell["stream"]["content"]["text"] == "hello\n"
    assert cell["execute_result"]["content"]["data"]["text/plain"] == "(42, 2)"  # process 2 is a cell's guest
    number_asked = await page.send("complete_request", code="kep", cursor_pos=3)
    (told,) = [one for one in await page.answers(number_asked) if one["channel"] == "shell"]
    assert told["content"]["matches"] == ["kept"]

    cell = await page.run("try: open('/etc/shadow')\nexcept PermissionError: print('caught')")
    assert cell["stream"]["content"]["text"] == "caught\n"
    (denial,) = cell["display_data"]["content"]["metadata"]["pyisolate"]["denials"]
    assert (denial["capability"], denial["target"]) == ("fs.read", "/etc/shadow")
    assert "<td>/etc/shadow</td>" in cell["display_data"]["content"]["data"]["text/html"]

    endless = "print('runs', flush=True)\nwhile True: pass"
    asked = await page.send("execute_request", code=endless, silent=False, allow_stdin=False)
    await page.message(asked, "stream")
    server.ask("POST", f"kernels/{number}/interrupt")
    assert "KeyboardInterrupt" in [one["content"].get("ename") for one in await page.answers(asked)]
    assert (await page.run("kept"))["execute_result"]["content"]["data"]["text/plain"] == "6"

    await page.close()
    server.ask("POST", f"kernels/{number}/restart")
    page = Page(await websocket_connect(HTTPRequest(channels, headers=headers)))
    assert (await page.run("kept"))["execute_reply"]["content"]["ename"] == "NameError"
    await page.close()
    server.ask("DELETE", f"kernels/{number}")
    assert server.ask("GET", "kernels") == []
