"""Where built environments are kept: one directory each, named by the hash of what was asked for.

A build appears whole, by a rename, and processes that want the same one wait for each other. Nothing is used that
another user could have put there, or could change.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import EnforcementError, SandboxError
from ..policy.site import SiteDescription, check_way, read_site
from ..policy.site import cache_directory as cache_directory

_ID = re.compile(r"[0-9a-f]{32}")


def place_of(key: str) -> Path:
    """Return the directory of the environment with this id, whether it is there or not."""
    return cache_directory() / key


def open_cache() -> Path:
    """Return the cache's directory, made where it is not there. Raises EnforcementError where it is not this user's."""
    directory = cache_directory()
    old = os.umask(0o022)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxError(
            f"environments, {directory}: {error.strerror}",
            hint="XDG_CACHE_HOME names another place",
            errno=error.errno,
        ) from error
    finally:
        os.umask(old)
    check_way(str(directory))
    return directory


@contextlib.contextmanager
def locked(directory: Path, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of one environment: builds and removals of it, in any process, come one after the other."""
    path = directory / f".{key}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def building(directory: Path, key: str) -> Iterator[Path]:
    """Give a directory to build in, which becomes the environment if nothing is raised; under its lock."""
    place, new = directory / key, directory / f".{key}.new"
    discard(new)  # of a process that was killed
    new.mkdir(mode=0o755)
    try:
        yield new
        discard(place)
        os.rename(new, place)
    except BaseException:
        discard(new)
        raise


def discard(place: Path) -> None:
    """Remove a directory, at once as far as others can see it."""
    doomed = place.with_name(f".{place.name.lstrip('.')}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(place, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def kept() -> Iterator[tuple[Path, SiteDescription | EnforcementError]]:
    """Yield each environment's directory and description, or why it cannot be used."""
    directory = cache_directory()
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for name in names:
        if _ID.fullmatch(name):
            try:
                yield directory / name, read_site(str(directory / name))
            except EnforcementError as error:
                yield directory / name, error


def find(text: str) -> Path:
    """Return the directory of an environment by its path, its id, or the first characters of its id.

    Raises SandboxError where there is none, or more than one.
    """
    if "/" in text or os.path.isdir(text):
        return Path(os.path.realpath(text))
    found = [place for place, _ in kept() if place.name.startswith(text)] if text else []
    if len(found) != 1:
        why = "there is none" if not found else f"{len(found)} begin so"
        raise SandboxError(f"environment {text!r}: {why}", hint="`pyisolate environment list` prints their ids")
    return found[0]


def remove(place: Path) -> None:
    """Remove an environment; guests that run in it lose what they have not imported yet."""
    directory = open_cache()
    if place.parent != directory or not _ID.fullmatch(place.name):
        raise SandboxError(f"environment {place}: it is not in {directory}", hint="remove it as you made it")
    with locked(directory, place.name, lambda: None):
        discard(place)
