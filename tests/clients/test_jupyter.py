"""`pyisolate kernel install`, driven by the real jupyter_client: the protocol, and a session of thirty cells."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.require import require

POLICY = """version: 1
extends: data
fs:
  - {{path: {folder}, allow: [read, write, create]}}
"""


@pytest.fixture(scope="module", autouse=True)
def _the_package_is_installed() -> None:
    require("jupyter", importlib.util.find_spec("ipykernel") is not None, "pip install 'pyisolate-kernel[jupyter]'")


@dataclass
class Cell:
    """What came back of one execution."""

    reply: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, str] = field(default_factory=lambda: {"stdout": "", "stderr": ""})
    results: list[dict[str, Any]] = field(default_factory=list)
    displays: list[dict[str, Any]] = field(default_factory=list)
    #: metadata of `displays`
    facts: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def value(self) -> str | None:
        return self.results[0]["text/plain"] if self.results else None

    @property
    def trace(self) -> str:
        return "\n".join(self.errors[0]["traceback"])


class Notebook:
    """A real client and its kernel."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.connect()

    def connect(self) -> None:
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, *, line: str | None = None, **options: Any) -> Cell:
        """Run a cell; `line` answers its question."""
        cell = Cell()

        def take(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                cell.streams[content["name"]] += content["text"]
            elif message["msg_type"] == "execute_result":
                cell.results.append(content["data"])
            elif message["msg_type"] == "display_data":
                cell.displays.append(content["data"])
                cell.facts.append(content["metadata"])
            elif message["msg_type"] == "error":
                cell.errors.append(content)

        def answer(message: dict[str, Any]) -> None:
            assert line is not None
            self.client.input(line)

        cell.reply = self.client.execute_interactive(
            code, output_hook=take, stdin_hook=answer, allow_stdin=line is not None, timeout=60, **options
        )["content"]
        return cell

    def interrupted(self, code: str) -> Cell:
        """Run a cell that says `ready`, and interrupt it then."""
        cell = Cell()
        asked = self.client.execute(code)
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream" and "ready" in message["content"]["text"]:
                self.manager.interrupt_kernel()
            elif message["msg_type"] == "error":
                cell.errors.append(message["content"])
            elif message["content"].get("execution_state") == "idle" and message["parent_header"]["msg_id"] == asked:
                break
        while (reply := self.client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass
        cell.reply = reply["content"]
        return cell

    def ask(self, kind: str, *arguments: Any) -> dict[str, Any]:
        asked = getattr(self.client, kind)(*arguments)
        while (reply := self.client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != asked:
            pass
        content: dict[str, Any] = reply["content"]
        return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    made.chmod(0o777)  # as root the guest is another user
    for parent in made.parents[:3]:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def specs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where the command installed a kernel, under a policy file."""
    from jupyter_client.kernelspec import KernelSpecManager

    prefix = tmp_path_factory.mktemp("prefix")
    policy = prefix / "policy.yaml"
    policy.write_text(POLICY.format(folder=folder))
    command = [sys.executable, "-m", "pyisolate", "kernel", "install", "--prefix", str(prefix)]
    subprocess.run([*command, "--name", "walled", "--policy", str(policy)], check=True, timeout=60)
    subprocess.run(command, check=True, timeout=60)
    specs = KernelSpecManager(kernel_dirs=[str(prefix / "share/jupyter/kernels")])
    assert json.loads((prefix / "share/jupyter/kernels/walled/kernel.json").read_text())["language"] == "python"
    return specs


@contextlib.contextmanager
def started(specs: Any, name: str) -> Iterator[Notebook]:
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
    manager.start_kernel()
    try:
        made = Notebook(manager)
        yield made
        made.client.stop_channels()
    finally:
        manager.shutdown_kernel()
        manager.cleanup_resources()


@pytest.fixture(scope="module")
def notebook(specs: Any) -> Iterator[Notebook]:
    with started(specs, "walled") as made:
        yield made


def test_streams_values_and_state(notebook: Notebook) -> None:
    cell = notebook.run("import os, sys\nprint('hello')\nprint('oh', file=sys.stderr)\nx = 6\nx * 7")
    assert cell.reply["status"] == "ok"
    assert cell.streams == {"stdout": "hello\n", "stderr": "oh\n"}
    assert cell.value == "42"
    assert notebook.run("x").value == "6"
    assert notebook.run("os.getpid()").value == "2"  # within the cell
    assert notebook.run("object()").value.startswith("<object object")
    assert notebook.run("y = 1").value is None
    counts = [notebook.run("1").reply["execution_count"] for _ in range(2)]
    assert counts[1] == counts[0] + 1
    expressions = notebook.run("z = 2", user_expressions={"a": "z + 1", "b": "nowhere"}).reply["user_expressions"]
    assert expressions["a"]["data"]["text/plain"] == "3"
    assert expressions["b"]["ename"] == "NameError"


def test_an_error_has_the_guests_traceback_and_the_state_stays(notebook: Notebook) -> None:
    notebook.run("kept = 5\ndef broken():\n    return 1 / 0")
    cell = notebook.run("broken()")
    assert cell.reply["status"] == "error"
    assert cell.reply["ename"] == "ZeroDivisionError"
    assert "return 1 / 0" in cell.trace
    assert "ended" not in cell.trace
    assert notebook.run("kept").value == "5"
    assert notebook.run("import sys; sys.exit(3)").reply["ename"] == "SystemExit"
    assert notebook.run("def f(:").reply["ename"] == "SyntaxError"


def test_a_refusal_is_a_table_and_an_error(notebook: Notebook, folder: Path) -> None:
    cell = notebook.run("open('/etc/shadow').read()")
    assert cell.reply["ename"] == "PolicyError"
    (table,) = cell.displays
    assert "<td>/etc/shadow</td>" in table["text/html"]
    code = cell.facts[0]["pyisolate"]["denials"][0]["code"]
    assert code in ("NOT_GRANTED", "SCOPE_INSUFFICIENT"), code
    assert f"<td>{code}</td>" in table["text/html"]
    assert "fs.read" in table["text/plain"]
    assert code in table["text/plain"]
    assert "open('/etc/shadow').read()" in cell.trace
    caught = notebook.run("try:\n    open('/etc/shadow')\nexcept PermissionError:\n    pass\n7")
    assert caught.value == "7"
    assert "/etc/shadow" in caught.displays[0]["text/plain"]
    hostile = notebook.run("try:\n    open('/<script>alert(1)</script>')\nexcept PermissionError:\n    pass")
    assert "<script" not in hostile.displays[0]["text/html"]
    granted = notebook.run(f"import os; os.listdir({str(folder)!r})")  # the control
    assert granted.reply["status"] == "ok"
    assert not granted.displays


def test_what_a_guest_displays_cannot_act_in_the_page(notebook: Notebook) -> None:
    source = """
class Page:
    def _repr_html_(self):
        return "<b>bold</b><script>parent.alert('\\"out')</script>"
class Script:
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"application/javascript": "alert(1)", "text/markdown": "<img onerror=x>", "image/svg+xml": "<svg/>"}
display(Script())
Page()
"""
    cell = notebook.run(source)
    html = cell.results[0]["text/html"]
    assert html.startswith("<iframe sandbox ")
    assert "<script" not in html
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "default-src &#x27;none&#x27;" in html
    shown = cell.displays[0]
    assert set(shown) == {"text/plain", "text/html"}
    assert shown["text/html"].startswith('<img alt="SVG" src="data:image/svg+xml;base64,')
    deep = (
        "class Deep:\n    def _repr_mimebundle_(self, **_):\n"
        "        return {'application/json': '[' * 980 + ']' * 980, 'text/plain': 'deep'}\nDeep()"
    )
    assert notebook.run(deep).results == [{"text/plain": "deep"}]
    assert "application/json" in notebook.run(deep.replace("980", "20")).results[0]  # the control
    moved = notebook.run("print('\\x1b]0;title\\x07\\x1b[31mred\\x1b[0m')")
    assert moved.streams["stdout"] == "\\x1b]0;title\\x07\x1b[31mred\x1b[0m\n"


def test_an_interrupt_keeps_the_state(notebook: Notebook) -> None:
    notebook.run("count = 41")
    cell = notebook.interrupted("print('ready', flush=True)\nwhile True:\n    pass")
    assert cell.reply["status"] == "error"
    assert cell.reply["ename"] == "KeyboardInterrupt"
    assert notebook.run("count + 1").value == "42"


def test_completion_inspection_and_whether_code_is_complete(notebook: Notebook) -> None:
    notebook.run("import math\ndef greet(name, *, loud=False):\n    '''Say hello.'''\n    return name\nfortune = 7")
    assert notebook.ask("complete", "fort", 4)["matches"] == ["fortune"]
    found = notebook.ask("complete", "1 + math.fact", 13)
    assert (found["matches"], found["cursor_start"], found["cursor_end"]) == (["factorial"], 9, 13)
    assert notebook.ask("complete", "nowhere.x", 9)["matches"] == []
    described = notebook.ask("inspect", "greet(", 6)
    assert described["found"]
    assert "greet(name, *, loud=False)" in described["data"]["text/plain"]
    assert "Say hello." in described["data"]["text/plain"]
    assert "return name" in notebook.ask("inspect", "greet", 2, 1)["data"]["text/plain"]
    assert not notebook.ask("inspect", "nowhere", 3)["found"]
    assert notebook.ask("is_complete", "x = 1")["status"] == "complete"
    assert notebook.ask("is_complete", "await x")["status"] == "complete"
    assert notebook.ask("is_complete", "for i in x:") == {"status": "incomplete", "indent": "    "}
    assert notebook.ask("is_complete", "x = )")["status"] == "invalid"
    # in the sandbox: an attribute's own code can be refused, and reaches no file of the host's
    notebook.run("class Trap:\n    def __dir__(self):\n        return [open('/etc/shadow').read()]\ntrap = Trap()")
    assert notebook.ask("complete", "trap.", 5)["matches"] == []


def test_input_asks_the_front_end(notebook: Notebook) -> None:
    assert notebook.run("name = input('who? ')\nname.upper()", line="ada").value == "'ADA'"
    refused = notebook.run("input()")
    assert refused.reply["ename"] == "EOFError"
    assert "in input" not in refused.trace, "no line but the cell's own"


def test_after_a_limit_the_next_cell_gets_a_new_sandbox(notebook: Notebook) -> None:
    notebook.run("lost = 1")
    cell = notebook.run("import os; os._exit(3)")
    assert cell.reply["ename"] == "SandboxDied"
    assert "The next cell starts a new one." in cell.trace
    assert notebook.run("lost").reply["ename"] == "NameError"


def test_a_restart_forgets_and_a_shutdown_ends_every_process(specs: Any) -> None:
    with started(specs, "pyisolate") as notebook:
        notebook.run("before = 1")
        notebook.client.stop_channels()
        first = processes_of(notebook)
        notebook.manager.restart_kernel()
        notebook.connect()
        assert notebook.run("before").reply["ename"] == "NameError"
        assert notebook.run("1 + 1").value == "2"
        assert not left_of(first)
        second = processes_of(notebook)
        assert len(second) > 2  # the control: the kernel, its zygote, the guest
        assert all(one.is_running() for one in second[:1])
    assert not left_of(second)


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that do not end; a cell is taken apart after its supervisor has gone."""
    _, left = psutil.wait_procs(processes, timeout=20)
    return [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def processes_of(notebook: Notebook) -> list[psutil.Process]:
    kernel = psutil.Process(notebook.manager.provisioner.pid)
    return [kernel, *kernel.children(recursive=True)]


#: (source, what its value is, None for nothing to look at)
SESSION: list[tuple[str, str | None]] = [
    ("import json, math, os, io", None),
    ("import numpy as np\nimport pandas as pd", None),
    ("rng = np.random.default_rng(1)\nrng.integers(10, size=3).sum() >= 0", "np.True_|True"),
    ("folder = {folder!r}\nsorted(os.listdir(folder))", "['in.csv']"),
    ("frame = pd.read_csv(folder + '/in.csv')\nlen(frame)", "3"),
    ("frame", "HTML"),
    ("frame.describe()", "HTML"),
    ("frame['total'] = frame.price * frame.number\nfloat(frame.total.sum())", "32.0"),
    ("frame.groupby('kind').total.sum().to_dict()", "{'a': 12.0, 'b': 20.0}"),
    ("frame.nothing", "!AttributeError"),
    ("frame['nothing']", "!KeyError"),
    ("import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt", None),
    ("plt.plot([1, 3, 2])\nplt.show()", "PNG"),
    ("figure, axes = plt.subplots()\naxes.bar(['a', 'b'], [1, 2]);", "PNG"),
    ("print('one', end=' ')\nprint('two')", None),
    ("print('ready', flush=True)\nwhile True: pass", "INTERRUPT"),
    ("len(frame)", "3"),
    ("def mean(values):\n    return sum(values) / len(values)", None),
    ("mean(frame.price)", "3.0|np.float64(3.0)"),
    ("mean([])", "!ZeroDivisionError"),
    ("open('notes.txt', 'w').write('kept')", "4"),
    ("open('notes.txt').read()", "'kept'"),
    ("frame.to_csv(folder + '/out.csv', index=False)", None),
    ("open('/etc/shadow')", "!PolicyError"),
    ("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)", "!PolicyError"),
    ("class Point:\n    def __init__(self, x): self.x = x\n    def __repr__(self): return f'Point({self.x})'", None),
    ("Point(3)", "Point(3)"),
    ("def steps():\n    yield from range(3)\nlist(steps())", "[0, 1, 2]"),
    ("display({'a': 1})\njson.dumps({'done': True})", "'{\"done\": true}'"),
    ("_total = float(frame.total.sum())\n_total, len(frame)", "(32.0, 3)"),
]


def test_a_session_of_thirty_cells(notebook: Notebook, folder: Path) -> None:
    assert len(SESSION) == 30
    (folder / "in.csv").write_text("kind,price,number\na,3,4\nb,2,5\nb,4,2.5\n")
    (folder / "in.csv").chmod(0o644)
    for number, (source, wanted) in enumerate(SESSION):
        source = source.replace("{folder!r}", repr(str(folder)))
        cell = notebook.interrupted(source) if wanted == "INTERRUPT" else notebook.run(source)
        where = f"cell {number}: {source}: {cell}"
        if wanted == "INTERRUPT":
            assert cell.reply["ename"] == "KeyboardInterrupt", where
        elif wanted is not None and wanted.startswith("!"):
            assert cell.reply["ename"] == wanted[1:], where
        else:
            assert cell.reply["status"] == "ok", where
        if wanted == "HTML":
            assert cell.results[0]["text/html"].startswith("<iframe sandbox "), where
            assert "price" in cell.results[0]["text/plain"], where
        elif wanted == "PNG":
            pictures = [shown["image/png"] for shown in cell.displays if "image/png" in shown]
            assert base64.b64decode(pictures[0]).startswith(b"\x89PNG"), where
        elif wanted is not None and wanted[0] != "!" and wanted != "INTERRUPT":
            assert cell.value in wanted.split("|"), where
    assert "total" in (folder / "out.csv").read_text()
