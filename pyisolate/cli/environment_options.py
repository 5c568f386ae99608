"""`--environment`: the packages that a guest imports, by the id or directory of an environment, or by a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..environments import Environment
    from ..policy import Policy

_F = TypeVar("_F", bound=Callable[..., Any])


def environment_option(function: _F) -> _F:
    """Add --environment to a command."""
    return click.option(
        "--environment", metavar="ID|DIR|FILE",
        help="Packages for the guest, granted: an environment, or a requirements file or lock (built at need).",
    )(function)  # fmt: skip


def with_environment(policy: Policy, text: str | None) -> Policy:
    """Return `policy` with the environment that `--environment` names. Raises SandboxError, OSError."""
    return policy if text is None else open_environment(text).grant(policy)


def open_environment(text: str) -> Environment:
    """Return the environment of an id or a directory; of a file, built where it is not, its progress on stderr."""
    from ..environments import Environment
    from ..environments.cache import find

    path = Path(text)
    if not path.is_file():
        return Environment(find(text))
    if path.suffix == ".toml":
        return Environment.from_lock(path, progress=say_line)
    return Environment.from_requirements(path, progress=say_line)


def environment_of_script(source: str) -> Environment | None:
    """Return the environment of a script's header (PEP 723), built where it is not; None where it asks for nothing."""
    import platform

    from ..environments import Environment
    from ..environments.requirements import fits_python, header_of

    header = header_of(source)
    if header is None:
        return None
    if not fits_python(header.requires_python, platform.python_version()):
        raise ValueError(
            f"--install: the script requires Python {header.requires_python}, and this is {platform.python_version()}"
        )
    return Environment.from_requirements(header.dependencies, progress=say_line) if header.dependencies else None


def states_dependencies(source: str) -> bool:
    """Tell whether a script has a header that names packages."""
    from ..environments.requirements import header_of

    try:
        header = header_of(source)
    except ValueError:
        return False
    return header is not None and bool(header.dependencies)


def say_line(line: str) -> None:
    """Show a line of the installer's, on a terminal or where it is kept: on stderr, never among results."""
    click.echo(f"{'' if os.isatty(2) else 'pyisolate: build environment: '}{line}", err=True)
