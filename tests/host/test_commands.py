"""Programs as guests, run for real: a shell, git, sort."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate.policy.suggest import apply
from tests.programs import compute_with
from tests.require import require, require_tmp_leads
from tests.uv import find_uv
from tests.wheels import make_wheel

pytestmark = pytest.mark.usefixtures("kept_supervisor")


COMMAND = [sys.executable, "-m", "pyisolate", "exec"]


@pytest.fixture
def sandbox(supervisor: pyisolate.Supervisor) -> Iterator[pyisolate.Sandbox]:
    with supervisor.spawn("commands", compute_with("bash", "cat", "sleep", "git")) as made:
        yield made


def test_a_program_answers_as_from_subprocess(sandbox: pyisolate.Sandbox) -> None:
    done = sandbox.run(["cat"], input=b"\xff\x00in")
    assert (done.args, done.returncode, done.stdout, done.stderr) == (["cat"], 0, b"\xff\x00in", b"")
    done = sandbox.run(["bash", "-c", "read line; echo \"$line $A\"; pwd >&2; exit 3"], input="in\n", text=True,
                       env={"A": "x"}, cwd="/")  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (3, "in x\n", "/\n")
    assert sandbox.run(["bash", "-c", "kill -9 $$"]).returncode == -9
    assert sandbox.run(["cat"]).stdout == b""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        sandbox.run(["bash", "-c", "echo out; exit 4"], check=True, text=True)
    assert (caught.value.returncode, caught.value.stdout) == (4, "out\n")
    assert sandbox.eval("1 + 1") == 2


@pytest.mark.once
def test_the_keywords_of_subprocess_mean_the_same(sandbox: pyisolate.Sandbox) -> None:
    both = ["bash", "-c", "printf 'a\\r\\n\\344'; echo b >&2"]
    for options in (
        {"capture_output": True},
        {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
        {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "universal_newlines": True},
        {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT},
        {"capture_output": True, "encoding": "latin-1"},
        {"capture_output": True, "errors": "replace"},
        {"capture_output": True, "stdin": subprocess.PIPE, "shell": False},
    ):
        here, done = subprocess.run(both, check=False, **options), sandbox.run(both, **options)  # type: ignore[call-overload]
        assert (done.returncode, done.stdout, done.stderr) == (0, here.stdout, here.stderr), options
    assert sandbox.run(both, text=True).stdout == "a\n\\xe4"
    assert sandbox.run([b"cat"], input="\xe4", encoding="latin-1").stdout == "\xe4"
    assert sandbox.run(["cat"], stdin=io.BytesIO(b"in")).stdout == b"in"
    written = io.BytesIO()
    done = sandbox.run([b"bash", Path("-c"), 'echo "$A"'], stdout=written, env={b"A": b"x"}, cwd=b"/")
    assert (written.getvalue(), done.stdout, done.stderr) == (b"x\n", None, b"")
    done = asyncio.run(sandbox.arun(["cat"], input=b"x", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    assert (done.stdout, done.stderr) == (None, b"")
    assert sandbox.popen(["cat"], stdin=subprocess.PIPE, encoding="latin-1").communicate("\xe4") == ("\xe4", "")
    assert sandbox.popen(["bash", "-c", "printf '\\344'"], errors="replace").communicate() == ("\ufffd", "")


def test_a_directory_is_no_program_and_no_absent_one_is_to_blame(supervisor: pyisolate.Supervisor) -> None:
    policy = pyisolate.Policy.preset("compute").allow_exec("/usr/bin/no-such-program").allow_exec("/usr/bin/env")
    with supervisor.spawn("directory", policy) as sandbox:
        with pytest.raises(pyisolate.PolicyError, match="a directory cannot be run") as refused:
            sandbox.run(["/usr/bin"])
        assert "no-such-program" not in str(refused.value)
        assert sandbox.run(["/usr/bin/env"]).returncode == 0  # the control


@pytest.mark.parametrize(("wrong", "kind", "text"), [
    ({"shell": True}, ValueError, r"Hint: run \['/bin/sh', '-c', text\]"),
    ({"stdin": subprocess.DEVNULL, "input": b""}, ValueError, "stdin and input"),
    ({"capture_output": True, "stdout": subprocess.PIPE}, ValueError, "capture_output"),
    ({"stdout": subprocess.STDOUT}, ValueError, "STDOUT is for stderr"),
    ({"stdout": subprocess.DEVNULL, "on_stdout": print}, ValueError, "on_stdout would see nothing"),
    ({"stdout": 2}, TypeError, "run: output: must be PIPE"),
    ({"encoding": "nonesuch"}, LookupError, "nonesuch"),
    ({"cwd": "\ud83c"}, ValueError, "lone surrogate"),
    ({"text": True, "universal_newlines": False}, subprocess.SubprocessError, "universal_newlines"),
    ({"env": {"A": "\0"}}, ValueError, "embedded null byte"),
])  # fmt: skip
def test_wrong_keywords_are_refused_before_anything_runs(
    sandbox: pyisolate.Sandbox, wrong: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        sandbox.run(["cat"], **wrong)
    assert sandbox.stats.requests == 0


@pytest.mark.once
def test_words_that_are_no_text_reach_a_program(sandbox: pyisolate.Sandbox) -> None:
    echo = ["bash", "-c", 'printf "%s %s" "$1" "$A"', "bash"]
    assert sandbox.run([*echo, b"\xff"], env={b"A": b"\xfe"}).stdout == b"\xff \xfe"
    assert sandbox.run([*echo, os.fsdecode(b"\xff")]).stdout == b"\xff "
    with pytest.raises(FileNotFoundError):
        sandbox.run(echo, cwd=b"/\xff")
    with pytest.raises(OSError) as caught:
        sandbox.run([*echo, "x" * 200_000])  # MAX_ARG_STRLEN is 32 pages (execve(2))
    assert (type(caught.value), caught.value.errno) == (OSError, errno.E2BIG)


@pytest.mark.once
def test_a_timeout_of_a_program_is_what_subprocess_raises_too(sandbox: pyisolate.Sandbox) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        sandbox.run([b"sleep", "60"], timeout=0.1)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, pyisolate.TimeoutError)
        assert (error.cmd, error.timeout, error.output, error.limit) == (["sleep", "60"], 0.1, None, "timeout")
        assert (str(error), error.denial_event) == (str(caught.value), caught.value.denial_event)
        assert error.denial_event is not None


def test_a_large_program_runs(sandbox: pyisolate.Sandbox) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git")
    assert sandbox.run(["git", "--version"], text=True, check=True).stdout.startswith("git version")


def test_what_is_not_granted_is_refused_and_recorded(sandbox: pyisolate.Sandbox) -> None:
    with pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.run(["/usr/bin/env"])
    assert caught.value.denial_event is not None
    assert (caught.value.denial_event.capability, caught.value.denial_event.target) == ("process.exec", "/usr/bin/env")
    done = sandbox.run(["bash", "-c", "cat /etc/shadow"], text=True)
    assert done.returncode == 1
    assert ("fs.read", "/etc/shadow") in {(str(e.capability), e.target) for e in sandbox.get_denial_events()}


@pytest.mark.parametrize("arguments", ["ls", [], [1], ["\ud83c"]])
def test_wrong_arguments_are_refused_before_anything_runs(sandbox: pyisolate.Sandbox, arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        sandbox.run(arguments)
    assert sandbox.stats.requests == 0


def test_a_timeout_kills_the_program_and_its_children_only(sandbox: pyisolate.Sandbox) -> None:
    started = time.monotonic()
    with pytest.raises(pyisolate.TimeoutError) as caught:
        sandbox.run(["bash", "-c", "echo so far; sleep 60 & sleep 60"], timeout=0.7)
    assert time.monotonic() - started < 5
    assert caught.value.stdout == "so far\n"
    assert isinstance(caught.value, subprocess.TimeoutExpired)
    assert caught.value.output == b"so far\n"
    assert not sandbox.closed
    deadline = time.monotonic() + 5
    while (left := sandbox.stats.processes or 1) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == 1


def test_output_streams_and_is_bounded(supervisor: pyisolate.Supervisor) -> None:
    bash = shutil.which("bash")
    policy = pyisolate.Policy.preset("compute").allow_exec(bash or "").with_limits(output="64KiB")
    with supervisor.spawn("loud", policy) as sandbox:
        seen: list[str] = []
        sandbox.run(["bash", "-c", "echo one; echo two"], on_stdout=seen.append)
        assert "".join(seen) == "one\ntwo\n"
        with pytest.raises(pyisolate.OutputExceeded):
            sandbox.run(["bash", "-c", "while :; do echo loud; done"])


LATER = "(sleep 0.5; echo late; echo late >&2) & echo now"


@pytest.mark.parametrize("options", [{}, {"stderr": subprocess.STDOUT}, {"stdout": subprocess.DEVNULL}])
def test_what_a_program_left_running_writes_is_its_output_too(
    sandbox: pyisolate.Sandbox, options: dict[str, Any]
) -> None:
    """The answer is that of `subprocess.run` where it captures, and nothing is left for the next program."""
    done = sandbox.run(["bash", "-c", LATER], text=True, **options)
    captured = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    here = subprocess.run(["bash", "-c", LATER], text=True, check=False, **captured)
    assert (done.returncode, done.stdout, done.stderr) == (0, here.stdout, here.stderr)
    assert (here.stdout or here.stderr).count("late") == (2 if "stderr" in options else 1)
    assert sandbox.run(["bash", "-c", "echo x"]).stdout == b"x\n"


def test_output_that_nobody_reads_is_waited_for_by_nobody(sandbox: pyisolate.Sandbox) -> None:
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = time.monotonic()
    done = sandbox.run(["bash", "-c", "sleep 60 & echo $!"], **nowhere)
    assert (done.returncode, done.stdout, done.stderr) == (0, None, None)
    assert time.monotonic() - started < 30
    assert (sandbox.stats.processes or 2) == 2


@pytest.mark.once
def test_a_timeout_ends_the_wait_for_what_a_program_left_running(sandbox: pyisolate.Sandbox) -> None:
    with pytest.raises(pyisolate.TimeoutError) as caught:
        sandbox.run(["bash", "-c", "sleep 60 & echo now"], timeout=3)
    assert caught.value.stdout == "now\n"
    assert sandbox.run(["bash", "-c", "echo x"]).stdout == b"x\n"


def test_what_a_program_wrote_comes_whole_where_it_is_killed(supervisor: pyisolate.Supervisor) -> None:
    """64 KiB wait in its pipe, and what it wrote before was passed on."""
    script = "head -c 200000 /dev/zero | tr '\\0' x; head -c 30000 /dev/zero | tr '\\0' e >&2; echo end; sleep 60"
    policy = compute_with("bash", "head", "tr", "sleep")
    with supervisor.spawn("whole", policy) as sandbox, pytest.raises(pyisolate.TimeoutError) as caught:
        sandbox.run(["bash", "-c", script], timeout=2)
    assert (len(caught.value.stdout), len(caught.value.stderr)) == (200_004, 30_000)


def test_tasks_of_asyncio_have_the_same(sandbox: pyisolate.Sandbox) -> None:
    assert asyncio.run(sandbox.arun(["cat"], input="x", text=True)).stdout == "x"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--", "bash", "-c", "exit 5"], 5),
        (["bash", "-c", "kill -9 $$"], 137),
        (["--policy", "POLICY", "bash", "-c", "exit 5"], 126),
        (["nonesuch-program"], 127),
        (["--timeout", "0.5", "bash", "-c", "while :; do :; done"], 124),
        ([], 2),
    ],
)
def test_exec_ends_with_the_status_that_shells_give(tmp_path: Any, words: list[str], status: int) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\nname: p\nextends: compute\n")
    words = [str(tmp_path / "p.yaml") if word == "POLICY" else word for word in words]
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr  # no line of it would be the user's


def test_exec_passes_bytes_through() -> None:
    data = bytes(range(256)) * 500
    done = subprocess.run(
        [*COMMAND, "--limit", "output=1MiB", "-q", "cat"], input=data, capture_output=True, timeout=60
    )
    assert (done.stdout, done.returncode) == (data, 0), done.stderr


# -- the preset shell -------------------------------------------------------------------------------------------------

SCRIPT = """
set -e
mkdir -p a/b && echo x > a/b/f && tar czf a.tgz a && rm -r a && tar xzf a.tgz
find a -name f | xargs grep -c x
awk '{print $1}' a/b/f | sed s/x/y/ | sort | uniq -c | tr -s ' '
python3 -c 'import subprocess; print(subprocess.run(["cat", "a/b/f"], capture_output=True).returncode)'
cd a && git init -q . && git add . && git -c user.name=a -c user.email=a@example.org commit -qm first
git log --format=%s && git diff --stat && whoami > /dev/null
"""


def test_the_preset_shell_holds_what_scripts_take_for_granted(supervisor: pyisolate.Supervisor) -> None:
    for name in ("bash", "git", "tar", "awk", "python3"):
        if not os.path.exists(f"/usr/bin/{name}"):
            pytest.skip(f"no /usr/bin/{name}")
    if os.path.realpath(sys.executable) != os.path.realpath("/usr/bin/python3"):
        pytest.skip("python3 is another interpreter than this one")
    with supervisor.spawn("shell", pyisolate.Policy.preset("shell")) as sandbox:
        done = sandbox.run(["bash", "-c", SCRIPT], text=True)
        assert (done.returncode, done.stdout.splitlines()) == (0, ["1", " 1 y", "0", "first"]), done.stderr
        names = {event.target for event in sandbox.get_denial_events()}
        assert {name for name in names if not name.startswith("/proc/")} == set()
        assert sandbox.run(["bash", "-c", "exec 3<> /dev/tcp/127.0.0.1/9"]).returncode == 1  # no network


def test_a_program_that_a_program_starts_is_refused_by_name(supervisor: pyisolate.Supervisor) -> None:
    """Nothing of Python asks: the name is the kernel's word. The same program runs where it is granted."""
    require("listener", supervisor.diagnostics().listener, "no listener sees what programs do")
    bash, program = shutil.which("bash") or "", os.path.realpath("/usr/bin/env")
    policy = pyisolate.Policy.preset("compute").allow_exec(bash)
    with supervisor.spawn("none", policy) as refused, supervisor.spawn("env", policy.allow_exec(program)) as granted:
        for sandbox, status in ((refused, 127), (granted, 0)):
            assert sandbox.run(["bash", "-c", f"{program} > /dev/null; exit"]).returncode == status
            assert sandbox.run(["bash", "-c", "/usr/bin/nonesuch"]).returncode == 127  # nothing is there to refuse
    found = [
        [event.target for event in one.get_denial_events() if event.capability == "process.exec"]
        for one in (refused, granted)
    ]
    assert found == [[program], []]


