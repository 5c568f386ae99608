"""`pyisolate trace`: follow what a running sandbox asks of the kernel, with BPF."""

from __future__ import annotations

import click


@click.command()
@click.argument("name")
def trace(name: str) -> None:
    """Follow a sandbox's system calls."""
    raise click.ClickException(f"trace {name!r}: not built")
