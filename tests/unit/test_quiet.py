"""The instructions that let quiet file calls pass, run by an interpreter of the classic BPF that they use."""

from __future__ import annotations

import struct

import pytest

from pyisolate.native import quiet
from pyisolate.native.quiet import QuietCall
from pyisolate.native.seccomp import ALLOW, AUDIT_ARCH, number_of

ADDRESS = 0x7F12_3456_789A
CALLS = (QuietCall(number_of("openat"), 3), QuietCall(number_of("fchmod"), 1), QuietCall(number_of("mkdirat")))
FELL_THROUGH = "fell through"


def run(
    program: bytes, number: int, *, arch: int = AUDIT_ARCH, address: int = ADDRESS, args: tuple[int, ...] = ()
) -> object:
    data = struct.pack("=IIQ6Q", number, arch, address, *(*args, *(0,) * (6 - len(args))))
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at, accumulator = 0, 0
    while at < len(code):
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x15:
                at += if_true if accumulator == operand else if_false
            case 0x45:
                at += if_true if accumulator & operand else if_false
            case 0x05:
                at += operand
            case 0x06:
                return operand
    assert at == len(code), "a jump leaves the program"
    return FELL_THROUGH


PROGRAM = quiet.prefix(ADDRESS, CALLS)


@pytest.mark.parametrize("call", CALLS)
def test_a_quiet_call_passes_from_its_address(call: QuietCall) -> None:
    assert run(PROGRAM, call.number) == ALLOW


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [{"address": ADDRESS + 2}, {"address": ADDRESS ^ 1 << 40}, {"arch": 0x40000003}])
def test_it_goes_on_to_the_filter_from_anywhere_else(call: QuietCall, wrong: dict[str, int]) -> None:
    assert run(PROGRAM, call.number, **wrong) == FELL_THROUGH


def test_other_calls_go_on_to_the_filter_from_that_address_too() -> None:
    for name in ("execve", "connect", "unshare", "read", "bpf", "io_uring_setup"):
        assert run(PROGRAM, number_of(name)) == FELL_THROUGH, name


@pytest.mark.parametrize("bits", [0o4000, 0o2000, 0o6755])
def test_set_id_bits_are_never_quiet(bits: int) -> None:
    assert run(PROGRAM, number_of("openat"), args=(0, 0, 0o101, bits)) == FELL_THROUGH
    assert run(PROGRAM, number_of("fchmod"), args=(3, bits)) == FELL_THROUGH
    assert run(PROGRAM, number_of("mkdirat"), args=(3, 0, bits)) == ALLOW  # a folder with these bits grants nothing


def test_the_library_is_built_and_no_ordinary_process_makes_quiet_calls() -> None:
    assert quiet.library() is not None
    assert quiet.library("_reports") is not None
    assert quiet.address() is None
