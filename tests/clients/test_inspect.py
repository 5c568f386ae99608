"""inspect-ai: its own checks of sandboxes, and an evaluation by a scripted model whose tools are a sandbox's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from pyisolate import Policy, api
from tests.require import require

#: What the checks run.
PROGRAMS = (
    "rm",
    "rmdir",
    "mkdir",
    "touch",
    "chmod",
    "cat",
    "sleep",
    "wc",
    "printf",
    "whoami",
    "ls",
    "sh",
    "ps",
    "grep",
)
#: Of inspect-ai's checks, those that ask for what a sandbox does not give, and why.
NOT_APPLICABLE = {
    "test_read_file_not_allowed": "the host reads the workspace: modes bind the guest",
    "test_write_text_file_without_permissions": "the host writes the workspace: modes bind the guest",
    "test_write_binary_file_without_permissions": "the host writes the workspace: modes bind the guest",
    "test_read_file_is_directory": "/etc is not granted: PermissionError",
    "test_exec_as_user": "a guest has one user",
    "test_exec_timeout_kills_process": "ps reads /proc, which is not granted; the next one waits as long",
    "test_exec_timeout_kills_child_processes": "ps reads /proc, which is not granted",
}


@pytest.fixture(scope="module", autouse=True)
def _the_supervisor_ends() -> Iterator[None]:
    have = importlib.util.find_spec("inspect_ai") is not None
    require("inspect-ai", have, "pip install 'pyisolate-kernel[inspect]'")
    supervisor = api.default_supervisor()
    yield
    supervisor.close()


def granted(path: Path) -> str:
    policy = (
        Policy.preset("compute").with_workspace("256MiB").with_limits(memory="1GiB", output="8MiB", file_size="64MiB")
    )
    for program in PROGRAMS:
        policy = policy.allow_exec(f"/usr/bin/{program}")
    (path / "checks.yaml").write_text(policy.allow_read("/usr/bin").to_yaml())
    return str(path / "checks.yaml")


def test_its_own_checks_of_sandboxes_pass(tmp_path: Path) -> None:
    from inspect_ai.util._sandbox import self_check
    from inspect_ai.util._sandbox.registry import registry_find_sandboxenv

    kind: Any = registry_find_sandboxenv("pyisolate")  # by the entry point
    config, failed = granted(tmp_path), []

    async def run() -> int:
        await kind.task_init("checks", config)
        environments = await kind.sample_init("checks", config, {})
        ran = 0
        for name in self_check.__all__:
            if name in NOT_APPLICABLE:
                continue
            try:
                await getattr(self_check, name)(environments["default"])
            except Exception as error:
                failed.append(f"{name}: {error!r}")
            ran += 1
        await kind.sample_cleanup("checks", config, environments, False)
        return ran

    assert anyio.run(run) > 30
    assert not failed, "\n".join(failed)


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash, python

CALLS = [
    ("bash", {"command": "cat given.txt; echo 6 > n.txt"}),
    ("python", {"code": "print(int(open('n.txt').read()) * 7)"}),
    ("bash", {"command": "cat /etc/shadow"}),
    ("bash", {"command": "cat n.txt"}),
]

@task
def scripted():
    answers = [ModelOutput.for_tool_call("mockllm", name, given) for name, given in CALLS]
    model = get_model("mockllm/model", custom_outputs=[*answers, ModelOutput.from_content("mockllm", "done")])

    async def count(text):  # its own asks the network for a table
        return len(text)

    model.api.count_text_tokens = count
    return Task(
        dataset=[Sample("Go", files={"given.txt": "for you\\n"})],
        solver=[use_tools(bash(timeout=20), python(timeout=20)), generate()],
        model=model,
        sandbox="pyisolate",
    )
"""


def test_an_evaluation_works_in_it_and_its_log_tells_what_was_refused(tmp_path: Path) -> None:
    from inspect_ai.event import InfoEvent
    from inspect_ai.log import list_eval_logs, read_eval_log
    from inspect_ai.model import ChatMessageTool

    (tmp_path / "task.py").write_text(TASK)
    command = [sys.executable, "-m", "inspect_ai", "eval", "task.py", "--log-dir", "logs", "--display", "none"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    log = read_eval_log(list_eval_logs(str(tmp_path / "logs"))[0])
    assert (done.returncode, log.status) == (0, "success"), done.stdout + done.stderr
    (sample,) = log.samples or ()
    given, product, refused, control = [one.text for one in sample.messages if isinstance(one, ChatMessageTool)]
    assert (given, product, control) == ("for you\n", "42\n", "6\n")
    assert "refused: fs.read on /etc/shadow" in refused
    told: Any = [one.data for one in sample.events if isinstance(one, InfoEvent) and one.source == "pyisolate"]
    assert "/etc/shadow" in {event["target"] for events in told for event in events}


def test_a_command_that_ends_its_sandbox_says_so_and_the_next_has_another(tmp_path: Path) -> None:
    from inspect_ai.util import ExecRemoteAwaitableOptions

    from pyisolate.integrations.inspect_sandbox import InspectSandbox

    (tmp_path / "policy.yaml").write_text("extends: compute\nprocess: [{exec: /bin/sh}]\nlimits: {cpu: 1s}\n")

    async def run() -> tuple[Any, ...]:
        environments = await InspectSandbox.sample_init("limits", str(tmp_path / "policy.yaml"), {})
        own = environments["default"]
        try:
            await own.write_file("kept.txt", "until then")
            ended = await own.exec(["sh", "-c", "while :; do :; done"])
            with pytest.raises(FileNotFoundError):
                await own.read_file("kept.txt")
            with pytest.raises(PermissionError):
                await own.exec(["/bin/cat", "/etc/shadow"])
            after = await own.exec(["sh", "-c", "echo on; exit 3"])
            given = ExecRemoteAwaitableOptions(input="given", env={"WHAT": "it"}, timeout=20)
            remote = await own.exec_remote(["sh", "-c", "read it; echo $it $WHAT"], given, stream=False)
            with pytest.raises(TimeoutError):
                await own.exec_remote(
                    ["sh", "-c", "while :; do :; done"], ExecRemoteAwaitableOptions(timeout=0.2), stream=False
                )
            with pytest.raises(NotImplementedError, match="one request at a time"):
                await own.exec_remote(["sh", "-c", "echo on"])
            return ended, after, remote
        finally:
            await InspectSandbox.sample_cleanup("limits", None, environments, False)

    ended, after, remote = anyio.run(run)
    assert not ended.success
    assert "the sandbox has ended: its files are gone" in ended.stderr
    assert (after.returncode, after.stdout, after.stderr) == (3, "on\n", "")
    assert (remote.returncode, remote.stdout) == (0, "given it\n")
