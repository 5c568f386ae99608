"""`pyisolate mcp`: sandboxes for models, over the Model Context Protocol."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, NoReturn

import click

from .exit_status import STATUS, Outcome
from .policy_options import choose_policy, policy_options


@click.command()
@policy_options
@click.option("--http", "port", type=int, metavar="PORT", help="Serve streamable HTTP on 127.0.0.1, not stdio.")
@click.option("--sessions", type=click.IntRange(1), default=16, show_default=True, help="Sandboxes at a time.")
@click.option("--idle", type=float, default=1800.0, show_default=True, metavar="SECONDS",
              help="Close the sandbox of a session that has been quiet for so long.")  # fmt: skip
def mcp(port: int | None, sessions: int, idle: float, **options: Any) -> None:
    """Serve sandboxes to a model: run_python, run_command, files, and what was refused.

    Each session has a sandbox of its own under the policy, which no tool can change. Needs the extra `mcp`.
    """
    from ..distribution import install_extra
    from ..errors import SandboxError
    from .terminal import fail

    try:
        policy = choose_policy(options)
        try:
            from ..integrations.mcp_server import Sessions, make_server
        except ImportError as error:
            cause = f"the package mcp (2 or newer) cannot be imported: {error}"
            raise SandboxError(operation="mcp", cause=cause, hint=install_extra("mcp")) from error
        from ..supervisor.supervisor import Supervisor

        # the server's own handler raises the signal again at its end: the sandboxes are to be closed before
        signal.signal(signal.SIGTERM, _terminated)
        with Supervisor() as supervisor:
            server = make_server(Sessions(supervisor, policy, limit=sessions, idle_s=idle))
            if port is None:
                server.run("stdio")
            else:
                server.run("streamable-http", host="127.0.0.1", port=port)
    except (SandboxError, OSError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
