"""The site of an environment: packages in a directory of their own, in the place of the interpreter's.

`pyisolate.environments` builds them; a policy names one by its directory. Its description (`environment.json`) is read
again for each compilation, and only where no other user can have written it.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path

import msgspec

from ..errors import EnforcementError
from ..native import looks
from .compiled import FsRight, SiteFiles
from .fs_table import FsTable
from .interpreter import InterpreterFiles
from .model import PolicyModel
from .workspace import same_line

FORMAT = 1
#: What lies in the directory of an environment.
DESCRIPTION, PACKAGES = "environment.json", "site-packages"
_CHANGING = frozenset({"write", "create", "delete", "metadata"})
_CHANGES = int(FsRight.WRITE | FsRight.CREATE | FsRight.DELETE | FsRight.METADATA)


def cache_directory() -> Path:
    """Return where environments are kept: `$XDG_CACHE_HOME/pyisolate/environments`, by default below `~/.cache`."""
    return Path(os.path.realpath(user_directory("XDG_CACHE_HOME", ".cache"))) / "pyisolate" / "environments"


def user_directory(variable: str, default: str) -> Path:
    """Return a base directory of this user's, by default below the home. Raises RuntimeError where there is none.

    Of a variable what is not absolute does not count (XDG Base Directory Specification).
    """
    stated = os.environ.get(variable, "")
    return Path(stated) if os.path.isabs(stated) else Path.home() / default


class SiteDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment is: what was asked for, for which interpreter, and what came of it."""

    format: int = FORMAT
    id: str
    #: of the interpreter that it was built for: cache tag (`cpython-311`) and executable
    tag: str
    python: str
    installer: str
    #: seconds since 1970
    created: float
    requirements: tuple[str, ...]
    #: distribution -> version
    distributions: dict[str, str]
    #: top-level modules without native code, and with
    modules: tuple[str, ...]
    natives: tuple[str, ...]


def rule_text(directory: str) -> str:
    """Return the key of a policy file that names an environment."""
    return f"environment: {directory}"


def check_owner(path: str) -> os.stat_result:
    """Raise EnforcementError where another user than this one or root owns a place, or others may write to it."""
    try:
        found = os.lstat(path)
    except OSError as error:
        raise EnforcementError(
            f"environment {path}: {error.strerror}",
            missing="environment",
            hint="build it: pyisolate environment build, or Environment.from_requirements",
        ) from error
    why = None
    if stat.S_ISLNK(found.st_mode):
        why = "is a symbolic link"
    elif found.st_uid not in (os.geteuid(), 0):
        why = f"belongs to user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "can be written to by its group or by others"
    if why is not None:
        raise EnforcementError(
            f"environment {path}: {why}, so its code may be another user's",
            missing="environment",
            hint="it must be this user's or root's alone to write to (chmod go-w); or set XDG_CACHE_HOME",
        )
    return found


def check_way(directory: str) -> None:
    """Raise EnforcementError where another user could put something else in the place of a directory."""
    check_owner(directory)
    above = os.path.dirname(directory)
    while above not in ("/", ""):
        found = os.lstat(above)
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (os.geteuid(), 0) or shared:
            raise EnforcementError(
                f"environment {directory}: another user could replace it: {above} is theirs, or they may write there",
                missing="environment",
                hint="set XDG_CACHE_HOME to a directory of this user's alone",
            )
        above = os.path.dirname(above)


def is_in_environment(path: str) -> bool:
    """Tell whether a path is in the directory of some environment."""
    while path not in ("/", ""):
        if looks.is_file(os.path.join(path, DESCRIPTION)) and looks.is_directory(os.path.join(path, PACKAGES)):
            return True
        path = os.path.dirname(path)
    return False


def read_site(directory: str) -> SiteDescription:
    """Return the description of the environment in `directory`. Raises EnforcementError."""
    check_way(directory)
    check_owner(os.path.join(directory, PACKAGES))
    found = check_owner(os.path.join(directory, DESCRIPTION))
    return _read(directory, found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _read(directory: str, _inode: int, _changed: int) -> SiteDescription:
    path = os.path.join(directory, DESCRIPTION)
    try:
        with open(path, "rb") as file:
            described = msgspec.json.decode(file.read(), type=SiteDescription)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise EnforcementError(
            f"environment {directory}: its description cannot be read: {error}",
            missing="environment",
            hint="remove the directory and build it again",
        ) from error
    if described.format != FORMAT:
        raise EnforcementError(
            f"environment {directory}: is of format {described.format}, and this version reads {FORMAT}",
            missing="environment",
            hint="remove it (pyisolate environment remove) and build it again",
        )
    return described


def interpreter_of(policy: PolicyModel, interpreter: InterpreterFiles | None) -> InterpreterFiles:
    """Return the interpreter (default: the running one) with the packages of a policy's environment, if it names one.

    Raises EnforcementError where the environment is missing, is not trusted, or is for another version.
    """
    interpreter = interpreter or InterpreterFiles.discover()
    if policy.environment is None:
        return interpreter
    found = read_site(policy.environment)
    if found.tag != interpreter.cache_tag:
        raise EnforcementError(
            f"environment {policy.environment}: is for {found.tag}, and guests here run {interpreter.cache_tag}",
            missing="environment",
            hint=f"build it for {interpreter.executable} (python=), or spawn from Supervisor(python=) of that version",
        )
    packages = os.path.join(policy.environment, PACKAGES)
    return msgspec.structs.replace(interpreter, site_dirs=(packages,), trusted_packages=False)


def grant_site(table: FsTable, policy: PolicyModel) -> SiteFiles | None:
    """Refuse all changes of a policy's environment, and return what its cells need to know of it.

    Raises EnforcementError where a rule lets the guest change what is in it, or put another in its place.
    """
    directory = policy.environment
    if directory is None:
        return None
    for rule in policy.files:
        inside = rule.path.startswith(directory + "/") and _CHANGING & set(rule.allow)
        above = same_line(rule.path, directory) and table.granted(directory) & _CHANGES & table.granted(rule.path)
        if inside or above:
            raise EnforcementError(
                f"policy {policy.name!r}, {rule.text}: it reaches environment {directory}, which no guest may change: "
                "others import from it",
                rule=rule.text,
                missing="environment",
                hint="grant narrower paths; a workspace is the guest's own place for files",
            )
    table.add(directory, 0, _CHANGES, text=rule_text(directory), origin="environment")
    described = read_site(directory)
    return SiteFiles(path=os.path.join(directory, PACKAGES), modules=(*described.modules, *described.natives))
