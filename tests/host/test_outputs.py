"""What guests display, by honest and by hostile ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from tests.inside import GUEST
from tests.thread_limits import WITHOUT_UNHELD

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("kept_supervisor")]


SupervisorOf = pyisolate.Supervisor
COMMAND = [sys.executable, "-m", "pyisolate.cli.main", "run"]
RICH = "class Rich:\n    def _repr_html_(self): return '<b>x</b>'\n    def __repr__(self): return 'Rich()'\n"


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_display_and_the_last_value_arrive(supervisor: SupervisorOf, isolation: Any) -> None:
    with supervisor.spawn("rich", isolation=isolation, limits=WITHOUT_UNHELD) as sandbox:
        result = sandbox.exec(RICH + "display(Rich(), 3)\nRich()")
        assert [(one.kind, dict(one.data)) for one in result.outputs] == [
            ("display_data", {"text/html": "<b>x</b>", "text/plain": "Rich()"}),
            ("display_data", {"text/plain": "3"}),
            ("execute_result", {"text/html": "<b>x</b>", "text/plain": "Rich()"}),
        ]
        assert (str(result.value), result.value_is_repr) == ("Rich()", isolation == "process")
        assert result.outputs[0].untrusted == ("text/html",)
        assert sandbox.exec("1").outputs == ()
        with pytest.raises(pyisolate.GuestError) as caught:
            sandbox.exec("display(Rich())\n1 / 0")
        assert [list(one.data) for one in caught.value.outputs] == [["text/html", "text/plain"]]


@pytest.mark.parametrize("end", ["while True: pass", "import os; os._exit(1)", "import sys; sys.exit(2)"])
def test_what_was_displayed_before_an_end_is_there(supervisor: SupervisorOf, end: str) -> None:
    with supervisor.spawn("ended") as sandbox:
        try:
            outputs = sandbox.exec(f"display('kept')\n{end}", timeout=0.5).outputs
        except pyisolate.SandboxError as error:
            outputs = error.outputs
    assert [one.data for one in outputs] == [{"text/plain": "'kept'"}]


def send(frame: str) -> str:
    """Return source of a guest that writes to the channel by itself."""
    return f"guest = {GUEST}\nwire = __import__('sys').modules['pyisolate.cell.wire']\n{frame}"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("while True: guest.send(wire.Shown(kind='display_data', text={'a': 'b'}))", pyisolate.OutputExceeded),
        ("big = b'x' * (15 << 20)\nwhile True: guest.send(wire.Shown(kind='display_data', data={'a': big}))",
         pyisolate.OutputExceeded),
        ("guest.send(wire.Shown(kind='nonsense', text={}))", pyisolate.SandboxDied),
        ("guest.send(wire.Shown(kind='display_data', text={str(n): '' for n in range(17)}))", pyisolate.SandboxDied),
        ("guest.send(wire.Shown(kind='display_data', metadata={'a': {'b': [[]]}}))", pyisolate.SandboxDied),
        ("guest._channel.sendall(b'\\x00\\xff\\xff\\xff\\x81')", pyisolate.TimeoutError),
        ("guest._channel.sendall(b'\\x7f\\xff\\xff\\xff\\x81')", pyisolate.SandboxDied),
    ],
)  # fmt: skip
def test_hostile_outputs_are_refused_with_bounds(supervisor: SupervisorOf, source: str, error: type[Exception]) -> None:
    with supervisor.spawn("other") as other, supervisor.spawn("hostile") as sandbox:
        with pytest.raises(error) as caught:
            sandbox.exec(send(source) + "\nimport time; time.sleep(60)", timeout=5)
        assert sandbox.closed
        assert other.eval("1") == 1
        if isinstance(caught.value, pyisolate.OutputExceeded):
            assert caught.value.denial_event is not None
            assert caught.value.denial_event.capability == "limit.output"


def test_outputs_between_requests_are_bounded_too(supervisor: SupervisorOf) -> None:
    flood = "guest.send(wire.Shown(kind='display_data', text={'a': 'b'}))"
    source = send(f"def flood():\n    recv()\n    while True: {flood}\n")
    with supervisor.spawn("hostile") as sandbox:
        sandbox.exec(source + "import threading; threading.Thread(target=flood, daemon=True).start()")
        sandbox.post("begin")
        with pytest.raises(pyisolate.OutputExceeded):
            sandbox.exec("import time; time.sleep(60)", timeout=5)


@pytest.fixture
def plots(supervisor: SupervisorOf, tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("matplotlib")
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in (cache, *tmp_path.parents[:2], tmp_path):
        path.chmod(0o777 if path == cache else 0o755)
    policy = pyisolate.Policy.preset("data").allow_read(str(cache)).allow_write(str(cache)).with_limits(wall="120s")
    with supervisor.spawn("plots", policy, env={"MPLCONFIGDIR": str(cache)}) as sandbox:
        yield sandbox


def test_figures_arrive_as_in_a_notebook(plots: Any) -> None:
    plots.exec("import matplotlib.pyplot as plt")
    result = plots.exec("plt.plot([1, 2])\nplt.show()\nplt.plot([2, 1])\nfig = plt.figure()\nfig")
    assert [one.kind for one in result.outputs] == ["display_data", "execute_result", "display_data"]
    assert all(one.data["image/png"].startswith(b"\x89PNG\r\n") for one in result.outputs)
    assert result.stderr == ""
    assert plots.exec("plt.get_fignums()").value == []
    with pytest.raises(pyisolate.GuestError) as caught:
        plots.exec("plt.plot([1])\n1 / 0")
    assert len(caught.value.outputs) == 1
    assert plots.exec("plt.plot([3]); display(plt.gcf())").outputs[0].untrusted == ()


def test_run_saves_what_a_script_displays(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RICH + "display(Rich())\ndisplay('two')")
    out = tmp_path / "new" / "out"
    done = subprocess.run([*COMMAND, "--outputs", str(out), str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["001.txt", "001.untrusted.html", "002.txt"]
    done = subprocess.run([*COMMAND, "--json", str(script)], capture_output=True, text=True, timeout=60)
    assert [one["data"]["text/plain"] for one in json.loads(done.stdout)["outputs"]] == ["Rich()", "'two'"]


def test_run_saves_figures_that_a_script_left_open(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text("import matplotlib.pyplot as plt\nplt.plot([1, 2])\n")  # pyplot closes it at the script's end
    done = subprocess.run(
        [*COMMAND, "--policy", "data", "--outputs", str(out), str(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (out / "001.png").read_bytes().startswith(b"\x89PNG\r\n")
