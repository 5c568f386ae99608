"""The emulated machine sees the tree, wherever the checkout is."""

from __future__ import annotations

from pathlib import Path

from tests.vm.boot import hidden

WRITABLE = Path("/tmp/pyisolate-vm-x")


def test_a_tree_below_a_file_system_of_the_guests_own_is_shown_to_it() -> None:
    tree, venv = Path("/var/tmp/tree"), Path("/var/tmp/tree/.venv")
    assert hidden((venv, tree, Path("/usr")), WRITABLE) == [tree]
    assert hidden((Path("/tmp/tree"), Path("/run/python")), WRITABLE) == [Path("/run/python"), Path("/tmp/tree")]


def test_what_it_sees_already_is_not_mounted_twice() -> None:
    assert hidden((Path("/srv/tree"), Path("/usr"), WRITABLE / "tree"), WRITABLE) == []
