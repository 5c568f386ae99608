"""Run a command in a real container, by crun, with the securityContext of a Kubernetes pod as kubelet and containerd
would translate it. The root file system is this machine's /usr and /etc, and this tree where it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: What a container has that names no capabilities (containerd, oci/spec.go).
DEFAULT_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
).split()
_MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
#: crun refuses hosts with both versions of control groups; the container sees version 2 alone.
_ONE_VERSION = 'umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'


def run(context: dict[str, Any], profile: dict[str, Any] | None, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command under a container's securityContext; `profile` is what its seccompProfile names."""
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-oci-"))
    try:
        root = directory / "rootfs"
        root.mkdir()
        directory.chmod(0o755)
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).is_symlink():
                (root / name).symlink_to(os.readlink(Path("/", name)))
        (directory / "config.json").write_text(json.dumps(_specification(context, profile, list(command))))
        crun = ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(directory), directory.name]
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", _ONE_VERSION, "sh", *crun],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(directory)


def _specification(context: dict[str, Any], profile: dict[str, Any] | None, command: list[str]) -> dict[str, Any]:
    privileged = context.get("privileged", False)
    uid = context.get("runAsUser", 0)
    granted = _granted(context.get("capabilities", {}), privileged)
    # An ordinary user has none, whatever may be added
    sets = {kind: granted if uid == 0 or kind == "bounding" else [] for kind in ("bounding", "effective", "permitted")}
    kinds = ("pid", "ipc", "uts", "mount", "network", "cgroup")
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds]}
    if not privileged:
        linux |= {"maskedPaths": _MASKED, "readonlyPaths": _READ_ONLY}
    if profile is not None:
        linux["seccomp"] = profile
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "mounts": _mounts(privileged),
        "process": {
            "args": command,
            "cwd": "/",
            "env": ["PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1", "HOME=/tmp"],
            "user": {"uid": uid, "gid": context.get("runAsGroup", uid)},
            "noNewPrivileges": not context.get("allowPrivilegeEscalation", True),
            "capabilities": sets,
        },
        "linux": linux,
    }


def _granted(capabilities: dict[str, Any], privileged: bool) -> list[str]:
    if privileged:  # all that this process has itself
        mask = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
        assert mask is not None
        names = subprocess.run(["capsh", f"--decode={mask[1]}"], capture_output=True, text=True, check=True).stdout
        return [name.strip().upper() for name in names.partition("=")[2].split(",")]
    kept = [] if "ALL" in capabilities.get("drop", []) else DEFAULT_CAPABILITIES
    return [f"CAP_{name}" for name in (*kept, *capabilities.get("add", []))]


def _mounts(privileged: bool) -> list[dict[str, Any]]:
    def bind(source: str, target: str) -> dict[str, Any]:
        return {"destination": target, "source": source, "type": "bind", "options": ["rbind", "ro"]}

    def fresh(target: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "source": kind, "type": kind, "options": ["nosuid", *options]}

    mode = "rw" if privileged else "ro"
    return [
        fresh("/proc", "proc"),
        fresh("/dev", "tmpfs", "mode=755"),
        fresh("/dev/shm", "tmpfs", "mode=1777"),
        fresh("/sys", "sysfs", mode),
        fresh("/sys/fs/cgroup", "cgroup", mode),
        fresh("/tmp", "tmpfs", "mode=1777"),
        bind("/usr", "/usr"),
        bind("/etc", "/etc"),
        bind(str(ROOT), str(ROOT)),
    ]
