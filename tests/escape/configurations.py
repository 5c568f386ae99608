"""Under which identity, isolation and kernel the techniques are tried."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.escape.ground import GUEST_UID

ROOT = Path(__file__).resolve().parents[2]
INSIDE_VM = os.environ.get("PYISOLATE_VM") == "1"


@dataclass(frozen=True)
class Configuration:
    """One column of the table."""

    name: str
    isolation: str = "process"
    #: run the supervisor as an ordinary user
    user: bool = False
    #: kernel records of refusals by path exist (BPF-LSM)
    sees_paths: bool = False
    #: how much longer things take there (an emulated processor)
    slowness: float = 1.0
    #: every guest is led to the egress proxy, which its policy lets it ask one host
    led: bool = False

    def prefix(self) -> list[str]:
        """Return what makes a command run as that user."""
        if not self.user or os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={GUEST_UID}", f"--regid={GUEST_UID}", "--clear-groups"]

    def left_out(self) -> str:
        """Say why it cannot run here; empty when it can."""
        if self.sees_paths and not INSIDE_VM:
            return "it is no machine with BPF-LSM"
        if not self.user:
            return "" if os.geteuid() == 0 else "not root"
        if os.geteuid() != 0:
            return ""
        if not shutil.which("setpriv"):
            return "setpriv is not installed. Hint: apt-get install util-linux"
        command = [*self.prefix(), sys.executable, "-c", "import tests.escape.worker"]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        tried = subprocess.run(
            command, cwd=ROOT if os.access(ROOT, os.X_OK) else "/", env=environment, capture_output=True
        )
        return (
            ""
            if tried.returncode == 0
            else f"uid {GUEST_UID} cannot read {ROOT}. Hint: test a copy, as `make test` does"
        )


#: `host-proxy` and `host-proxy-user` are run on request. Their policies grant a host, so that a socket that `host-root`
#: refuses is made there, and refused when it connects: of `socket_raw_call` they tell another event.
#: `vm` and `vm-thread` are run inside of a virtual machine whose kernel has BPF-LSM (vm.py boots it).
CONFIGURATIONS = {
    configuration.name: configuration
    for configuration in (
        Configuration("host-root"),
        Configuration("host-user", user=True),
        Configuration("host-proxy", led=True),
        Configuration("host-proxy-user", user=True, led=True),
        Configuration("thread", isolation="thread", user=True),
        Configuration("vm", sees_paths=True, slowness=10.0),
        Configuration("vm-thread", isolation="thread", sees_paths=True, slowness=10.0),
    )
}
DEFAULT = ("host-root", "host-user", "thread")


def chosen() -> tuple[str, ...]:
    """Return the configurations to run: those of PYISOLATE_ESCAPE_CONFIG, else the host's."""
    named = os.environ.get("PYISOLATE_ESCAPE_CONFIG", "")
    return tuple(name.strip() for name in named.split(",") if name.strip()) or DEFAULT
