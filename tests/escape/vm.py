"""Try techniques in a virtual machine whose kernel has BPF-LSM, booted as tests.vm.run boots it."""

from __future__ import annotations

import argparse
import atexit
import json
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.escape.configurations import ROOT
from tests.vm import boot, kernels

#: Groups that a BPF program decides; the others meet there what they meet on the host.
DECIDED = "files/,exec/,native/,ipc/,processes/,secrets/,network/"
#: An emulated processor takes 20 times as long.
TIMEOUT_S = 7200.0


def command(options: argparse.Namespace, saved: Path) -> str:
    """Return the shell command that runs inside the machine."""
    words = [sys.executable, "-m", "tests.escape", "--in", "vm", "--save", str(saved), "--verbose"]
    only = options.only or ("" if options.whole or options.without else DECIDED)
    words += ["--only", only] if only else []
    words += ["--without", options.without] if options.without else []
    settings = {"PYISOLATE_VM": "1", "PYISOLATE_ESCAPE_PLACE": "/mnt", "HOME": "/root", "PYTHONPATH": str(ROOT)}
    settings |= {"PYTHONDONTWRITEBYTECODE": "1"}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    # opening a file over 9p takes a millisecond: what is opened often lives in memory
    return (
        f"mount -t tmpfs -o mode=1777 tmpfs /mnt && ulimit -n 65536 && cd {ROOT} && env {exports} {shlex.join(words)}"
    )


def run(options: argparse.Namespace) -> list[Path]:
    """Boot each kernel that `options` names; return the files of results, each under the kernel's name."""
    place = Path(tempfile.mkdtemp(prefix="pyisolate-escape-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    found = []
    for series in kernels.SERIES if options.kernel == "all" else options.kernel.split(","):
        kernel = kernels.kernel(series)
        saved, began = place / f"{series}.json", time.monotonic()
        boot.boot(kernel, command(options, saved), writable=place, timeout_s=TIMEOUT_S)
        print(f"Linux {kernel.release}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        if saved.exists():
            _rename(saved, f"vm {series}")
            found.append(saved)
        else:
            print(f"Linux {kernel.release}: there are no results", file=sys.stderr)
    return found


def _rename(saved: Path, name: str) -> None:
    data = json.loads(saved.read_text())
    data["results"] = {name: items for items in data["results"].values()}  # noqa: B035 - there is one
    data["without"] = {defence: {name: by["vm"]} for defence, by in data["without"].items()}
    saved.write_text(json.dumps(data))
