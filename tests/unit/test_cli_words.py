"""What commands print where stdout is no terminal, what shells complete, and the manual pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pyisolate.cli import terminal
from pyisolate.cli.main import COMMANDS, cli
from pyisolate.cli.manual import pages


def completed(words: str) -> list[str]:
    environment = os.environ | {
        "_PYISOLATE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"pyisolate {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    command = [sys.executable, "-m", "pyisolate.cli.main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_shells_complete_commands_and_presets() -> None:
    assert completed("ex") == ["exec"]
    assert completed("run --preset sh") == ["shell"]
    assert completed("policy show r") == ["readonly"]


def test_a_row_is_one_line_in_a_pipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("a", "word " * 100)
    table.add_row("b", "short")
    terminal.stdout().print(table)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "a " + " word" * 100
    assert second == "b  short"
    monkeypatch.setenv("COLUMNS", "40")
    terminal.stdout().print(table)
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_each_command_has_a_manual_page() -> None:
    found = pages()
    assert {f"pyisolate-{name}.1" for name in COMMANDS} | {"pyisolate.1", "pyisolate-policy-show.1"} <= found.keys()
    page = found["pyisolate-exec.1"]
    assert "\n.SH EXIT STATUS\n" in page
    assert "127    there is no such program" in page
    assert all(line[:1] != "." or line.split()[0] in MACROS for text in found.values() for line in text.splitlines())


MACROS = {".TH", ".SH", ".B", ".BR", ".TP", ".PP", ".nf", ".fi"}


def test_trace_without_a_name_lists_sandboxes() -> None:
    done = CliRunner().invoke(cli, ["trace", "--json"])
    assert done.exit_code == 0
    assert done.stdout.startswith("[")
