"""`pyisolate mcp`, driven by the official client over both transports."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import re
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from tests.require import require

COMMAND = [sys.executable, "-m", "pyisolate.cli.main", "mcp"]
#: The smallest PNG: one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(autouse=True)
def _the_package_is_installed() -> None:
    require("mcp", importlib.util.find_spec("mcp") is not None, "pip install 'pyisolate-kernel[mcp]'")


def over_stdio(use: Callable[[Any], Awaitable[None]], *options: str) -> None:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    async def main() -> None:
        server = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], *options])
        async with Client(stdio_client(server)) as client:
            await use(client)

    asyncio.run(asyncio.wait_for(main(), 90))


def text_of(result: Any) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


def test_a_model_runs_code_and_its_state_stays() -> None:
    async def use(client: Any) -> None:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names >= {"run_python", "run_command", "write_file", "read_file", "list_files", "get_denials"}
        first = await client.call_tool("run_python", {"code": "x = 6\nprint('hello')\nx * 7"})
        assert not first.is_error
        assert text_of(first) == "hello\n42"
        assert first.structured_content["value"] == "42"
        assert (await client.call_tool("run_python", {"code": "x"})).structured_content["value"] == "6"
        assert not (await client.call_tool("reset", {})).is_error
        gone = await client.call_tool("run_python", {"code": "x"})
        assert gone.is_error
        assert "NameError" in text_of(gone)

    over_stdio(use)


def test_a_refusal_is_text_with_code_target_and_rule_and_grants_nothing() -> None:
    async def use(client: Any) -> None:
        refused = await client.call_tool("run_python", {"code": "open('/etc/passwd').read()"})
        assert refused.is_error
        assert "refused: fs.read on /etc/passwd (NOT_GRANTED)" in text_of(refused)
        assert '"allow": ["read"]' in text_of(refused)
        (denial,) = refused.structured_content["denials"]
        again = await client.call_tool("run_python", {"code": "open('/etc/passwd').read()"})
        assert again.is_error
        listed = await client.call_tool("get_denials", {})
        assert denial["event_id"] in text_of(listed)
        explained = await client.call_tool("explain_denial", {"event_id": denial["event_id"]})
        assert "broker: deny" in text_of(explained)
        unknown = await client.call_tool("explain_denial", {"event_id": "none"})
        assert unknown.is_error

    over_stdio(use)


def test_the_same_call_works_where_the_operator_granted_it() -> None:
    async def use(client: Any) -> None:
        read = await client.call_tool("run_python", {"code": "len(open('/etc/passwd').read()) > 0"})
        assert read.structured_content["value"] == "True"

    over_stdio(use, "--allow-read", "/etc/passwd")


def test_programs_need_a_grant() -> None:
    async def refused(client: Any) -> None:
        done = await client.call_tool("run_command", {"command": ["/bin/echo", "hello"]})
        assert done.is_error
        assert "process." in text_of(done)

    async def granted(client: Any) -> None:
        done = await client.call_tool("run_command", {"command": ["/usr/bin/echo", "hello"]})
        assert not done.is_error, text_of(done)
        assert done.structured_content["stdout"] == "hello\n"

    over_stdio(refused)
    over_stdio(granted, "--allow-exec", "/usr/bin/echo")


def test_files_and_images_go_both_ways() -> None:
    async def use(client: Any) -> None:
        assert not (await client.call_tool("write_file", {"path": "in.txt", "content": "12\n30\n"})).is_error
        code = "total = sum(map(int, open('in.txt')))\nopen('out.txt', 'w').write(str(total))"
        assert not (await client.call_tool("run_python", {"code": code})).is_error
        assert text_of(await client.call_tool("read_file", {"path": "out.txt"})) == "42"
        names = {one["path"] for one in (await client.call_tool("list_files", {})).structured_content["files"]}
        assert {"in.txt", "out.txt"} <= names
        assert (await client.call_tool("read_file", {"path": "/etc/passwd"})).is_error
        shown = await client.call_tool("run_python", {"code": PICTURE})
        (image,) = (part for part in shown.content if part.type == "image")
        assert image.mime_type == "image/png"
        assert base64.b64decode(image.data) == PIXEL

    over_stdio(use)


PICTURE = f"""
class Picture:
    def _repr_png_(self):
        return {PIXEL!r}
Picture()
"""


def test_an_ended_sandbox_is_replaced_and_the_model_hears_of_it() -> None:
    async def use(client: Any) -> None:
        await client.call_tool("run_python", {"code": "x = 1"})
        ended = await client.call_tool("run_python", {"code": "while True: pass", "timeout": 0.5})
        assert ended.is_error
        after = await client.call_tool("run_python", {"code": "1 + 1"})
        assert after.structured_content["value"] == "2"
        died = await client.call_tool("run_python", {"code": "import os; os._exit(3)"})
        assert "starts a new one" in text_of(died)
        assert (await client.call_tool("run_python", {"code": "2"})).structured_content["new_sandbox"] is True

    over_stdio(use)


@pytest.fixture
def served() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, "--http", str(port), "--sessions", "2"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_sessions_of_http_have_sandboxes_of_their_own(served: str) -> None:
    from mcp import Client

    async def main() -> None:
        async with Client(served, mode="legacy") as one, Client(served, mode="legacy") as other:
            await one.call_tool("run_python", {"code": "secret = 'mine'"})
            theirs = await other.call_tool("run_python", {"code": "secret"})
            assert theirs.is_error
            assert (await one.call_tool("run_python", {"code": "secret"})).structured_content["value"] == "'mine'"

    asyncio.run(asyncio.wait_for(main(), 90))


def test_a_protocol_without_sessions_gets_names_that_cannot_be_guessed(served: str) -> None:
    from mcp import Client

    async def main() -> None:
        async with Client(served) as client:
            first = await client.call_tool("run_python", {"code": "secret = 'mine'"})
            session = first.structured_content["session"]
            assert session in text_of(first)
            assert (await client.call_tool("run_python", {"code": "secret"})).is_error  # another, new one
            again = await client.call_tool("run_python", {"code": "secret", "session": session})
            assert again.structured_content["value"] == "'mine'"
            unknown = await client.call_tool("run_python", {"code": "1", "session": "stdio"})
            assert unknown.is_error
            assert "there is none of this name" in text_of(unknown)

    asyncio.run(asyncio.wait_for(main(), 90))


def test_without_the_package_it_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
         "from pyisolate.cli.main import main\nsys.argv = ['pyisolate', 'mcp']\nmain()"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 125
    assert re.search(r"pip install\s+'pyisolate-kernel\[mcp\]'", done.stderr)


def test_a_session_whose_guest_ends_itself_holds_no_earlier_sandbox() -> None:
    """Each would keep its files, memory of the host's, until the server ends."""
    from pyisolate.integrations.mcp_server import Sessions

    with pyisolate.Supervisor(pool_size=1) as supervisor:
        sessions = Sessions(supervisor, pyisolate.Policy.preset("compute"))
        for _ in range(3):
            sandbox, new = sessions.of("one")
            assert new
            with pytest.raises(pyisolate.SandboxDied):
                sandbox.exec("import os\nos._exit(1)")
        assert len(supervisor.sandboxes) == 1
