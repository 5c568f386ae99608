"""The command line without a sandbox: the group, statuses, choosing a policy, policy commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from pyisolate import errors
from pyisolate.capability import Capability
from pyisolate.cli import exit_status, main, project
from pyisolate.cli import policy_options as choosing
from pyisolate.cli.exit_status import Outcome
from pyisolate.cli.guest_run import Ran
from pyisolate.cli.run import say
from pyisolate.policy import Policy
from pyisolate.telemetry.policy_error import policy_error
from tests.telemetry_events import event


def invoke(*args: str, **options: Any) -> Any:
    return CliRunner().invoke(main.cli, list(args), **options)


def test_every_command_is_what_the_table_says() -> None:
    for name in main.COMMANDS:
        command = main.cli.get_command(click.Context(main.cli), name)
        assert isinstance(command, click.Command), name
        assert command.name == name
        assert command.help, name
        assert invoke(name, "--help").exit_code == 0


def test_help_loads_nothing_but_click() -> None:
    program = (
        "import sys; from pyisolate.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('rich', 'yaml', 'msgspec', 'cffi', 'pyisolate.supervisor.supervisor', 'pandas')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_loads_nothing_of_what_runs_in_cells_or_is_seldom_needed() -> None:
    """Each first start paid for it. The control: what it needs is loaded."""
    program = (
        "import sys, pyisolate.cli.run, pyisolate.cli.guest_run, pyisolate.supervisor.runtime\n"
        "import pyisolate.supervisor.supervisor\n"
        "from pyisolate import Policy\n"
        "from pyisolate.cli.project import Script, with_project\n"
        "policy = with_project(Policy.preset('compute'), Script('1', '<string>'), grant=True)[0].version\n"
        "guests = ['pyisolate.hooks', 'pyisolate.cell.guest', 'pyisolate.cell.zygote', 'pyisolate.sandbox.thread']\n"
        "seldom = ['_hashlib', 'random', 'shutil', 'ssl', 'tempfile', 'tomllib', 'zipfile']\n"
        "seldom += ['pyisolate.policy.explain']\n"
        "loaded = [one for one in [*guests, *seldom, 'cloudpickle'] if one in sys.modules]\n"
        "print(loaded, 'pyisolate.cell.pool' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_a_mistyped_command_gets_a_hint() -> None:
    answer = invoke("docter")
    assert answer.exit_code == 2
    assert "Did you mean 'doctor'?" in answer.output


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errors.PolicyError("x"), Outcome.POLICY),
        (errors.PolicyAuthError("x"), Outcome.POLICY),
        (errors.TimeoutError("x", limit="wall"), Outcome.TIMEOUT),
        (errors.CPUExceeded("x", limit="cpu"), Outcome.LIMIT),
        (errors.MemoryExceeded("x", limit="memory"), Outcome.LIMIT),
        (errors.GuestError("ValueError", "x", ""), Outcome.GUEST_ERROR),
        (errors.GuestError("KeyboardInterrupt", "", ""), Outcome.INTERRUPTED),
        (errors.SandboxDied("x"), Outcome.DIED),
        (errors.SandboxClosed("x"), Outcome.DIED),
        (errors.EnforcementError("x"), Outcome.COULD_NOT_START),
        (errors.PolicySyntaxError("x"), Outcome.COULD_NOT_START),
        (errors.SandboxError("x"), Outcome.COULD_NOT_START),
        (FileNotFoundError("x"), Outcome.COULD_NOT_START),
        (KeyboardInterrupt(), Outcome.INTERRUPTED),
    ],
)
def test_each_error_has_an_outcome(error: BaseException, outcome: Outcome) -> None:
    assert exit_status.outcome_of(error) is outcome


def test_an_error_that_the_guests_own_hook_was_given_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    for shown, text in ((False, "the traceback\n"), (True, "")):
        say(Ran(error=errors.GuestError("ValueError", "x", "the traceback\n", shown=shown)), quiet=False)
        assert capsys.readouterr().err == text


def test_who_looks_for_a_program_reads_how_it_may_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, text = tmp_path / "program", tmp_path / "text"
    for file, mode in ((program, 0o755), (text, 0o644)):
        file.touch(mode)
        refused = replace(
            event(capability=Capability.FS_LOOKUP, target=str(file)),
            suggestion={"fs": [{"path": str(file), "allow": ["read"]}]},
        )
        say(Ran(denials=[refused]), quiet=False)
        said = capsys.readouterr().err.replace("\n", "")
        assert "allow: [read]" in said
        assert (f"to run it, add:    process: [{{exec: {program}}}]" in said) is (file is program)
        assert ('to run it, instead: {"process"' in str(policy_error(refused))) is (file is program)


def test_who_grants_what_is_not_there_is_warned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent")
    given = {"allow_read": (str(tmp_path), absent), "allow_write": (), "allow_exec": ("@programs",)}
    choosing.warn_of_absent(given)
    assert (
        capsys.readouterr().err == f"pyisolate: --allow-read {absent}: there is no such path, so nothing is granted\n"
    )


@pytest.mark.parametrize("command", ["run {} -c 1", "exec {} true", "policy check {} compute"])
def test_an_environment_that_cannot_be_had_is_told_in_words(command: str) -> None:
    answer = invoke(*command.format("--environment none.txt").split())
    assert (answer.exit_code, type(answer.exception)) == (125, SystemExit), answer.exception
    assert "'none.txt': there is none" in answer.output
    assert "hint:" in answer.output


def test_a_defect_is_not_hidden_as_an_outcome() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status.outcome_of(ZeroDivisionError())


def test_outcomes_are_told_apart_by_status() -> None:
    # what could not be written ends as in the interpreter, whose print raises an exception
    apart = {**exit_status.STATUS, Outcome.OUTPUT_LOST: None}
    assert len(set(apart.values())) == len(exit_status.STATUS)
    assert exit_status.status_of(Outcome.OUTPUT_LOST) == exit_status.status_of(Outcome.GUEST_ERROR)
    assert exit_status.status_of(Outcome.EXIT, 7) == 7
    assert exit_status.status_of(Outcome.SUCCESS, None) == 0
    assert exit_status.status_of(Outcome.EXIT, -1) == 255
    assert exit_status.status_of(Outcome.POLICY, 7) == 120


def test_run_help_lists_every_status() -> None:
    text = invoke("run", "--help").output
    for status in {*exit_status.STATUS.values()} - {0}:
        assert f"  {status} " in text


# -- choosing a policy ----------------------------------------------------------------------------------------


def chosen(*args: str) -> Policy:
    """Return what the options of `run` make of the arguments."""
    found: list[Policy] = []

    @click.command()
    @choosing.policy_options
    def probe(**options: Any) -> None:
        found.append(choosing.choose_policy(options))
        assert options == {}

    answer = CliRunner().invoke(probe, args, standalone_mode=False)
    if answer.exception:
        raise answer.exception
    return found[0]


def test_the_default_is_compute() -> None:
    assert chosen() == Policy.preset("compute")


def test_a_name_that_is_neither_file_nor_preset_is_told_with_the_nearest() -> None:
    with pytest.raises(errors.PolicySyntaxError, match="did you mean 'compute'"):
        chosen("--policy", "comput")
    with pytest.raises(OSError, match=r"comput\.yaml"):
        chosen("--policy", "comput.yaml")


def test_grants_are_added_to_a_preset(tmp_path: Path) -> None:
    policy = chosen("--preset", "data", "--allow-read", str(tmp_path), "--allow-connect", "10.0.0.1:80")
    assert policy == Policy.preset("data").allow_read(tmp_path).allow_connect("10.0.0.1:80")


def test_relative_paths_are_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chosen("--allow-write", "out") == Policy.preset("compute").allow_write(tmp_path / "out")


def test_limits_take_the_files_units() -> None:
    policy = chosen("--limit", "memory=64MiB", "--limit", "processes=3", "--limit", "wall=none")
    assert policy.limits.memory_bytes == 64 << 20
    assert policy.limits.processes == 3
    assert policy.limits.wall_s is None


@pytest.mark.parametrize("args", [("--limit", "memory"), ("--policy", "x", "--preset", "y")])
def test_wrong_options_are_usage_errors(args: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        chosen(*args)


def test_a_policy_that_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nnam: x\n")
    answer = invoke("run", "--policy", str(file), "x.py")
    assert answer.exit_code == 125
    assert "p.yaml:2" in answer.output
    assert "hint: did you mean 'name'?" in answer.output


def test_json_is_one_document_even_when_nothing_started(tmp_path: Path) -> None:
    answer = invoke("run", "--json", str(tmp_path / "none.py"))
    document = json.loads(answer.stdout)
    assert answer.exit_code == document["exit_status"] == 125
    assert document["outcome"] == "could_not_start"
    assert document["denials"] == []


def test_a_mistyped_option_is_not_taken_for_a_script() -> None:
    answer = invoke("run", "--moniter", "x.py")
    assert answer.exit_code == 2
    assert "--monitor" in answer.output


def test_a_script_is_read_by_its_own_encoding(tmp_path: Path) -> None:
    file = tmp_path / "s.py"
    file.write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\n".encode("latin-1"))
    assert "é" in project.read_script(str(file)).source
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not Python source text"):
        project.read_script(str(file))


# -- policy commands -------------------------------------------------------------------------------------------


def test_explain_names_the_rule_and_the_way_out() -> None:
    refused = invoke("policy", "explain", "compute", "fs.read", "/etc/shadow")
    assert refused.exit_code == 1
    assert "NOT_GRANTED" in refused.output
    assert "fs: [{path: /etc/shadow, allow: [read]}]" in refused.output
    allowed = invoke("policy", "explain", "compute", "import.module", "json")
    assert allowed.exit_code == 0
    assert allowed.output.startswith("allow  import.module json")


def test_explain_in_json_is_plain() -> None:
    document = json.loads(invoke("policy", "explain", "--json", "compute", "kernel.mount", "/mnt").output)
    assert document["verdict"] == "deny"
    assert document["suggestion"] is None


def test_explain_knows_its_capabilities() -> None:
    answer = invoke("policy", "explain", "compute", "fs.raed", "/x")
    assert answer.exit_code == 2
    assert "Did you mean 'fs.read'?" in answer.output


def test_check_fails_on_dangers_only(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(Policy.preset("compute").to_yaml())
    bad.write_text(Policy.preset("compute").allow_exec("/bin/sh").allow_read("/root").to_yaml())
    assert invoke("policy", "check", str(good)).exit_code == 0
    answer = invoke("policy", "check", "--json", str(good), str(bad))
    document = json.loads(answer.output)
    assert answer.exit_code == 1
    assert not document["ok"]
    assert {finding["severity"] for finding in document["findings"][str(bad)]} & {"danger"}


def test_diff_fails_when_something_is_widened(tmp_path: Path) -> None:
    wider = tmp_path / "wider.yaml"
    wider.write_text(Policy.preset("compute").allow_read("/srv").to_yaml())
    answer = invoke("policy", "diff", "compute", str(wider))
    assert answer.exit_code == 1
    assert answer.output == "widened: fs.read /srv\n"
    back = invoke("policy", "diff", str(wider), "compute")
    assert back.exit_code == 0
    assert back.output == "narrowed: fs.read /srv\n"
    assert invoke("policy", "diff", "compute", "compute").output == "they mean the same\n"


def test_show_gives_a_policy_that_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(invoke("policy", "show", "data").output)
    assert Policy.load(file) == Policy.preset("data")
    assert Policy.from_dict(json.loads(invoke("policy", "show", "--json", "data").output)) == Policy.preset("data")
    assert json.loads(invoke("policy", "show", "--compiled", "compute").output)["name"] == "compute"


def test_presets_are_all_listed() -> None:
    from pyisolate.policy.load import PRESETS

    lines = invoke("policy", "presets").output.splitlines()
    assert set(PRESETS) <= set(lines)


def test_learning_from_a_log_grants_what_was_refused(tmp_path: Path) -> None:
    log, output = tmp_path / "audit.jsonl", tmp_path / "learned.yaml"
    log.write_text(event(target="/etc/hostname").to_json() + "\n")
    answer = invoke("policy", "learn", "--from", str(log), "-o", str(output))
    assert answer.exit_code == 0, answer.output
    learned = Policy.load(output)
    assert learned.name == "learned"
    assert any(rule.path == "/etc/hostname" for rule in learned.files)


@pytest.mark.parametrize("args", [(), ("--verify", "--from", "x"), ("--from", "x", "script.py")])
def test_learning_needs_one_source(args: tuple[str, ...]) -> None:
    assert invoke("policy", "learn", *args).exit_code == 2


# -- conventions ----------------------------------------------------------------------------------------------


def test_a_name_is_a_file_of_the_users_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "config" / "pyisolate" / "policies"
    own.mkdir(parents=True)
    (own / "report.yaml").write_text("name: own\n")
    (own / "compute.yaml").write_text("name: shadowing\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert chosen("--policy", "report").name == "own"
    assert choosing.load_policy("report").name == "own"
    assert choosing.load_policy("compute").name == "shadowing"
    assert chosen("--preset", "compute") == Policy.preset("compute")
    (tmp_path / "report").write_text("name: here\n")
    assert chosen("--policy", "report").name == "here"  # a path that is there comes first
    for other in ("missing.yaml", "../report.yaml", "sub/report"):
        with pytest.raises(FileNotFoundError):
            chosen("--policy", other)
    with pytest.raises(errors.PolicySyntaxError, match="no such file, and no such preset") as caught:
        chosen("--policy", "missing")
    assert str(own / "missing.yaml") in str(caught.value.hint)


def test_without_the_variable_it_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / ".config" / "pyisolate" / "policies"
    own.mkdir(parents=True)
    (own / "report.yaml").write_text("name: own\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert chosen("--policy", "report").name == "own"


def test_no_color_and_pipes_are_heeded() -> None:
    command = [sys.executable, "-m", "pyisolate", "policy", "explain", "compute", "fs.read", "/etc/shadow"]
    forced = {"FORCE_COLOR": "1", "TERM": "xterm", "PATH": "/usr/bin"}
    coloured = subprocess.run(command, env=forced, capture_output=True, text=True, check=False).stdout
    plain = subprocess.run(command, env=forced | {"NO_COLOR": "1"}, capture_output=True, text=True, check=False).stdout
    assert "\x1b[1;31m" in coloured
    assert "\x1b[31m" not in plain
    assert ";31m" not in plain


def test_explain_says_what_the_host_is_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "asks.yaml"
    file.write_text("name: asks\nextends: compute\nask: [net.http, {exec: /opt/tool}, {connect: '10.0.0.0/8:443'}]\n")
    asked = {
        (capability, target): json.loads(invoke("policy", "explain", "--json", str(file), capability, target).output)[
            "asked"
        ]
        for capability, target in (
            ("process.exec", "/opt/tool"),
            ("process.exec", "/opt/other"),
            ("net.connect", "10.0.0.1:443"),
            ("net.connect", "11.0.0.1:443"),
            ("net.http", "CONNECT a.example.org:443"),
        )
    }
    assert list(asked.values()) == [True, False, True, False, True]
