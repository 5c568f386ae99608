"""`pyisolate kernel`: a Jupyter kernel whose cells run in a sandbox."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from .exit_status import STATUS, Outcome
from .policy_options import load_policy


@click.group()
def kernel() -> None:
    """Install and run a Jupyter kernel whose cells run in a sandbox. Needs the extra `jupyter`."""


@kernel.command()
@click.option("--name", default="pyisolate", show_default=True, help="The kernel's name, as `--kernel` takes it.")
@click.option("--display-name", metavar="TEXT", help="What notebooks show; default is made of the policy's name.")
@click.option("--policy", "policy_name", default="compute", show_default=True, metavar="FILE|PRESET",
              help="The policy of every cell.")  # fmt: skip
@click.option("--user", "where", flag_value="user", help="Install for this user.")
@click.option("--sys-prefix", "where", flag_value="sys-prefix", help="Install into this Python environment (default).",
              default=True)  # fmt: skip
@click.option("--prefix", type=click.Path(file_okay=False), help="Install below this directory.")
def install(name: str, display_name: str | None, policy_name: str, where: str, prefix: str | None) -> None:
    """Install a kernel for Jupyter. Its policy is read again at each start of the kernel."""
    from ..errors import SandboxError
    from .terminal import fail

    try:
        policy = load_policy(policy_name)
        _import()
        from jupyter_client.kernelspec import KernelSpecManager

        file = Path(policy_name)
        chosen = str(file.absolute()) if file.exists() else policy_name
        spec = {
            "argv": [sys.executable, "-m", "pyisolate", "kernel", "start", "{connection_file}", "--policy", chosen],
            "display_name": display_name or f"Python in a sandbox ({policy.name or file.stem})",
            "language": "python",
            "interrupt_mode": "message",
            "metadata": {"debugger": False},
        }
        below = prefix or (sys.prefix if where == "sys-prefix" else None)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "kernel.json").write_text(json.dumps(spec, indent=2) + "\n")
            path = KernelSpecManager().install_kernel_spec(folder, name, user=below is None, prefix=below)
    except (SandboxError, OSError, ValueError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])
    click.echo(f"{name}: {path}")


@kernel.command(hidden=True)
@click.argument("connection_file", type=click.Path())
@click.option("--policy", "policy_name", default="compute")
def start(connection_file: str, policy_name: str) -> None:
    """Run a kernel; front ends start it."""
    from ..errors import SandboxError
    from .terminal import fail

    try:
        policy = load_policy(policy_name)
        _import().serve(connection_file, policy)
    except (SandboxError, OSError) as error:
        fail(error, STATUS[Outcome.COULD_NOT_START])


def _import() -> Any:
    from ..distribution import install_extra
    from ..errors import SandboxError

    try:
        from ..integrations import jupyter_kernel
    except ImportError as error:
        cause = f"the package ipykernel (7 or newer) cannot be imported: {error}"
        raise SandboxError(operation="kernel", cause=cause, hint=install_extra("jupyter")) from error
    return jupyter_kernel