def test_programs_open_by_name_what_is_open(supervisor: pyisolate.Supervisor, sandbox: pyisolate.Sandbox) -> None:
    """Process substitution, and /dev/stdin: no right comes with a name, so none is asked for."""
    require("listener", supervisor.diagnostics().listener, "no listener opens these names")
    done = sandbox.run(["bash", "-c", "cat <(echo one) /dev/stdin; echo two > /dev/stderr"], input=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\nin\n", b"two\n")
    assert sandbox.run(["bash", "-c", "cat /dev/fd/9"]).stderr.endswith(b"No such file or directory\n")
    # what was opened for reading cannot be written by another name
    assert sandbox.run(["bash", "-c", "exec 9< <(echo one); echo two > /dev/fd/9"]).returncode == 1
    assert sandbox.run(["bash", "-c", "exec 9>&1; cat /dev/fd/9 < /dev/null"], text=True).returncode == 1
    refused = {event.target for event in sandbox.get_denial_events()}
    assert not {name for name in refused if name.startswith("/dev/") and name != "/dev/tty"}


@pytest.mark.parametrize(("program", "arguments", "grants"), [
    ("node", ["-e", "console.log([3, 1, 2].sort().join())"], {"memory": {"jit": True}}),
    ("ffmpeg", ["-v", "error", "-f", "lavfi", "-i", "testsrc=duration=0.2:size=64x48", "-c:v", "mpeg4", "a.mp4"], {}),
    ("perl", ["-e", "print join ',', sort 3, 1, 2"], {}),
])  # fmt: skip
def test_other_large_programs_run(
    supervisor: pyisolate.Supervisor, program: str, arguments: list[str], grants: dict[str, Any]
) -> None:
    if (path := shutil.which(program)) is None:
        pytest.skip(f"no {program}")
    policy = apply(pyisolate.Policy.preset("compute").allow_exec(path), grants).with_limits(memory="1GiB", processes=64)
    with supervisor.spawn(program, policy) as sandbox:
        done = sandbox.run([path, *arguments], text=True)
        assert done.returncode == 0, (done.stderr, [str(event) for event in sandbox.get_denial_events()])
        assert done.stdout.strip() in ("1,2,3", "")


@pytest.mark.once
@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_packages_are_installed_from_wheels_in_the_workspace(
    supervisor: pyisolate.Supervisor, tmp_path: Path, installer: str
) -> None:
    policy = pyisolate.Policy.preset("shell").with_limits(memory="1GiB", processes=64)
    command = [sys.executable, "-m", "pip"]
    if installer == "uv":
        found = find_uv() or ""
        require("uv", found != "" and "shims" not in found, "no uv on the search path, or one that only starts another")
        policy, command = policy.allow_exec(found), [found, "pip", "--offline", "--no-cache"]
        require_tmp_leads(policy)
        without = pyisolate.Policy.preset("shell")
        with supervisor.spawn("unnamed", without) as sandbox, pytest.raises(pyisolate.PolicyError):
            sandbox.run([found, "--version"])
    wheel = make_wheel(tmp_path / "wheels", "tiny", {"tiny.py": "VALUE = 42\n"})
    install = [*command, "install", "--no-index", "--no-deps", "--target", "lib", wheel.name]
    with supervisor.spawn("without", policy, files={wheel.name: wheel}) as sandbox:
        if installer == "pip":  # its modules are no program of the preset's
            assert "No module named pip" in sandbox.run(install, text=True).stderr
    with supervisor.spawn("with", policy.allow_import("pip"), files={wheel.name: wheel}) as sandbox:
        done = sandbox.run(install, text=True)
        assert done.returncode == 0, (done.stderr, [str(event) for event in sandbox.get_denial_events()])
        done = sandbox.run(
            [sys.executable, "-c", "import tiny; print(tiny.VALUE)"], text=True, env={"PYTHONPATH": "lib"}
        )
        assert done.stdout == "42\n", done.stderr
