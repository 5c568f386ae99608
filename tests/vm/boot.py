"""Boot a kernel with BPF-LSM in QEMU (software emulation) over the live file system and run one command in it.

    .venv/bin/python -m tests.vm.boot --kernel 6.12 -- uname -a

The root is read-only but for --rwdir, with what programs import on a disk (image.py). The status is the command's.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.vm import image, kernels
from tests.vm.image import CannotBoot

ROOT = Path(__file__).resolve().parents[2]
LSMS = "lsm=landlock,lockdown,capability,bpf"
#: The emulated machine: as many processors as CI has, and room for tmpfs.
CPUS, MEMORY = 2, "2G"


#: Drivers of what QEMU emulates and no test uses: udev would load each of them, a second a piece.
UNUSED = (
    "ahci", "ccp", "cdrom", "evdev", "i2c_i801", "i6300esb", "iTCO_wdt", "kvm", "kvm_amd", "lpc_ich", "pcspkr",
    "powernow_k8", "psmouse", "serio_raw", "sg", "sr_mod",
)  # fmt: skip

#: Where the guest mounts a file system of its own over the host's (virtme-ng's virtme-init).
HIDDEN = tuple(Path(name) for name in ("/tmp", "/var/tmp", "/run", "/var/log", "/var/cache", "/dev/shm"))


def vng() -> str:
    """Return virtme-ng's program, installing it into this environment where it is missing."""
    beside = Path(sys.executable).parent / "vng"
    if not shutil.which("qemu-system-x86_64"):
        raise CannotBoot(
            "qemu-system-x86_64 is not installed. Hint: apt-get install qemu-system-x86 busybox-static kmod udev"
        )
    if not beside.exists():
        if importlib.util.find_spec("virtme") is None:
            command = [sys.executable, "-m", "pip", "install", "-q", "virtme-ng"]
            if subprocess.run(command, check=False).returncode:
                raise CannotBoot("virtme-ng cannot be installed. Hint: pip install virtme-ng")
        found = shutil.which("vng")
        if not beside.exists() and not found:
            raise CannotBoot("vng is not there. Hint: pip install virtme-ng")
        return str(beside if beside.exists() else found)
    return str(beside)


def boot(kernel: kernels.Kernel, command: str, *, writable: Path, timeout_s: float, output: int | None = None) -> int:
    """Run a shell command as root in the machine; return its status, 124 when it took too long."""
    program, disk = vng(), image.disk()
    content = f"/proc/{os.getpid()}/fd/{disk.fileno()}"
    arguments = [program, "-r", str(kernel.image), "--disable-kvm", "--force-9p"]
    arguments += ["--cpus", str(CPUS), "--memory", MEMORY]
    arguments += ["--append", LSMS, "--append", f"module_blacklist={','.join(UNUSED)}"]
    arguments += [f"--qemu-opts=-drive file={content},format=raw,if=virtio,readonly=on"]
    arguments += ["--rwdir", str(writable), "--cwd", str(writable)]
    for directory in hidden((ROOT, Path(sys.prefix), Path(sys.base_prefix)), writable):
        arguments += ["--rodir", str(directory)]
    path = f"{Path(program).parent}:{os.environ.get('PATH', os.defpath)}"  # vng calls virtme-run by name
    # in a file: the kernel's command line has 2,048 bytes, and where it is cut nothing starts
    with tempfile.NamedTemporaryFile("w", prefix="command-", dir=writable) as script:
        script.write(f"{image.mounts()} && {{ {command}; }}\n")
        script.flush()
        process = subprocess.Popen(
            [*arguments, "--", f"sh {script.name}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            env={**os.environ, "PATH": path},
        )
        # In this process's group, so that whoever ends the group ends the machine.
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            end(process.pid)
            process.wait()


def hidden(needed: Iterable[Path], writable: Path) -> list[Path]:
    """Return those directories that the guest would not see: a checkout below /tmp, for one. Outermost first."""
    found: list[Path] = []
    for directory in sorted({path.resolve() for path in needed}):
        seen = any(directory.is_relative_to(one) for one in (writable.resolve(), *found))
        if not seen and any(directory.is_relative_to(one) for one in HIDDEN):
            found.append(directory)
    return found


def end(pid: int) -> None:
    """Kill a process and all below it: virtme-ng starts QEMU through two others."""
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (*top.children(recursive=True), top):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def end_on(*numbers: int) -> None:
    """Leave no machine behind when one of these signals ends this process."""

    def leave(number: int, _frame: object) -> None:
        for child in psutil.Process().children():
            end(child.pid)
        os._exit(128 + number)

    for number in numbers:
        signal.signal(number, leave)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=sorted(kernels.SERIES), default="6.12")
    parser.add_argument("--rwdir", type=Path, default=Path("/tmp"))
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    end_on(signal.SIGTERM, signal.SIGINT)
    try:
        return boot(
            kernels.kernel(chosen.kernel), " ".join(chosen.command), writable=chosen.rwdir, timeout_s=chosen.timeout
        )
    except (CannotBoot, kernels.KernelMissing) as error:
        print(error)
        return 2


if __name__ == "__main__":
    sys.exit(main())
