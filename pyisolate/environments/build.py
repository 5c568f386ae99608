"""Has an installer (pip or uv) fill the site of an environment, in a process of its own.

Packages are not trusted, so nothing of theirs runs here: wheels are unpacked and compiled to bytecode, and what would
be built from source is refused. uv knows that as `--no-build`. pip's `--only-binary :all:` says it of indexes alone,
while a wheel's metadata may name a repository as a requirement; building takes another process, and an audit hook
refuses pip those.
"""

from __future__ import annotations

import collections
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import BuildError
from .requirements import Requirements

Progress = Callable[[str], None]

#: Lines of an installer that an error keeps.
_LAST_WORDS = 20
_LINE_CHARS = 500
#: How they begin the line that says what failed, and those that say why.
_MARKS, _CAUSES = ("ERROR:", "error:", "×"), ("cause:", "Caused by", "╰─▶", "├─▶")
#: What they say where there is no wheel that fits.
_NO_WHEEL = ("from source", "No matching distribution", "is disabled", "as a URL dependency", "was not found in")
#: Runs pip where no process can be started: neither a build's nor a version control system's.
_PIP = """
import sys
def refuse(event, _args, refused=frozenset(
    ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"))):
    if event in refused:
        raise PermissionError(1, "an environment is made of wheels alone: this would build a package from source")
import runpy
sys.argv[0] = "pip"
sys.addaudithook(refuse)
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
#: What would have the installer do something else than it is asked to. Where it finds packages is the user's to say.
_OVERRIDDEN = frozenset(
    f"PIP_{name}" for name in ("TARGET", "PREFIX", "ROOT", "USER", "NO_BINARY", "ONLY_BINARY", "REQUIRE_VIRTUALENV",
                               "PYTHON", "DRY_RUN", "REPORT", "EDITABLE", "REQUIREMENT", "CONSTRAINT", "NO_DEPS",
                               "PLATFORM", "ABI", "IMPLEMENTATION", "PYTHON_VERSION", "QUIET", "LOG")
) | {f"UV_{name}" for name in ("TARGET", "PREFIX", "SYSTEM_PYTHON", "PYTHON", "CONSTRAINT", "OVERRIDE", "NO_BINARY",
                               "BUILD_CONSTRAINT", "PROJECT", "PYTHON_PLATFORM", "QUIET")}  # fmt: skip


def choose_installer(wanted: str, python: str) -> str:
    """Return `pip` where the interpreter has it, else `uv` where it is on PATH. Raises BuildError for neither."""
    if wanted not in ("auto", "pip", "uv"):
        raise ValueError(f"installer: {wanted!r}: must be 'auto', 'pip' or 'uv'")
    has = {"pip": lambda: _has_pip(python), "uv": lambda: shutil.which("uv") is not None}
    for name in ("pip", "uv") if wanted == "auto" else (wanted,):
        if has[name]():
            return name
    raise BuildError(
        f"build environment: there is no {'pip for ' + python if wanted == 'pip' else wanted + ' on PATH'}"
        if wanted != "auto"
        else f"build environment: neither has {python} pip, nor is uv on PATH",
        hint=f"{python} -m ensurepip, or install uv",
    )


def _has_pip(python: str) -> bool:
    asked = [python, "-I", "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('pip') is None)"]
    return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0


def install(
    wanted: Requirements,
    site: Path,
    *,
    python: str,
    installer: str,
    wheels: Path | None,
    timeout_s: float,
    progress: Progress,
) -> None:
    """Install into the directory `site`. Raises BuildError with the installer's last words."""
    listed = site.parent / "requirements.txt"
    listed.write_text("".join(f"{line}\n" for line in (*wanted.options, *wanted.lines)))
    options = ["--no-index", "--find-links", str(wheels)] if wheels is not None else []
    options += ["--require-hashes"] if wanted.hashed else []
    options += ["--no-deps"] if wanted.locked else []
    if installer == "uv":
        command = ["uv", "pip", "install", "--python", python, "--no-build", "--link-mode", "copy"]
        command += ["--compile-bytecode"]
    else:
        command = [python, "-I", "-c", _PIP, "install", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"]
        command += ["--disable-pip-version-check", "--ignore-installed", "--no-warn-script-location", "--no-color"]
    command += ["--target", str(site), *options, "-r", str(listed)]
    last: collections.deque[str] = collections.deque(maxlen=_LAST_WORDS)
    status = 0
    try:
        for line in _lines_of(command, timeout_s):
            last.append(line)
            progress(line)
    except subprocess.CalledProcessError as error:
        status = error.returncode
    except OSError as error:
        raise BuildError(f"build environment: start {command[0]}: {error.strerror}", errno=error.errno) from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"build environment: {installer} took more than {timeout_s:g} s", output="\n".join(last),
            hint="give it more time (timeout=), or name fewer packages",
        ) from error  # fmt: skip
    if status:
        raise BuildError(
            f"build environment: {installer} ended with {status}: {_gist(last)}", output="\n".join(last),
            hint=_hint(last),
        )  # fmt: skip
    listed.unlink()
    _close_to_others(site)


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _OVERRIDDEN and not key.startswith("PYTHON")}
    return {**kept, "PIP_USER": "0", "PYTHONIOENCODING": "utf-8:backslashreplace"}


