"""A session as people have it in a notebook: cells in order, with plots, frames, errors, interrupts and files."""

from __future__ import annotations

from typing import Any

import pytest

import pyisolate

pytestmark = pytest.mark.once


DATA = pyisolate.Policy.preset("data").with_limits(wall="120s", memory="2GiB")


def figures(result: Any) -> int:
    return sum("image/png" in output.data for output in result.outputs)


def raised(sandbox: pyisolate.Sandbox, source: str, **options: Any) -> pyisolate.SandboxError:
    with pytest.raises(pyisolate.SandboxError) as caught:
        sandbox.exec(source, **options)
    return caught.value


@pytest.mark.slow
def test_a_session_of_thirty_cells(supervisor: pyisolate.Supervisor) -> None:
    for name in ("numpy", "pandas", "matplotlib"):
        pytest.importorskip(name)
    with supervisor.spawn("notebook", DATA, workspace="64MiB") as nb:
        run = nb.exec
        # values and text
        assert run("1 + 1").value == 2
        assert run("_ * 21").value == 42
        assert run("x = 5\nprint('x is', x)").stdout == "x is 5\n"
        assert run("{'a': (1, {2}), 'b': 2**80}").value == {"a": (1, {2}), "b": 2**80}
        assert run("def area(r):\n    return 3 * r * r").value is None
        assert nb.call("area", 2) == 12
        assert "return 3" in run("import inspect; inspect.getsource(area)").value
        assert run("name = input()\nname.title()", stdin="ada\n").value == "Ada"
        # errors leave the state
        error = raised(nb, "area('x')")
        assert isinstance(error, pyisolate.GuestError)
        assert error.type_name == "TypeError"
        assert "return 3 * r * r" in error.traceback
        assert isinstance(raised(nb, "for"), pyisolate.GuestError)
        assert isinstance(raised(nb, "open('/etc/shadow')"), pyisolate.PolicyError)
        assert run("x").value == 5
        # interrupts leave it too
        error = raised(nb, "print('working')\nwhile True: x += 0", timeout=0.5)
        assert isinstance(error, pyisolate.TimeoutError)
        assert error.stdout == "working\n"
        assert run("x").value == 5
        # awaiting
        assert run("import asyncio\nasync def later(v):\n    await asyncio.sleep(0.01)\n    return v").value is None
        assert run("await later('done')").value == "done"
        assert run("await asyncio.gather(later(1), later(2))").value == [1, 2]
        # arrays and frames
        assert run("import numpy as np\na = np.arange(6).reshape(2, 3)\na").value.sum() == 15
        assert run("import pandas as pd\nframe = pd.DataFrame({'n': [1, 2], 't': ['x', 'y']})").value is None
        shown = run("frame")
        assert list(shown.value["n"]) == [1, 2]
        assert "<table" in shown.outputs[0].data["text/html"]
        assert shown.outputs[0].untrusted == ("text/html",)
        assert int(run("frame.n.sum()").value) == 3
        # files in and out
        nb.files.write("in.csv", "n\n1\n2\n3\n")
        assert list(run("pd.read_csv('in.csv')").value["n"]) == [1, 2, 3]
        run("frame.to_csv('out.csv', index=False)")
        assert nb.files.read("out.csv") == b"n,t\n1,x\n2,y\n"
        # plots
        run("import matplotlib.pyplot as plt")
        assert figures(run("plt.plot([1, 2])\nplt.show()\nplt.plot([2, 1])")) == 2
        assert figures(run("frame.n.plot()")) == 1
        assert figures(run("fig, axes = plt.subplots()\naxes.hist([1, 2, 2])\nfig")) == 1
        assert run("fig.savefig('plot.svg')").outputs == ()
        assert nb.files.read("plot.svg").startswith(b"<?xml")
        # programs are not granted, and an exit ends the cell only
        assert isinstance(raised(nb, "import subprocess; subprocess.run(['ls'])"), pyisolate.PolicyError)
        assert run("import sys; sys.exit(3)").exit_code == 3
        assert run("x, len(_) if isinstance(_, str) else 0").value[0] == 5
        assert nb.stats.requests >= 30
