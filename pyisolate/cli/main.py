"""`pyisolate`: the group. Commands are imported when they run, so that `pyisolate --help` stays quick."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys
from typing import Any

import click

from ..distribution import NAME, VERSION, refuse_to_be_overlaid

refuse_to_be_overlaid("pyisolate")

#: What a command could not write out.
_LOST = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
#: To start imports 300 modules, which hold all that they make: to look for garbage each 700 objects takes 15 ms.
_COLLECT_AT = 100_000
#: By this name an import says that what it loads was built from other sources (`native.sources`).
_NATIVE = "pyisolate.native"
#: command -> (module of this package, function, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("run", "run", "Run a script in a sandbox."),
    "exec": ("execute", "execute", "Run a program in a sandbox."),
    "doctor": ("doctor", "doctor", "Prove what this machine can enforce, and say what is missing."),
    "environment": ("environment", "environment", "Build packages for guests, list what is built, remove it."),
    "policy": ("policy", "policy", "Check, test, explain, compare, show and learn policies."),
    "events": ("events", "events", "Read the audit log of refusals."),
    "top": ("top.command", "top", "Watch sandboxes and refusals live."),
    "trace": ("trace", "trace", "Count a sandbox's system calls and their latencies, live."),
    "mcp": ("mcp", "mcp", "Serve sandboxes to models over the Model Context Protocol."),
    "kernel": ("kernel", "kernel", "Install a Jupyter kernel whose cells run in a sandbox."),
    "demo": ("demo.command", "demo", "Run a real job and two dozen real attacks, and show what was refused."),
}


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: D102
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: D102
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f".{module}", __package__), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: D102
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Add a hint to "no such command"."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0] if args else "", COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="pyisolate", message=f"%(prog)s %(version)s ({NAME})")
def cli() -> None:
    """Run Python you do not trust under a policy that the kernel enforces, and know what was refused."""


def main() -> None:
    """Run the command line and exit with its status."""
    gc.set_threshold(_COLLECT_AT, 10, 10)
    try:
        cli(prog_name="pyisolate")
    except ImportError as error:
        if error.name != _NATIVE:
            raise
        sys.exit(str(error))
    except OSError as error:
        if error.errno not in _LOST:
            raise
        with contextlib.suppress(OSError, ValueError):  # what is left in the buffer must not fail once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"pyisolate: write: {error.strerror}")
    finally:
        gc.freeze()  # else the interpreter looks through all that was loaded, three times, before it ends


if __name__ == "__main__":
    main()
