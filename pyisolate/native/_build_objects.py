"""Compile `bpf/*.bpf.c` to `pyisolate/kernel/bpf/objects/*.bpf.o`. Run by setup.py only."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

_ARCH = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "s390x": "s390", "ppc64le": "powerpc"}


class BpfBuildError(RuntimeError):
    """A BPF source does not compile."""


def build_objects(source: Path, target: Path, *, strict: bool) -> list[Path]:
    """Compile every `source/*.bpf.c` into `target`; return the objects.

    Needs clang. No source at all is an error; one that fails to compile is an error in a wheel build (`strict`) and a
    warning in a work tree.
    """
    sources = sorted(source.glob("*.bpf.c"))
    clang = shutil.which("clang") or "clang"
    if not sources:
        raise BpfBuildError(f"{source}: there is no BPF program in it. Hint: build from the whole source distribution")
    target.mkdir(parents=True, exist_ok=True)
    newest_header = max((h.stat().st_mtime for h in source.glob("**/*.[ch]")), default=0.0)
    built = []
    for path in sources:
        # removesuffix, not with_suffix: "x.bpf.c" must become "x.bpf.o"
        output = target / (path.name.removesuffix(".c") + ".o")
        fresh = output.exists() and output.stat().st_mtime > max(path.stat().st_mtime, newest_header)
        if fresh or _compile(clang, path, output, strict=strict):
            built.append(output)
    return built


def _compile(clang: str, path: Path, output: Path, *, strict: bool) -> bool:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    command = [clang, "-target", "bpf", "-O2", "-g", "-Wall", f"-D__TARGET_ARCH_{_ARCH.get(platform.machine(), 'x86')}"]
    command += [f"-I{path.parent}", f"-I/usr/include/{multiarch}", "-c", str(path), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stderr:
        print(done.stderr)  # noqa: T201 - build output
    if done.returncode == 0:
        strip = shutil.which("llvm-strip")
        if strip:  # DWARF only: BTF stays
            subprocess.run([strip, "-g", str(output)], check=False)
        return True
    output.unlink(missing_ok=True)
    if strict:
        raise BpfBuildError(f"clang {path.name}: exit status {done.returncode}. Hint: the message above names the line")
    print(f"pyisolate: WARNING: {path.name} does not compile: its enforcer is left out of this work tree")  # noqa: T201 - build output
    return False
