"""A real deep agent of LangChain with a scripted model: its shell and its files are a sandbox's."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from tests.require import require

PLACE = "/sandbox/workspace"


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    require(
        "deepagents", importlib.util.find_spec("deepagents") is not None, "pip install 'pyisolate-kernel[deepagents]'"
    )
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


@pytest.fixture
def backend(supervisor: pyisolate.Supervisor) -> Iterator[Any]:
    from pyisolate.integrations.deepagents_backend import SandboxBackend, grant_programs

    with SandboxBackend(grant_programs("compute", "/bin/cat"), timeout=20, supervisor=supervisor) as made:
        yield made


def test_the_frameworks_own_file_operations_work_in_the_workspace(backend: Any) -> None:
    assert backend.write(f"{PLACE}/a/notes.txt", "one\ntwo\n").error is None
    assert "two" in backend.read(f"{PLACE}/a/notes.txt").file_data["content"]
    assert backend.edit(f"{PLACE}/a/notes.txt", "two", "three").error is None
    assert backend.execute("cat a/notes.txt").output == "one\nthree\n"
    assert [entry["path"].rstrip("/") for entry in backend.ls(PLACE).entries] == [f"{PLACE}/a"]
    assert [match["line"] for match in backend.grep("three", PLACE).matches] == [2]
    assert [match["path"] for match in backend.glob("**/*.txt", PLACE).matches]
    up = backend.upload_files([("b.bin", b"\xff\x00"), ("/etc/no", b"")])
    assert [one.error for one in up] == [None, "permission_denied"]
    down = backend.download_files([f"{PLACE}/b.bin", "nowhere", "/etc/shadow"])
    assert [one.content for one in down] == [b"\xff\x00", None, None]
    assert [one.error for one in down] == [None, "file_not_found", "permission_denied"]


def test_commands_answer_with_status_and_what_was_refused(backend: Any) -> None:
    done = backend.execute("echo out; echo err >&2; exit 3")
    assert (done.output, done.exit_code) == ("out\nerr\n", 3)
    refused = backend.execute("cat /etc/shadow")
    assert refused.exit_code == 1
    assert "refused: fs.read on /etc/shadow" in refused.output
    assert "/etc/shadow" in {event.target for event in backend.denials}
    assert backend.execute("cat < /dev/null").exit_code == 0  # the control
    slow = backend.execute("while :; do :; done", timeout=1)
    assert slow.exit_code == 124
    assert backend.execute("echo on").output == "on\n"
    backend.close()
    assert backend.execute("echo").exit_code is None


def test_an_agent_works_with_it(backend: Any) -> None:
    from deepagents import create_deep_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage, ToolMessage

    class Scripted(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **_: Any) -> Any:
            return self

    calls: list[tuple[str, dict[str, Any]]] = [
        ("write_file", {"file_path": f"{PLACE}/plan.txt", "content": "6 * 7"}),
        ("execute", {"command": "python3 -c 'print(eval(open(\"plan.txt\").read()))'"}),
        ("execute", {"command": "cat /etc/shadow"}),
    ]
    steps = [
        AIMessage("", tool_calls=[{"name": name, "args": given, "id": str(number)}])
        for number, (name, given) in enumerate(calls)
    ]
    agent = create_deep_agent(model=Scripted(messages=iter([*steps, AIMessage("done")])), backend=backend)
    messages = agent.invoke({"messages": [{"role": "user", "content": "Go"}]})["messages"]
    answers = [message.content for message in messages if isinstance(message, ToolMessage)]
    assert messages[-1].content == "done"
    assert answers[1].startswith("42\n")
    assert "refused: fs.read on /etc/shadow" in answers[2]