def _lines_of(command: Sequence[str], timeout_s: float) -> Iterator[str]:
    """Yield what a command writes, line by line. It ends with this generator, and with its time."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        cwd="/",
        start_new_session=True,
        umask=0o022,
    )
    assert process.stdout is not None
    try:
        yield from _until(process.stdout.fileno(), time.monotonic() + timeout_s, command)
        status = process.wait(timeout=timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    if status:
        raise subprocess.CalledProcessError(status, command)


def _until(descriptor: int, deadline: float, command: Sequence[str]) -> Iterator[str]:
    left = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(descriptor, selectors.EVENT_READ)
        while True:
            if not waiting.select(max(0.0, deadline - time.monotonic())):
                raise subprocess.TimeoutExpired(command, deadline)
            data = os.read(descriptor, 1 << 16)
            *lines, left = (left + data).split(b"\n")
            for line in [*lines, *([left] if not data and left else [])]:
                text = line.decode("utf-8", "backslashreplace").rstrip()[:_LINE_CHARS]
                yield "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
            if not data:
                return


def _gist(lines: collections.deque[str]) -> str:
    """Return the line that says most about a failure: the last that an installer marks as an error."""
    said = [line.strip() for line in lines if line.strip()] or ["it said nothing"]
    marked = [number for number, line in enumerate(said) if line.startswith(_MARKS)]
    causes = said[marked[-1] : marked[-1] + 4] if marked else said[-1:]
    return " ".join([causes[0], *(line for line in causes[1:] if line.startswith(_CAUSES))]).rstrip(".")


def _hint(lines: collections.deque[str]) -> str:
    text = "\n".join(lines)
    if any(words in text for words in _NO_WHEEL):
        return (
            "wheels alone are installed, for building a package runs its code on the host: where it has no wheel for "
            f"this interpreter and machine ({sys.platform}), `pip wheel` makes one, in a place where its code may run"
        )
    if "HASH" in text.upper():
        return "the lock names other files than those that were found: lock again, from the same index"
    return "its output is in this error's `output`; pip's and uv's own settings say where packages come from"


def _close_to_others(site: Path) -> None:
    """Let everybody read what was installed, and only its owner write: a wheel says what modes its files have."""
    for place, directories, files in os.walk(site):
        for name in (*directories, *files):
            path = os.path.join(place, name)
            if os.path.islink(path):
                raise BuildError(f"build environment: {name} is a symbolic link, which no wheel holds")
            mode = os.stat(path).st_mode
            os.chmod(path, (mode & 0o755) | (0o755 if os.path.isdir(path) else 0o444))
