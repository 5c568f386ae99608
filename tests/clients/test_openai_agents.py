"""A real agent of the OpenAI Agents SDK with a scripted model: its shell, patches and files are a sandbox's."""

from __future__ import annotations

import asyncio
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from tests.require import require


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    have = importlib.util.find_spec("agents") is not None
    require("openai-agents", have, "pip install 'pyisolate-kernel[openai-agents]'")
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


def client_of(supervisor: pyisolate.Supervisor, **options: Any) -> Any:
    from pyisolate.integrations.openai_agents_client import SandboxClient, grant_programs

    return SandboxClient(grant_programs("compute", "/bin/cat"), supervisor=supervisor, **options)


def test_an_agent_works_with_it(supervisor: pyisolate.Supervisor) -> None:
    from agents import RunConfig, Runner, ToolCallOutputItem
    from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
    from agents.sandbox.entries import File
    from agents.testing import ScriptedModel, assistant_message, function_call

    commands = ["cat given.txt; echo 42 > n.txt", "cat /etc/shadow", "cat n.txt; exit 3"]
    calls = [[function_call("exec_command", {"cmd": command}, call_id=str(n))] for n, command in enumerate(commands)]
    agent = SandboxAgent(
        name="scripted",
        model=ScriptedModel([*calls, [assistant_message("done")]]),
        default_manifest=Manifest(entries={"given.txt": File(content=b"for you\n")}),
    )
    events: list[pyisolate.DenialEvent] = []
    sandbox = SandboxRunConfig(client=client_of(supervisor, timeout=20, on_denials=events.extend))
    run = Runner.run(agent, "Go", run_config=RunConfig(tracing_disabled=True, sandbox=sandbox))
    result = asyncio.run(run)
    given, refused, control = [one.output for one in result.new_items if isinstance(one, ToolCallOutputItem)]
    assert result.final_output == "done"
    assert "code 0" in given
    assert given.endswith("for you\n")
    assert "refused: fs.read on /etc/shadow" in refused
    assert "code 3" in control
    assert "42\n" in control
    assert "refused" not in control
    assert [event.target for event in events] == ["/etc/shadow"]
    assert not supervisor.sandboxes


def test_files_patches_and_limits_of_a_session(supervisor: pyisolate.Supervisor) -> None:
    from agents.sandbox.errors import ExecTimeoutError, InvalidManifestPathError, WorkspaceReadNotFoundError

    patch = {"type": "update_file", "path": "a/notes.txt", "diff": "@@\n one\n-two\n+three\n"}

    async def run() -> None:
        client = client_of(supervisor)
        session = await client.create()
        async with session:
            await session.write(Path("a/notes.txt"), io.BytesIO(b"one\ntwo\n"))
            await session.apply_patch(patch)
            assert (await session.read(Path("a/notes.txt"))).read() == b"one\nthree\n"
            assert [Path(entry.path).name for entry in await session.ls("a")] == ["notes.txt"]
            await session.mkdir("b/c", parents=True)
            await session.rm("b", recursive=True)
            with pytest.raises(WorkspaceReadNotFoundError):
                await session.read(Path("b/c"))
            with pytest.raises(InvalidManifestPathError):
                await session.read(Path("/etc/hostname"))
            with pytest.raises(ExecTimeoutError):
                await session.exec("while :; do :; done", timeout=1)
            assert (await session.exec("kill -TERM $$")).exit_code == 143
            with pytest.raises(ValueError, match="one user"):
                await session.exec("echo", user="root")
            refused = await session.exec("/bin/date", shell=False)
            assert (refused.exit_code, b"refused: process.exec on" in refused.stderr) == (1, True)
        await client.delete(session)

    asyncio.run(run())
    assert not supervisor.sandboxes


def test_a_resumed_session_has_the_files_of_its_snapshot(supervisor: pyisolate.Supervisor, tmp_path: Path) -> None:
    from agents.sandbox.snapshot import LocalSnapshotSpec

    async def run() -> None:
        client = client_of(supervisor)
        session = await client.create(snapshot=LocalSnapshotSpec(base_path=tmp_path))
        async with session:
            await session.exec("mkdir d; echo kept > d/file; ln -s /etc/shadow d/link")
        state = client.deserialize_session_state(client.serialize_session_state(session.state))
        again = await client.resume(state)
        async with again:
            assert (await again.exec("cat d/file; ls d")).stdout == b"kept\nfile\n"

    asyncio.run(run())
    assert not supervisor.sandboxes
