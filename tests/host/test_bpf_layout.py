"""C, BTF and Python see the same structs and the same numbers."""

from __future__ import annotations

import pytest

from pyisolate.capability import CAPABILITY_NUMBER
from pyisolate.kernel.bpf import loader as bpf_loader
from pyisolate.kernel.bpf import records as bpf_records
from pyisolate.kernel.bpf import tables as bpf_tables
from pyisolate.native import libbpf
from pyisolate.policy.compiled import FsRight, NetAction
from tests.require import require


@pytest.fixture(autouse=True)
def built() -> None:
    missing = bpf_loader.requirements()
    require("bpf", missing is None or "kernel" in missing[0], missing[0] if missing else "")


STRUCTS = (
    "pyi_policy pyi_path_key pyi_path_rule pyi_net_key pyi_net_rule pyi_net_rules pyi_sandbox pyi_slot pyi_slot_page "
    "pyi_task pyi_counter_key pyi_control pyi_record pyi_scratch pyi_ask pyi_enter pyi_landlock pyi_syscall"
).split()


@pytest.mark.parametrize("name", STRUCTS)
def test_objects_and_python_agree_on_every_offset(name: str) -> None:
    ffi = libbpf.interface()
    seen = 0
    for path in sorted(bpf_loader.OBJECTS.glob("*.bpf.o")):
        size = libbpf.btf_member(str(path), name)
        if size < 0:
            continue
        seen += 1
        assert size == ffi.sizeof(f"struct {name}"), path.name
        for member, field in ffi.typeof(f"struct {name}").fields:
            assert libbpf.btf_member(str(path), name, member) == field.offset, (path.name, member)
    assert seen, f"no object has struct {name}"


def test_packed_bytes_are_the_structs() -> None:
    ffi = libbpf.interface()
    for layout, name in (
        (bpf_records.HEADER, "pyi_record"),
        (bpf_tables._PATH_KEY, "pyi_path_key"),
        (bpf_tables._PATH_RULE, "pyi_path_rule"),
        (bpf_tables._NET_KEY, "pyi_net_key"),
        (bpf_tables._NET_RULE, "pyi_net_rule"),
        (bpf_tables._POLICY, "pyi_policy"),
    ):
        assert layout.size == ffi.sizeof(f"struct {name}"), name
    fields = [name for name, _ in ffi.typeof("struct pyi_record").fields]
    assert fields == [name for name in bpf_records.RawRecord.__struct_fields__ if name != "text"]


def test_numbers_are_shared() -> None:
    numbers = libbpf.constants()
    for capability, number in CAPABILITY_NUMBER.items():
        name = "PYI_" + capability.name
        if hasattr(numbers, name):
            assert getattr(numbers, name) == number, name
    for right in FsRight:
        assert getattr(numbers, f"PYI_{right.name}") == right
    for kernel_right in bpf_tables.KernelRight:
        assert getattr(numbers, f"PYI_{kernel_right.name}") == kernel_right
    for action in NetAction:
        assert getattr(numbers, f"PYI_ACTION_{action.name}") == action
    for group in bpf_tables.Group:
        assert getattr(numbers, f"PYI_GROUP_{group.name}") == group
    for flag in bpf_tables.PolicyFlag:
        assert getattr(numbers, f"PYI_P_{flag.name}") == flag
    assert bpf_tables.KEY_BYTES == numbers.PYI_KEY_BYTES
    assert bpf_tables.NET_RULES == numbers.PYI_NET_RULES


def test_every_hook_has_a_name() -> None:
    numbers = libbpf.constants()
    hooks = {
        name: getattr(numbers, name) for name in dir(numbers) if name.startswith("PYI_H_") and name != "PYI_H_NONE"
    }
    assert len(hooks) > 60
    assert set(hooks.values()) == set(bpf_records.HOOKS)
    expected = {
        "PYI_H_FILE_OPEN": "file_open",
        "PYI_H_BPRM_CHECK": "bprm_check_security",
        "PYI_H_SOCKET_SENDMSG": "socket_sendmsg",
        "PYI_H_CGROUP_BIND6": "cgroup/bind6",
        "PYI_H_QUOTA": "quotactl",
    }
    for name, text in expected.items():
        assert bpf_records.HOOKS[hooks[name]] == text
