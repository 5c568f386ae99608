"""Agents of smolagents in sandboxes: `CodeAgent(..., executor=SandboxPythonExecutor("compute"))`.

The agent's code runs in a sandbox that lasts as long as the agent; its tools run here, called by the guest as functions
of the host, with arguments and results as plain data.
"""

from __future__ import annotations

from typing import Any, Unpack

from smolagents.local_python_executor import CodeOutput, PythonExecutor
from smolagents.tools import Tool

from ..errors import PolicyError, SandboxError
from ..sandbox.process import Sandbox
from ..supervisor.options import PolicyLike, SpawnOptions
from ..supervisor.supervisor import Supervisor
from .kept_sandbox import KeptSandbox
from .model_text import for_model

#: What ends the code at the place where the agent gives its answer, past every `except Exception`.
_FINAL = """
def final_answer(*arguments, **named):
    give_final_answer(*arguments, **named)
    raise SystemExit(0)
"""


class SandboxPythonExecutor(PythonExecutor):  # type: ignore[misc]
    """A `PythonExecutor` of smolagents whose code runs in a sandbox under `policy`.

    `timeout`: seconds for one step of the agent; `tool_timeout`: for one call of a tool. `supervisor`: default is the
    process's. `options` go to `spawn`. A refusal is the step's error, with the rule that would allow it; `denials` of
    the error holds the events. A sandbox that ended is replaced at the next step, with the
    variables that the agent was given.
    """

    def __init__(
        self,
        policy: PolicyLike | None = None,
        *,
        timeout: float | None = None,
        tool_timeout: float | None = 30.0,
        supervisor: Supervisor | None = None,
        **options: Unpack[SpawnOptions],
    ) -> None:
        self._timeout, self._tool_timeout = timeout, tool_timeout
        self._kept = KeptSandbox("smolagents", policy, supervisor, options, self._begin)
        self._tools: dict[str, Tool] = {}
        self._variables: dict[str, Any] = {}
        self._answers: list[Any] = []

    def send_tools(self, tools: dict[str, Tool]) -> None:
        """Offer the tools to the guest by their names; another set of tools gets a new sandbox."""
        if tools.keys() != self._tools.keys():
            self.cleanup()
        self._tools = dict(tools)

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Set variables of the guest's module; they are sent by value."""
        self._variables |= variables
        if variables and self._kept.current is not None:
            self._kept.living().call(_set_variables, variables)

    def __call__(self, code_action: str) -> CodeOutput:
        """Run one step's code. Raises SandboxError: what the agent reads as the step's error."""
        sandbox = self._kept.living()
        self._answers.clear()
        seen = {event.event_id for event in sandbox.get_denial_events()}
        try:
            result = sandbox.exec(code_action, timeout=self._timeout)
        except SandboxError as error:
            error.denials = tuple(one for one in sandbox.get_denial_events() if one.event_id not in seen)
            if len(for_model(error.denials)) < len(error.denials) and not isinstance(error, PolicyError):
                # the hint may say that a file which was looked for exists on the host
                error.hint, error.args = None, (error.summary,)
            raise
        if self._answers:
            return CodeOutput(output=self._answers[0], logs=result.stdout, is_final_answer=True)
        return CodeOutput(output=result.value, logs=result.stdout, is_final_answer=False)

    def cleanup(self) -> None:
        """End the sandbox; agents call it at their end."""
        self._kept.end()

    def _begin(self, sandbox: Sandbox) -> None:
        """Offer the tools to a new sandbox, and set the variables that the agent was given."""
        for name, tool in self._tools.items():
            offered = self._take_answer if name == "final_answer" else tool
            guests_name = "give_final_answer" if name == "final_answer" else name
            sandbox.function(name=guests_name, timeout=self._tool_timeout)(_plain(offered))
        if "final_answer" in self._tools:
            sandbox.exec(_FINAL)
        if self._variables:
            sandbox.call(_set_variables, self._variables)

    def _take_answer(self, *arguments: Any, **named: Any) -> None:
        """The tool itself judges the answer, here; what it makes of it is the agent's."""
        self._answers.append(self._tools["final_answer"](*arguments, **named))


def _plain(tool: Any) -> Any:
    """Return a function around a tool, which is an object with a signature of its own."""

    def call(*arguments: Any, **named: Any) -> Any:
        return tool(*arguments, **named)

    call.__doc__ = getattr(tool, "description", None)
    return call


def _set_variables(variables: dict[str, Any]) -> None:
    """Run in the guest; sent there by value."""
    import __main__

    __main__.__dict__.update(variables)
