"""A real CodeAgent with a scripted model: its code runs in a sandbox, its tools on the host."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest

import pyisolate
from tests.require import require


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    require("smolagents", importlib.util.find_spec("smolagents") is not None, "pip install smolagents")
    with pyisolate.Supervisor(pool_size=1) as made:
        yield made


def agent_of(supervisor: pyisolate.Supervisor, steps: list[str], tools: list[Any], **options: Any) -> Any:
    """An agent whose model gives these pieces of code, one a step."""
    from smolagents import ChatMessage, CodeAgent, MessageRole, Model

    from pyisolate.integrations.smolagents_executor import SandboxPythonExecutor

    class Scripted(Model):
        def generate(self, messages: Any, **_: Any) -> ChatMessage:
            self.prompts.append(messages)
            code = steps[len(self.prompts) - 1]
            return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: next.\n<code>\n{code}\n</code>")

    model = Scripted()
    model.prompts = []
    executor = SandboxPythonExecutor(options.pop("policy", "compute"), supervisor=supervisor, timeout=20)
    return CodeAgent(tools=tools, model=model, executor=executor, verbosity_level=0, max_steps=len(steps), **options)


def city_tool() -> Any:
    from smolagents import tool

    @tool
    def temperature(city: str) -> int:
        """Return a temperature, and the process that knows it.

        Args:
            city: where
        """
        temperature.asked = (city, os.getpid())
        return 21

    return temperature


def test_code_runs_in_the_sandbox_and_tools_on_the_host(supervisor: pyisolate.Supervisor) -> None:
    tool = city_tool()
    steps = [
        "import os\nx = temperature(city='Oslo')\nprint(os.getpid())",
        "final_answer(x * 2)\nraise RuntimeError('not reached')",
    ]
    with agent_of(supervisor, steps, [tool]) as agent:
        assert agent.run("How warm?") == 42
        first = agent.memory.steps[1]
        assert "2" in first.observations.split()  # the pid within the cell
    assert not supervisor.sandboxes


def test_a_refusal_is_the_steps_error_and_the_agent_goes_on(supervisor: pyisolate.Supervisor) -> None:
    steps = ["open('/etc/passwd').read()", "final_answer('no access')"]
    with agent_of(supervisor, steps, []) as agent:
        assert agent.run("Read it") == "no access"
        error = agent.memory.steps[1].error
    assert "fs.read, on /etc/passwd" in str(error)
    policy = pyisolate.Policy.preset("compute").allow_read("/etc/hostname")
    with agent_of(supervisor, ["final_answer(open('/etc/hostname').read())"], [], policy=policy) as agent:
        assert agent.run("Read it")  # the control


def test_no_step_reads_which_files_a_host_has(supervisor: pyisolate.Supervisor) -> None:
    from pyisolate.integrations.smolagents_executor import SandboxPythonExecutor

    executor = SandboxPythonExecutor("compute", supervisor=supervisor)
    try:
        executor.send_tools({})
        said = []
        for path in ("/etc/shadow", "/etc/absent"):
            with pytest.raises(pyisolate.GuestError) as raised:
                executor(f"import os; os.stat({path!r})")
            said.append(str(raised.value).replace(path, "PATH"))
            assert bool(raised.value.denials) is (path == "/etc/shadow")  # whom it may concern has the event
        assert said[0] == said[1]
    finally:
        executor.cleanup()


def test_variables_arrive_and_an_answer_passes_except_clauses(supervisor: pyisolate.Supervisor) -> None:
    steps = ["try:\n    final_answer(sum(numbers))\nexcept Exception:\n    pass\nfinal_answer(-1)"]
    with agent_of(supervisor, steps, []) as agent:
        assert agent.run("Sum them up", additional_args={"numbers": [1, 2, 3]}) == 6
