"""`Environment`: packages for guests, built once for each set of requirements and interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from ..errors import SandboxError
from ..policy import packages
from ..policy.interpreter import InterpreterFiles
from ..policy.model import PolicyModel
from ..policy.site import DESCRIPTION, FORMAT, PACKAGES, SiteDescription, read_site
from . import build, cache, requirements
from .requirements import Requirements

_P = TypeVar("_P", bound=PolicyModel)
PathText = str | os.PathLike[str]


def _silent(_line: str) -> None:
    """What progress is without a function for it."""


class Environment:
    """Packages that guests import, in a directory that no guest may change: `spawn(environment=...)`.

    Made of wheels alone, by pip or uv in a process of its own; none of their code runs before a guest imports it.
    Kept below `$XDG_CACHE_HOME/pyisolate/environments` (`pyisolate environment list`), by the hash of what was asked
    for: the same requirements give the same packages again, of the versions that the first build found, until
    `rebuild`.
    """

    def __init__(self, directory: PathText) -> None:
        """Take one that is built. Raises EnforcementError where it is not there, or another user could change it."""
        self._directory = Path(os.path.realpath(directory))
        self._description = read_site(str(self._directory))

    @classmethod
    def from_requirements(
        cls,
        wanted: Iterable[str] | os.PathLike[str],
        *,
        python: str | None = None,
        installer: str = "auto",
        wheels: PathText | None = None,
        rebuild: bool = False,
        timeout: float = 900.0,
        progress: build.Progress | None = None,
    ) -> Self:
        """Return the environment of requirements (PEP 508), or of a requirements file (a Path), built where it is not.

        `python`: the interpreter that guests run (default: this one). `installer`: `pip`, `uv`, or `auto` (pip where
        that interpreter has it). `wheels`: a directory of wheels in the place of every index. `timeout`: seconds.
        `progress`: called with each line of the installer's.

        Raises BuildError with the installer's last words, PolicySyntaxError for what is no requirement or no wheel,
        EnforcementError where another user could change the cache, OSError.
        """
        found = (
            requirements.from_file(Path(wanted)) if isinstance(wanted, os.PathLike) else requirements.from_list(wanted)
        )
        return cls._built(found, python, installer, wheels, rebuild, timeout, progress or _silent)

    @classmethod
    def from_lock(
        cls,
        path: PathText,
        *,
        python: str | None = None,
        installer: str = "auto",
        wheels: PathText | None = None,
        rebuild: bool = False,
        timeout: float = 900.0,
        progress: build.Progress | None = None,
    ) -> Self:
        """Return the environment of a lock: `pylock.toml` (PEP 751), or a requirements file of exact versions.

        Nothing is installed that the lock does not name; hashes that it has must fit. The rest is as for
        `from_requirements`.
        """
        found = requirements.from_lock(Path(path))
        return cls._built(found, python, installer, wheels, rebuild, timeout, progress or _silent)

    @classmethod
    def _built(
        cls,
        wanted: Requirements,
        python: str | None,
        installer: str,
        wheels: PathText | None,
        rebuild: bool,
        timeout_s: float,
        progress: build.Progress,
    ) -> Self:
        interpreter = InterpreterFiles.discover(python)
        source = None if wheels is None else Path(wheels).resolve()
        directory = cache.open_cache()
        key = _key(wanted, interpreter, source)
        place = directory / key
        with cache.locked(directory, key, lambda: progress("waiting for another process that builds it")):
            if rebuild or not place.exists():
                chosen = build.choose_installer(installer, interpreter.executable)
                with cache.building(directory, key) as new:
                    site = new / PACKAGES
                    site.mkdir(mode=0o755)
                    build.install(
                        wanted, site, python=interpreter.executable, installer=chosen, wheels=source,
                        timeout_s=timeout_s, progress=progress,
                    )  # fmt: skip
                    _describe(new, key, wanted, interpreter, chosen)
        return cls(place)

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def directory(self) -> str:
        """Its directory: what a policy file names under `environment`."""
        return str(self._directory)

    @property
    def id(self) -> str:
        """The hash of what was asked for, 32 hexadecimal digits."""
        return self._description.id

    @property
    def requirements(self) -> tuple[str, ...]:
        """What was asked for."""
        return self._description.requirements

    @property
    def distributions(self) -> dict[str, str]:
        """What is installed: name -> version."""
        return dict(self._description.distributions)

    @property
    def modules(self) -> tuple[str, ...]:
        """Its top-level modules without native code."""
        return self._description.modules

    @property
    def natives(self) -> tuple[str, ...]:
        """Its top-level modules with native code."""
        return self._description.natives

    @property
    def tag(self) -> str:
        """The cache tag of the interpreter that it is for: `cpython-312`."""
        return self._description.tag

    def grant(self, policy: _P) -> _P:
        """Return `policy` with this environment, and with rules to import all that is in it, native code included.

        What the policy denies stays denied. `spawn(environment=...)` does this.
        """
        return (
            policy.with_environment(self._directory)
            .allow_import(*self._description.modules)
            .allow_native(*self._description.natives)
        )

    def remove(self) -> None:
        """Remove it from the cache. Guests that run in it lose what they have not imported yet."""
        cache.remove(self._directory)

    def __repr__(self) -> str:
        return f"<Environment {self.id[:12]} {self.tag}: {len(self._description.distributions)} distributions>"


def as_environment(given: Environment | PathText) -> Environment:
    """Return an environment as `spawn` takes it: the object, or the directory of one that is built."""
    if isinstance(given, Environment):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(f"environment: must be an Environment or its directory, not {type(given).__name__}")
    return Environment(given)


def _key(wanted: Requirements, interpreter: InterpreterFiles, wheels: Path | None) -> str:
    """Return the hash of what decides what is built. How it is built (pip or uv) does not."""
    content = {
        "format": FORMAT,
        "options": wanted.options,
        "lines": wanted.lines,
        "files": [_digest(line) for line in wanted.lines if line.startswith("/")],
        "locked": wanted.locked,
        "tag": interpreter.cache_tag,
        "natives": interpreter.native_suffixes,
        "platform": sysconfig.get_platform(),
        "wheels": None if wheels is None else [(one.name, one.stat().st_size) for one in sorted(wheels.glob("*.whl"))],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _digest(line: str) -> str:
    with open(line.partition(" --hash")[0], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(
    place: Path, key: str, wanted: Requirements, interpreter: InterpreterFiles, installer: str
) -> SiteDescription:
    """Write down what was built, and which modules came of it."""
    site = str(place / PACKAGES)
    found = dict(_distributions(site))
    if not found:
        raise SandboxError("build environment: nothing was installed", hint="do the markers of all of them fail here?")
    own = msgspec.structs.replace(interpreter, site_dirs=(site,))
    names = {name for one in metadata.distributions(path=[site]) for name in packages.top_level(one)}
    modules, natives = set[str](), set[str]()
    for name in names - interpreter.stdlib_names:
        package = packages.locate(name, own)
        if package is not None:
            (natives if packages.native_files(package) else modules).add(name)
    described = SiteDescription(
        id=key,
        tag=interpreter.cache_tag,
        python=interpreter.executable,
        installer=installer,
        created=time.time(),
        requirements=wanted.lines,
        distributions=found,
        modules=tuple(sorted(modules)),
        natives=tuple(sorted(natives)),
    )
    path = place / DESCRIPTION
    path.write_bytes(msgspec.json.format(msgspec.json.encode(described)))
    path.chmod(0o644)
    return described


def _distributions(site: str) -> Iterator[tuple[str, str]]:
    for one in sorted(metadata.distributions(path=[site]), key=lambda one: str(one.metadata["Name"])):
        yield str(one.metadata["Name"]), one.version
