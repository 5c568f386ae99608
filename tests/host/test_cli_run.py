"""`pyisolate run` as a user meets it: statuses, streams, refusals, JSON."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.thread_limits import WITHOUT_UNHELD

HELD = [word for limit in WITHOUT_UNHELD for word in ("--limit", f"{limit}=none")]

COMMAND = [sys.executable, "-m", "pyisolate.cli.main", "run"]


def run(tmp_path: Path, source: str, *options: str, args: tuple[str, ...] = (), **more: Any) -> Any:
    script = tmp_path / "script.py"
    script.write_text(source)
    return subprocess.run(
        [*COMMAND, *options, str(script), *args], capture_output=True, text=True, timeout=60, cwd=tmp_path, **more
    )


@pytest.mark.parametrize(
    ("source", "options", "status"),
    [
        ("print('fine')", (), 0),
        ("import sys; sys.exit(7)", (), 7),
        ("import sys; sys.exit('words')", (), 1),
        ("1 / 0", (), 1),
        ("def (", (), 1),
        ("open('/etc/passwd')", (), 120),
        ("open('/etc/passwd')", ("--allow-read", "/etc/passwd"), 0),
        ("open('/etc/passwd')", ("--monitor",), 0),
        ("while True: pass", ("--timeout", "0.5"), 124),
        ("while True: pass", ("--limit", "wall=500ms"), 124),
        ("x = bytearray(1 << 30)", ("--limit", "memory=64MiB"), 121),
        ("print('x' * 100000)", ("--limit", "output=1KiB"), 121),
        ("import os; os._exit(3)", (), 122),
        ("import ctypes; ctypes.string_at(1)", ("--allow-import", "ctypes"), 122),
        ("pass", ("--preset", "nonesuch"), 125),
        ("pass", ("--allow-read", "/etc", "--limit", "memory=lots"), 125),
    ],
)
def test_the_status_tells_how_it_ended(tmp_path: Path, source: str, options: tuple[str, ...], status: int) -> None:
    done = run(tmp_path, source, *options)
    assert done.returncode == status, done.stderr
    assert "live on" not in done.stderr  # as in a service: here the sandbox ends


def test_a_refusal_that_was_caught_is_still_told(tmp_path: Path) -> None:
    source = "try: open('/etc/passwd')\nexcept OSError: print('caught')"
    done = run(tmp_path, source)
    assert (done.returncode, done.stdout) == (0, "caught\n")
    assert "1 operation refused:" in done.stderr
    assert "fs.read /etc/passwd" in done.stderr
    assert "to allow it, add:  fs: [{path: /etc/passwd, allow: [read]}]" in done.stderr
    assert run(tmp_path, source + "\n1 / 0", "--fail-on-denial").returncode == 120
    assert run(tmp_path, source, "--quiet").stderr == ""


def test_what_ended_a_run_is_told_once(tmp_path: Path) -> None:
    done = run(tmp_path, "open('/etc/passwd')")
    ours = [line for line in done.stderr.splitlines() if line.startswith(("pyisolate:", "  ")) and "File" not in line]
    told = [line for line in ours if "/etc/passwd" in line and "open(" not in line]
    assert [
        line.replace("SCOPE_INSUFFICIENT", "NOT_GRANTED") for line in told
    ] == [  # the script's directory may be granted
        "  fs.read /etc/passwd  [broker: NOT_GRANTED], at %s:1 in <module>" % (tmp_path / "script.py"),
        "      to allow it, add:  fs: [{path: /etc/passwd, allow: [read]}]",
    ]
    assert "pyisolate: fs.read, on /etc/passwd" in run(tmp_path, "open('/etc/passwd')", "--quiet").stderr
    absent = run(tmp_path, "import no_such_module").stderr
    assert "      hint: look at the name: no_such_module is not installed" in absent
    assert "to allow it, add:" not in absent
    late = run(tmp_path, "while True: pass", "--timeout", "0.5").stderr
    assert "0.5 s (timeout)" in late
    assert "1 operation refused" not in late
    both = run(tmp_path, "try: open('/etc/passwd')\nexcept OSError: pass\nwhile True: pass", "--timeout", "0.5").stderr
    assert "1 operation refused:\n  fs.read /etc/passwd" in both


def test_a_commit_without_a_directory_is_a_wrong_command_line(tmp_path: Path) -> None:
    done = run(tmp_path, "1", "--commit")
    assert (done.returncode, "--copy-on-write DIR" in done.stderr) == (2, True)


def test_without_refusals_nothing_is_added(tmp_path: Path) -> None:
    done = run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


def test_the_script_sees_its_arguments_and_environment(tmp_path: Path) -> None:
    source = "import os, sys; print(sys.argv[1:], __name__, os.environ.get('A'), os.environ.get('SECRET'), os.getcwd())"
    environment = {**os.environ, "SECRET": "hunter2"}
    done = run(tmp_path, source, "--env", "A=1", args=("-x", "--json", "y"), env=environment)
    assert done.stdout == "['-x', '--json', 'y'] __main__ 1 None /sandbox/workspace\n"


@pytest.mark.parametrize(
    ("source", "status", "stdout"),
    [
        ("import sys; print(__name__, sys.argv[1:])", 0, "__main__ ['x']\n"),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit()", 0, ""),
        ("open('/etc/passwd')", 120, ""),
        ("1 / 0", 1, ""),
    ],
)
def test_a_sandbox_thread_runs_scripts_too(tmp_path: Path, source: str, status: int, stdout: str) -> None:
    done = run(tmp_path, source, "--isolation", "thread", *HELD, args=("x",))
    assert (done.returncode, done.stdout) == (status, stdout), done.stderr


def test_the_script_can_come_from_stdin() -> None:
    done = subprocess.run([*COMMAND, "-"], input="print(6 * 7)", capture_output=True, text=True, timeout=60)
    assert done.stdout == "42\n"


def test_output_passes_through_as_it_comes(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import time\nprint('first')\ntime.sleep(20)")
    with subprocess.Popen([*COMMAND, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        started = time.monotonic()
        assert process.stdout.readline() == "first\n"
        assert time.monotonic() - started < 10
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_ctrl_c_at_a_terminal_is_for_the_guest_alone() -> None:
    """It reaches the whole foreground group: no part of the supervisor may print what it makes of that."""
    master, slave = pty.openpty()
    guest = ["-c", "import time; print('going', flush=True); time.sleep(60)"]
    opens_its_terminal = ["sh", "-c", 'exec "$@" <$0', os.ttyname(slave), *COMMAND, *guest]
    seen = b""
    with (
        open(master, "rb+", buffering=0) as terminal,
        subprocess.Popen(opens_its_terminal, stdout=slave, stderr=slave, start_new_session=True) as process,
    ):
        os.close(slave)
        while b"going" not in seen:
            seen += terminal.read(4096)
        terminal.write(b"\x03")
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while part := terminal.read(4096):
                seen += part
    assert process.returncode == 130
    assert b"interrupted\r\n" in seen
    assert b"rootview" not in seen, seen.decode()
    assert seen.count(b"Traceback") <= 1, seen.decode()  # the guest's, unless that was killed


def test_a_closed_pipe_ends_the_guest(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import time\nwhile True:\n    print('x' * 1000)\n    time.sleep(0.01)")
    command = " ".join([*COMMAND, "--limit", "wall=20s", str(script), "| head -1"])
    started = time.monotonic()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stdout == "x" * 1000 + "\n"
    assert "Traceback" not in done.stderr
    assert "write stdout: Broken pipe" in done.stderr
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(("where", "status"), [(">/dev/full", 1), (">&-", 7), (">&- 2>&-", 7), ("<&-", 7)])
def test_output_that_goes_nowhere(tmp_path: Path, where: str, status: int) -> None:
    script = tmp_path / "s.py"
    script.write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(7)")
    command = " ".join([*COMMAND, str(script), where])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert ("No space left on device" in done.stderr) is (status == 1)


def test_a_timeout_below_zero_is_a_wrong_command_line(tmp_path: Path) -> None:
    assert run(tmp_path, "print(1)", "--timeout", "-1").returncode == 2


def test_the_module_is_the_command_line() -> None:
    command = [sys.executable, "-m", "pyisolate", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("pyisolate ")


def test_json_holds_output_result_and_refusals(tmp_path: Path) -> None:
    done = run(tmp_path, "print('out')\nopen('/etc/passwd')", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_status"] == 120
    assert document["outcome"] == "policy"
    assert document["stdout"] == "out\n"
    assert document["error"]["type"] == "PolicyError"
    assert document["error"]["code"] in ("NOT_GRANTED", "SCOPE_INSUFFICIENT")  # the script's directory may be granted
    (denial,) = document["denials"]
    assert (denial["capability"], denial["target"]) == ("fs.read", "/etc/passwd")
    assert denial["suggestion"] == {"fs": [{"path": "/etc/passwd", "allow": ["read"]}]}
    assert document["enforcement"]["complete"] is True
    assert document["policy"]["name"] == "compute"


def test_what_was_refused_and_what_would_have_been_are_listed_apart(tmp_path: Path) -> None:
    source = "import ctypes\nopen('/etc/passwd')\nctypes.CDLL(None).unshare(0x10000000)"
    done = run(tmp_path, source, "--monitor", "--allow-import", "ctypes")
    assert "pyisolate: 1 operation refused:\n  kernel.namespace" in done.stderr
    assert "pyisolate: 1 operation would have been refused:\n  fs.read /etc/passwd" in done.stderr
    assert done.returncode == 0


def test_a_shadow_policy_is_tried_beside_the_one_in_force(tmp_path: Path) -> None:
    candidate = tmp_path / "candidate.yaml"
    candidate.write_text("{extends: compute, name: candidate}")
    done = run(
        tmp_path, "print(len(open('/etc/passwd').read()) > 0)", "--allow-read", "/etc/passwd", "--shadow", candidate
    )
    assert (done.returncode, done.stdout) == (0, "True\n")
    assert "1 operation would be refused by candidate:\n  fs.read /etc/passwd" in done.stderr
    assert run(tmp_path, "pass", "--shadow", tmp_path / "missing.yaml").returncode == 125


def test_monitor_says_what_would_have_been_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "print(len(open('/etc/passwd').read()) > 0)", "--monitor")
    assert done.stdout == "True\n"
    assert "would have been refused" in done.stderr


def test_refusals_go_to_the_audit_log(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    run(tmp_path, "open('/etc/passwd')", "--audit-log", str(log))
    shown = subprocess.run(
        [sys.executable, "-m", "pyisolate.cli.main", "events", "show", "--json", str(log)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(shown.stdout)["target"] == "/etc/passwd"


def test_metrics_can_be_watched_while_it_runs(tmp_path: Path) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = tmp_path / "s.py"
    script.write_text("import time\ntry: open('/etc/passwd')\nexcept OSError: print('refused')\ntime.sleep(20)")
    command = [*COMMAND, "--metrics-port", str(port), str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "refused\n"
        top = subprocess.run(
            [sys.executable, "-m", "pyisolate.cli.main", "top", "--once", "--url", f"http://127.0.0.1:{port}/metrics"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        process.terminate()
    assert 'capability="fs.read"' in text
    assert top.returncode == 0, top.stderr
    assert "fs.read" in top.stdout
    assert "1 running" in top.stdout


def test_a_learned_policy_is_enough_and_no_rule_of_it_is_idle(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script, learned = tmp_path / "job.py", tmp_path / "learned.yaml"
    script.write_text("import json\nprint(len(open('/etc/hostname').read()) > 0, len(open('/etc/passwd').read()) > 0)")
    command = [
        sys.executable,
        "-m",
        "pyisolate.cli.main",
        "policy",
        "learn",
        "--verify",
        "-o",
        str(learned),
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused nothing" in done.stderr
    from pyisolate import Policy
    from pyisolate.policy import Policy as Model

    policy = Policy.load(learned)
    added = [rule for rule in policy.files if rule.path.startswith("/")]
    assert {rule.path for rule in added} == {"/etc/hostname", "/etc/passwd"}
    for rule in added:
        import msgspec

        less: Model = msgspec.structs.replace(policy, files=tuple(r for r in policy.files if r is not rule))
        file = tmp_path / "less.yaml"
        file.write_text(less.to_yaml())
        assert subprocess.run([*COMMAND, "--policy", str(file), str(script)], capture_output=True).returncode == 120


def test_files_go_in_and_results_come_out(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/a").write_text("a")
    source = (
        "import os, sys\nassert open('in.csv').read() == '1,2\\n' and open('more/a').read() == 'a'\n"
        "os.makedirs('plots'); open('plots/p.txt', 'w').write('plot')\nopen('more/a', 'w').write('b')\n"
        "os.symlink('/etc/passwd', 'link')\nos.makedirs('.cache'); open('.cache/x', 'w').close()\nsys.exit(3)"
    )
    out = tmp_path / "results"
    done = run(
        tmp_path, source, "--file", "in.csv=data.csv", "--file", "more", "--out", str(out), "--preset", "compute"
    )
    assert done.returncode == 3, done.stderr
    found = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {"plots/p.txt": "plot", "more/a": "b"}
    assert "link" in done.stderr
    killed = run(tmp_path, "open('part', 'w').write('x')\nwhile True: pass", "--timeout", "1", "--out", str(out))
    assert killed.returncode == 124
    assert (out / "part").read_text() == "x"
    done = run(tmp_path, "open('r', 'w').write('x')", "--json", "--out", str(tmp_path / "json"))
    assert json.loads(done.stdout)["files"] == {"files": [str(tmp_path / "json/r")], "left_out": []}
    assert run(tmp_path, "pass", "--file", "nothing").returncode == 2
    assert run(tmp_path, "pass", "--isolation", "thread", *HELD, "--out", str(out)).returncode == 125


def test_what_a_rule_denies_is_summed_up_with_that_rule_and_each_note_is_there_once(tmp_path: Path) -> None:
    rules = "fs: [{path: /etc, allow: [read]}, {path: /etc/passwd, deny: [read]}, {path: /srv/nope, allow: [read]}]\n"
    (tmp_path / "p.yaml").write_text("version: 1\nname: p\nextends: compute\n" + rules)
    done = run(tmp_path, "open('/etc/passwd')", "--policy", "p.yaml")
    assert "to allow it, remove or narrow:  fs: {path: /etc/passwd, deny: [read]}" in done.stderr
    assert "to allow it, add" not in done.stderr
    notes = json.loads(run(tmp_path, "1", "--policy", "p.yaml", "--json").stdout)["enforcement"]["notes"]
    assert sum("/srv/nope" in note for note in notes) == 1, notes
