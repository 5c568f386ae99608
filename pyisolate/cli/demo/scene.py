"""What the demo's attacks aim at: a secret, a directory, listeners, a variable, a descriptor, this very process.

All of it is open to every user of the machine, so that only the sandbox stands between a guest and it.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from ...errors import SandboxError

VARIABLE = "PYISOLATE_DEMO_TOKEN"
#: The data and the job, in the source tree and in an installation.
_EXAMPLES = (
    Path(__file__).resolve().parents[3] / "docs" / "examples",
    Path(__file__).resolve().parent / "examples",
)
DATA, JOB = "penguins.csv", "report.py"

#: Numbers of system calls that Python has no function for (linux/arch tables).
_NUMBERS = {
    "x86_64": {"openat": 257, "ptrace": 101, "mount": 165, "io_uring_setup": 425, "bpf": 321, "add_key": 248},
    "aarch64": {"openat": 56, "ptrace": 117, "mount": 40, "io_uring_setup": 425, "bpf": 280, "add_key": 217},
}


def example(name: str) -> Path:
    """Return a file of docs/examples. Raises SandboxError where neither tree nor installation has it."""
    for directory in _EXAMPLES:
        if (directory / name).is_file():
            return directory / name
    places = " or ".join(str(directory) for directory in _EXAMPLES)
    raise SandboxError(f"demo, on {name}: it is not in {places}", hint="run `make demo` in the source tree")


class Scene:
    """The ground of the demo; a context manager that restores environment, signals, descriptors and files."""

    def __enter__(self) -> Self:
        self.token = f"token-{secrets.token_hex(16)}"
        self.directory = Path(tempfile.mkdtemp(prefix="demo-"))
        self.directory.chmod(0o755)
        self.inbox, self.outbox, self.outside = (self._folder(name) for name in ("in", "out", "outside"))
        self.data = Path(shutil.copy(example(DATA), self.inbox))
        self.library = Path(shutil.copy(_some_library(), self.inbox / "libplanted.so"))
        self.secret = self.directory / "secret"
        self.secret.write_text(self.token)
        for file in (self.data, self.library, self.secret):
            file.chmod(0o755 if file is self.library else 0o644)
        self.listener, self.datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
        for server in (self.listener, self.datagrams):
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
        self.listener.listen(16)
        self.descriptor = os.open(self.secret, os.O_RDONLY)
        os.set_inheritable(self.descriptor, True)
        os.environ[VARIABLE] = self.token
        self.signals = 0
        self._handler = signal.signal(signal.SIGUSR1, self._signalled)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGUSR1, self._handler)
        os.environ.pop(VARIABLE, None)
        os.close(self.descriptor)
        self.listener.close()
        self.datagrams.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        folder.chmod(0o777)  # past the umask: permissions must not be what stops an attack
        return folder

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1

    @property
    def tcp(self) -> int:
        """The port that a connection would reach."""
        return int(self.listener.getsockname()[1])

    @property
    def udp(self) -> int:
        """The port that a datagram would reach."""
        return int(self.datagrams.getsockname()[1])

    def reset(self) -> None:
        """Forget what earlier attacks and controls left."""
        for folder in (self.outbox, self.outside):
            for left in folder.iterdir():
                left.unlink()
        self.connections(), self.packets()
        self.signals = 0

    def connections(self) -> int:
        """Return how many connections came since the last call."""
        count = 0
        while True:
            try:
                self.listener.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def packets(self) -> int:
        """Return how many datagrams came since the last call."""
        count = 0
        while True:
            try:
                self.datagrams.recv(2048)
            except BlockingIOError:
                return count
            count += 1

    def for_guest(self) -> dict[str, Any]:
        """Return what the attacker knows: everything but the token."""
        return {
            "secret": str(self.secret),
            "data": str(self.data),
            "inbox": str(self.inbox),
            "outbox": str(self.outbox),
            "outside": str(self.outside),
            "library": str(self.library),
            "tcp": self.tcp,
            "udp": self.udp,
            "pid": os.getpid(),
            "nr": _NUMBERS.get(platform.machine(), {}),
        }


def _some_library() -> str:
    """Return a shared library that is loaded here but is no Python module: a copy of it does no harm."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line}
    for wanted in ("libz.so", "libm.so", "libdl.so", "libexpat.so", "libc.so"):
        for path in sorted(paths):
            if Path(path).name.startswith(wanted):
                return path
    raise SandboxError(
        f"demo, on {sys.executable}: no shared library is loaded", hint="use a dynamically linked Python"
    )
