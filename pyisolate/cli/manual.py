"""Manual pages of the commands, made from what `--help` says: `python -m pyisolate.cli.manual DIRECTORY`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from ..distribution import VERSION
from .main import cli


def pages(command: click.Command = cli, name: str = "pyisolate", parent: click.Context | None = None) -> dict[str, str]:
    """Return file name -> text (man(7)) of a command's page and those of the commands below it."""
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    found = {f"{name.replace(' ', '-')}.1": _page(command, context)}
    if isinstance(command, click.Group):
        for one in command.list_commands(context):
            if (below := command.get_command(context, one)) is not None:
                found |= pages(below, f"{name} {one}", context)
    return found


def _page(command: click.Command, context: click.Context) -> str:
    path = context.command_path
    title = path.replace(" ", "-")
    head = command.get_short_help_str(200).rstrip(".")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.TH "{title.upper()}" 1 "" "pyisolate {VERSION}" "pyisolate"', ".SH NAME", f"{title} \\- {_text(head)}"]
    lines += [".SH SYNOPSIS", f".B {path}", _text(usage), ".SH DESCRIPTION", *_paragraphs(command.help or "")]
    records = [record for param in command.get_params(context) if (record := param.get_help_record(context))]
    if records:
        lines.append(".SH OPTIONS")
    for names, about in records:
        lines += [".TP", f".B {_text(names)}", _text(about)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for one in command.list_commands(context):
            below = command.get_command(context, one)
            if below is not None:
                lines += [".TP", f".BR {title}-{one} (1)", _text(below.get_short_help_str(200))]
    if command.epilog:
        lines += [".SH EXIT STATUS", *_paragraphs(command.epilog.replace("Exit status:\n", ""))]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of paragraphs; one that begins with \\b is kept as it is, as click has it."""
    for block in text.partition("\f")[0].split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if lines and lines[0] == "\b":
            yield from (".PP", ".nf", *map(_text, lines[1:]), ".fi")
        elif lines:
            yield from (".PP", _text(" ".join(lines)))


def _text(text: str) -> str:
    """Return text that troff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped


def main() -> None:
    """Write the pages into a directory, such as ~/.local/share/man/man1."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pyisolate.cli.manual DIRECTORY")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (directory / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
