"""A real pydantic-ai agent with a scripted model: its tools are a sandbox's."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from tests.require import require


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    require("pydantic-ai", importlib.util.find_spec("pydantic_ai") is not None, "pip install pydantic-ai-slim")
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


def toolset(supervisor: pyisolate.Supervisor, policy: Any = "compute") -> Any:
    from pyisolate.integrations.pydantic_ai_toolset import SandboxToolset

    return SandboxToolset(policy, exec_timeout=20, supervisor=supervisor)


def answers(tools: Any, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
    """Let a scripted model make these calls, one a step; return the tools' answers."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel

    steps = iter(calls)

    def model(messages: Any, info: Any) -> Any:
        assert {tool.name for tool in info.function_tools} >= {"run_python", "write_file", "read_file", "list_files"}
        call = next(steps, None)
        return ModelResponse(parts=[TextPart("done") if call is None else ToolCallPart(*call)])

    result = asyncio.run(Agent(FunctionModel(model), toolsets=[tools]).run("Go"))
    assert result.output == "done"
    return [part for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)]


def test_variables_and_files_last_for_the_run_and_no_longer(supervisor: pyisolate.Supervisor) -> None:
    tools = toolset(supervisor)
    first, second, wrote, read, listed, missing = answers(
        tools,
        ("run_python", {"code": "import os\nx = 6\nprint(os.getpid())\nx * 7"}),
        ("run_python", {"code": "x"}),
        ("write_file", {"path": "a/in.txt", "content": "hello"}),
        ("run_python", {"code": "open('a/in.txt').read().upper()"}),
        ("list_files", {}),
        ("read_file", {"path": "nowhere"}),
    )
    assert first.content == "2\n42"  # the pid within the cell
    assert second.content == "6"
    assert wrote.content == "a/in.txt: written"
    assert read.content == "'HELLO'"
    assert "a/in.txt" in listed.content
    assert "FileNotFoundError" in missing.content
    assert not supervisor.sandboxes
    (again,) = answers(tools, ("run_python", {"code": "x"}))
    assert "NameError" in again.content


def test_a_refusal_is_text_with_the_rule_and_its_event(supervisor: pyisolate.Supervisor) -> None:
    call = ("run_python", {"code": "open('/etc/hostname').read()"})
    (refused,) = answers(toolset(supervisor), call)
    assert "refused: fs.read on /etc/hostname (NOT_GRANTED)" in refused.content
    assert [event["target"] for event in refused.metadata["denials"]] == ["/etc/hostname"]
    (granted,) = answers(toolset(supervisor, pyisolate.Policy.preset("compute").allow_read("/etc/hostname")), call)
    assert "refused" not in granted.content  # the control
    assert granted.metadata == {"denials": []}


def test_a_sandbox_that_ended_is_replaced_and_the_model_is_informed(supervisor: pyisolate.Supervisor) -> None:
    died, after = answers(
        toolset(supervisor), ("run_python", {"code": "import os; os._exit(3)"}), ("run_python", {"code": "1 + 1"})
    )
    assert "the sandbox has ended" in died.content
    assert after.content == "2"
    assert not supervisor.sandboxes
