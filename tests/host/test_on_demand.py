"""A spawn without a warm cell: what it needs besides is made while the cell is forked, and let go where none comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pyisolate
from pyisolate.cell.pool import Pool
from pyisolate.cell.zygote_process import ZygoteError
from pyisolate.kernel.prepared import Prepared
from pyisolate.kernel.rootview.tree import Staged
from tests import leaks

COMPUTE = pyisolate.Policy.preset("compute")


class Seen:
    """In which order cells come and trees are made; and of which file systems the trees' workspaces are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Exception | None = None) -> None:
        """`fails`: no cell comes."""
        self.calls: list[str] = []
        self.workspaces: list[int] = []
        take, stage = Pool.take, Prepared.stage

        def taken(pool: Pool, *args: Any, ordered: Callable[[], None], **options: Any) -> Any:
            if fails is not None:
                ordered()
                raise fails
            channel = take(pool, *args, ordered=ordered, **options)
            self.calls.append("cell")
            return channel

        def staged(prepared: Prepared, directory: int | None = None) -> Staged | None:
            found = stage(prepared, directory)
            self.calls.append("tree")
            if found is not None and found.workspace is not None:
                self.workspaces.append(os.fstat(found.workspace).st_dev)
            return found

        monkeypatch.setattr(Pool, "take", taken)
        monkeypatch.setattr(Prepared, "stage", staged)

    @property
    def held(self) -> bool:
        """True while this process has something of a workspace open."""
        return any(_device(one) in self.workspaces for one in leaks.descriptors())


def _device(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_dev
    except OSError:  # another thread has closed it
        return None


@pytest.fixture
def own() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=0) as supervisor:
        supervisor.spawn("first", COMPUTE).close()
        yield supervisor


def test_its_tree_is_made_while_its_cell_is_forked(own: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    with own.spawn("forked", COMPUTE) as sandbox:
        assert seen.calls == ["tree", "cell"]
        assert sandbox.eval("1 + 1") == 2
        assert sandbox.enforcement.missing == ()


def test_a_tree_for_which_no_cell_comes_is_closed(own: pyisolate.Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        control = Seen(patched)
        with own.spawn("control", COMPUTE):
            if not control.workspaces:
                pytest.skip("no sandbox has a tree of its own here")
            assert control.held
    seen = Seen(monkeypatch, ZygoteError("fork cell: none, for a test"))
    with pytest.raises(ZygoteError, match="none, for a test"):
        own.spawn("forked", COMPUTE)
    assert (seen.calls, len(seen.workspaces)) == (["tree"], 1)
    assert not seen.held
