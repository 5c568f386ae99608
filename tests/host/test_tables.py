"""Frames and tables between host and guest, with real libraries in both."""

from __future__ import annotations

import importlib.util

import pytest

import pyisolate
from tests.inside import GUEST

pytestmark = pytest.mark.usefixtures("kept_supervisor")


SupervisorOf = pyisolate.Supervisor
DATA = pyisolate.Policy.preset("data").with_limits(wall="120s", memory="2GiB")

if importlib.util.find_spec("polars") is not None:  # the threads that it starts once are no test's
    importlib.import_module("polars").DataFrame({"a": [1], "b": [2]}).with_columns(c=1).to_arrow()


def test_frames_of_pandas_go_both_ways(supervisor: SupervisorOf) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"kind": pandas.Categorical(["a", "b", "a"]), "n": pandas.array([1, None, 3], dtype="Int64")},
        index=pandas.date_range("2020", periods=3, tz="Europe/Berlin", name="when"),
    )
    frame.index.freq = None
    with supervisor.spawn("pandas", DATA) as sandbox:
        sandbox.exec("import pandas\ndef same(f): return f")
        sandbox.post(frame)
        for found in (sandbox.call("same", frame), sandbox.eval("recv(5)")):
            pandas.testing.assert_frame_equal(found, frame)
        result = sandbox.exec("pandas.DataFrame({'a': [1, 2]}).sum()")
        assert (int(result.value["a"]), result.value_is_repr) == (3, False)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_tables_of_polars_and_arrow_go_both_ways(supervisor: SupervisorOf, library: str) -> None:
    module = pytest.importorskip(library)
    make = module.DataFrame if library == "polars" else module.table
    table = make({"a": [1, None], "b": ["x", "y"]})
    with supervisor.spawn(library, DATA) as sandbox:
        sandbox.exec(f"import {library} as made\ndef same(t): return t")
        sandbox.post(table)
        assert sandbox.exec("got = recv(5)\ngot").value.equals(table)
        assert sandbox.call("same", table).equals(table)


def test_a_hostile_table_ends_its_sandbox_only(supervisor: SupervisorOf) -> None:
    pytest.importorskip("pandas")
    source = (
        "import sys\nwire = sys.modules['pyisolate.cell.wire']\nmsgspec = sys.modules['msgspec']\n"
        "form = ['typed', 'datetime64[ns, dateutil//etc/passwd]', ['list', 1]]\n"
        f"{GUEST}.send(wire.GuestMessage(encoded=b'\\xc1' + msgspec.msgpack.encode(form)))"
    )
    with supervisor.spawn("other") as other, supervisor.spawn("hostile") as sandbox:
        sandbox.exec(source)
        with pytest.raises(pyisolate.SandboxDied, match="not listed"):
            sandbox.recv(5)
        with pytest.raises(pyisolate.SandboxError):
            sandbox.exec("1")
        assert other.eval("1") == 1
