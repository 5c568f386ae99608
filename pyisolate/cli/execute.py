"""`pyisolate exec`: one program in one sandbox, its output streamed, its refusals summed up at the end."""

from __future__ import annotations

import os
import shutil
from typing import Any

import click

from ..errors import SandboxError
from .exit_status import Outcome, status_of
from .guest_files import named_file
from .guest_options import guest_options
from .guest_run import Ran, Settings, assignment, run_guest
from .policy_options import choose_policy, policy_options, warn_of_absent
from .project import Script
from .run import say, say_what_is_not_there

#: As shells have it: a program that cannot be run, and one that is not there.
CANNOT_RUN, NOT_FOUND = 126, 127
_EPILOG = """\b
Exit status:
  0-255  the program's own; 128 and a signal's number where one ended it
  2      wrong command line
  121    a limit ended it (processor time, memory, output ...)
  122    the cell died (killed)
  124    its time was up (--timeout, limits.wall)
  125    it could not start: the policy, or what this kernel can enforce
  126    the policy refuses to run it
  127    there is no such program
"""


@click.command("exec", epilog=_EPILOG, context_settings={"allow_interspersed_args": False})
@policy_options
@guest_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(command: tuple[str, ...], **options: Any) -> None:
    """Run COMMAND with its arguments in a sandbox, as `pyisolate exec --preset compute -- wc -l`.

    Naming a program here grants it (and what it is linked to), unless --policy says what is granted. What is piped in
    here is its stdin. Other programs that it starts need their own --allow-exec.
    """
    quiet = options.pop("quiet")
    path = shutil.which(command[0])
    if path is None:
        click.echo(f"pyisolate: {command[0]}: command not found", err=True)
        raise SystemExit(NOT_FOUND)
    path = os.path.abspath(path)
    script: Script | None = None
    settings: Settings | None = None
    try:
        named = options["policy_file"] is not None
        if not quiet:
            warn_of_absent(options)
        policy = choose_policy(options)
        policy = policy if named else policy.allow_exec(path)
        options["env"] = dict(assignment(text) for text in options["env"])
        options["files"] = dict(named_file(text) for text in options["files"])
        script = Script("", os.path.basename(path), command=(path, *command[1:]))
        settings = Settings(**options)
        ran = run_guest(policy, script, settings)
    except (SandboxError, OSError, ValueError) as error:
        ran = Ran(error=error)
    say(ran, quiet, traced=False)  # the lines are those that start the program
    say_what_is_not_there(ran, script, settings, quiet)
    raise SystemExit(_status(ran))


def _status(ran: Ran) -> int:
    event = getattr(ran.error, "denial_event", None)
    if ran.outcome is Outcome.POLICY and event is not None and event.capability == "process.exec":
        return CANNOT_RUN
    if isinstance(ran.error, FileNotFoundError):
        return NOT_FOUND
    if ran.exit_code is not None and ran.exit_code < 0:
        return 128 - ran.exit_code
    return status_of(ran.outcome, ran.exit_code)
