"""The options of every command that runs something in a sandbox: `run` and `exec`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])


def guest_options(function: _F) -> _F:
    """Add what both have: --timeout, --enforcement, --env, --cwd, --quiet, and what is about files."""
    for decorate in (
        click.option("-q", "--quiet", is_flag=True, help="No summary of refusals on stderr."),
        click.option("--audit-log", type=click.Path(dir_okay=False),
                     help="Append refusals to this file; see `events`."),
        click.option("--out", metavar="DIR", type=click.Path(file_okay=False),
                     help="Copy what the guest made in its workspace to DIR, however it ended."),
        click.option("--commit", is_flag=True,
                     help="Write to the directory of --copy-on-write what was changed, where all went well."),
        click.option("--copy-on-write", metavar="DIR", type=click.Path(exists=True, file_okay=False),
                     help="The guest works in a copy of DIR; say what it changed there."),
        click.option("--workspace", metavar="DIR", type=click.Path(exists=True, file_okay=False),
                     help="The guest works in DIR itself, and what it writes stays there."),
        click.option("--file", "files", metavar="[NAME=]PATH", multiple=True,
                     help="Copy a file or directory into the guest's workspace. Repeatable."),
        click.option("--cwd", metavar="PATH", help="The guest's working directory (default: its workspace, or /)."),
        click.option("--env", metavar="KEY=VALUE", multiple=True,
                     help="A variable of the guest's environment. Repeatable."),
        click.option("--enforcement", type=click.Choice(["strict", "best_effort"]), default="strict", show_default=True,
                     help="best_effort: run even where this kernel cannot enforce a rule, and say so."),
        click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS",
                     help="Stop after this time (beside limits.wall)."),
    ):  # fmt: skip
        function = decorate(function)
    return function
