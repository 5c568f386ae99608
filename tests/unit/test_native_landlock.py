"""What each Landlock ABI can handle."""

from __future__ import annotations

import pytest

from pyisolate.kernel.landlock import access_of
from pyisolate.native.landlock import FILE_RIGHTS, AccessFs, AccessNet, Scope, handled_for
from pyisolate.policy.compiled import FsRight


@pytest.mark.parametrize(
    ("abi", "bits", "net", "scopes"),
    [(1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 2, 0), (5, 16, 2, 0), (6, 16, 2, 2), (7, 16, 2, 2)],
)
def test_each_abi_handles_what_its_documentation_says(abi, bits, net, scopes):
    handled = handled_for(abi)
    assert (handled.fs, len(handled.net), len(handled.scoped)) == ((1 << bits) - 1, net, scopes)


def test_a_newer_abi_handles_all_that_we_know():
    assert handled_for(99) == (~AccessFs(0), ~AccessNet(0), ~Scope(0))


def test_no_right_ever_makes_device_nodes_or_sends_device_ioctls():
    everything = access_of(~0)
    assert not everything & (AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.IOCTL_DEV)


def test_moving_between_directories_takes_creating_and_deleting():
    assert access_of(FsRight.CREATE) & AccessFs.REFER, "to where a file is moved"
    assert access_of(FsRight.DELETE) & AccessFs.REFER, "from where it is moved"
    assert not access_of(FsRight.READ | FsRight.WRITE | FsRight.EXEC) & AccessFs.REFER


def test_metadata_and_executable_mappings_have_no_landlock_right():
    assert access_of(FsRight.METADATA | FsRight.MAP_EXEC) == 0


def test_listing_gives_names_and_no_contents():
    assert access_of(FsRight.LIST) == AccessFs.READ_DIR
    assert not access_of(FsRight.LIST) & FILE_RIGHTS
