"""`pyisolate environment`: build packages for guests, list what is built, and remove it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import SandboxError
from .environment_options import say_line
from .exit_status import STATUS, Outcome

_FAILED = STATUS[Outcome.COULD_NOT_START]


@click.group()
def environment() -> None:
    """Build packages for guests, list what is built, remove it.

    An environment is a directory of packages below $XDG_CACHE_HOME/pyisolate/environments, made of wheels alone.
    """


@environment.command()
@click.option("-r", "--requirement", "file", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="A requirements file.")  # fmt: skip
@click.option("--lock", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="A lock: pylock.toml, or a requirements file of exact versions.")  # fmt: skip
@click.option("--python", metavar="PATH", help="The interpreter that guests run (default: this one).")
@click.option("--installer", type=click.Choice(["auto", "pip", "uv"]), default="auto", show_default=True)
@click.option("--wheels", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="Take packages from the wheels here, and from nowhere else.")  # fmt: skip
@click.option("--rebuild", is_flag=True, help="Build it again, with the newest versions that fit.")
@click.option("--timeout", type=click.FloatRange(min=0), default=900.0, metavar="SECONDS", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("requirements", nargs=-1)
def build(requirements: tuple[str, ...], file: str | None, lock: str | None, as_json: bool, **options: Any) -> None:
    """Build the environment of REQUIREMENTS (or of a file), and print its directory; the one that is there, if any.

    The installer's lines go to stderr. Wheels alone are installed: nothing of a package runs here.
    """
    from ..environments import Environment
    from .terminal import fail

    if sum(map(bool, (requirements, file, lock))) != 1:
        raise click.UsageError("name requirements, -r FILE or --lock FILE: one of them.")
    options["progress"] = say_line
    try:
        if lock:
            made = Environment.from_lock(lock, **options)
        else:
            made = Environment.from_requirements(Path(file) if file else list(requirements), **options)
    except (SandboxError, OSError, ValueError) as error:
        fail(error, _FAILED)
    click.echo(json.dumps(_document(made), indent=2) if as_json else made.directory)


@environment.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(as_json: bool) -> None:
    """List what is built: id, interpreter, and what was asked for."""
    from ..environments import cache

    found = list(cache.kept())
    if as_json:
        import msgspec

        documents = [
            {"id": place.name, "directory": str(place), "error": str(one)}
            if isinstance(one, SandboxError)
            else {"directory": str(place), **msgspec.to_builtins(one)}
            for place, one in found
        ]
        click.echo(json.dumps(documents, indent=2))
        return
    for place, one in found:
        if isinstance(one, SandboxError):
            click.echo(f"{place.name}  {one}")
        else:
            asked = " ".join(line.partition(" --hash")[0].replace(" ", "") for line in one.requirements)
            click.echo(f"{place.name}  {one.tag}  {len(one.distributions)} packages  {asked}")


@environment.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--all", "everything", is_flag=True, help="Remove all of them.")
def remove(ids: tuple[str, ...], everything: bool) -> None:
    """Remove environments by their ids, or the first characters of one.

    Guests that run in one lose what they have not imported yet.
    """
    from ..environments import cache
    from .terminal import fail

    if bool(ids) is everything:
        raise click.UsageError("name ids, or --all.")
    try:
        places = [place for place, _ in cache.kept()] if everything else [cache.find(text) for text in ids]
        for place in places:
            cache.remove(place)
    except (SandboxError, OSError) as error:
        fail(error, _FAILED)


def _document(made: Any) -> dict[str, Any]:
    return {
        "id": made.id,
        "directory": made.directory,
        "tag": made.tag,
        "distributions": made.distributions,
        "modules": list(made.modules),
        "natives": list(made.natives),
    }
