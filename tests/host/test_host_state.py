"""Hosts whose signals, descriptors and limits are not as a shell leaves them: a supervisor starts all the same."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import pytest

from tests.require import require

_SPAWN = """
import pyisolate
with pyisolate.spawn("guest") as sandbox:
    result = sandbox.exec({source!r}).value
"""


def _host(
    before: str, source: str = "1 + 1", after: str = "print(result)", flags: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    code = before + _SPAWN.format(source=source) + after
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.once
def test_a_start_and_a_request_load_nothing_that_few_hosts_use_and_warn_of_nothing() -> None:
    """Each supervisor would pay for it: urllib3 alone is a tenth of a start. `-X dev` tells what is left open."""
    heavy = ("urllib3", "h11", "rich", "click", "opentelemetry", "jsonschema", "pyisolate.cli")
    done = _host(
        "import sys\n",
        after=f"print([name for name in {heavy} if name in sys.modules])",
        flags=("-X", "dev", "-W", "error"),
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_supervisor_with_an_egress_proxy_leaves_no_warning() -> None:
    """The programs of the network are proved in a forked child, which forgets the parent's processes."""
    policy = "pyisolate.Policy.preset('compute').allow_http('GET api.example.org:80/v1/*')"
    code = f"""
import pyisolate
with pyisolate.Supervisor(pool_size=0, egress_hosts={{"api.example.org": ["127.0.0.1"]}}) as supervisor:
    print(supervisor.spawn("agent", {policy}).eval("1 + 1"))
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_a_host_that_ignores_sigchld_has_every_enforcer() -> None:
    code = """
import signal, pyisolate
signal.signal(signal.SIGCHLD, {how})
with pyisolate.Supervisor(pool_size=1) as supervisor:
    print(sorted(name for name, found in supervisor.diagnostics().enforcers.items() if found.usable))
    print(supervisor.spawn("guest").eval("1 + 1"))
"""
    said = []
    for how in ("signal.SIG_DFL", "signal.SIG_IGN"):
        command = [sys.executable, "-c", code.format(how=how)]
        said.append(subprocess.run(command, capture_output=True, text=True, timeout=120, check=False))
    assert said[0].returncode == 0, said[0].stderr
    assert said[0].stdout == said[1].stdout, said[1].stderr


def test_signals_that_the_host_blocks_or_ignores_reach_the_guest() -> None:
    done = _host(
        """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})
for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
""",
        """
import signal
ignored = {n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN}
(sorted(map(int, signal.pthread_sigmask(0, []))), sorted(map(int, ignored - {signal.SIGPIPE, signal.SIGXFSZ})))
""",
    )
    assert done.stdout.strip() == "([], [])", done.stderr


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2", "1, 2"])
def test_a_host_with_closed_standard_descriptors_spawns(closed: str) -> None:
    code = f"import os, sys\nfor number in ({closed},): os.close(number)\n"
    assert _host(code, after="sys.exit(0 if result == 2 else 9)").returncode == 0


def test_what_a_host_prints_to_a_descriptor_it_had_closed_reaches_no_sandbox() -> None:
    code = """
import os, pyisolate
os.close(1); os.close(2)
sandbox = pyisolate.spawn("guest")
for number in (1, 2):
    os.write(number, b"not for the guest")
raise SystemExit(0 if sandbox.eval("1 + 1") == 2 else 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_signals_while_programs_are_loaded() -> None:
    done = _host(
        """
import signal
signal.signal(signal.SIGALRM, lambda number, frame: None)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
""",
        after="signal.setitimer(signal.ITIMER_REAL, 0)\nprint(result)",
    )
    assert done.stdout.strip() == "2", done.stderr


def test_a_limit_above_the_hosts_hard_limit_is_the_hosts() -> None:
    code = """
import resource, pyisolate
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
for wanted in (100, 5000):
    policy = pyisolate.Policy.preset("compute").with_limits(open_files=wanted)
    with pyisolate.spawn("guest", policy) as sandbox:
        print(sandbox.call("resource.getrlimit", 7)[1] > 200, sandbox.call("resource.getrlimit", 7)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["False", "108", "False", "200"], done.stderr


@pytest.mark.once
def test_a_hard_limit_that_the_host_lowers_later_holds_for_later_sandboxes_with_its_event() -> None:
    code = """
import resource, pyisolate
policy = pyisolate.Policy.preset("compute").with_limits(open_files=300)
fill = "import os, contextlib\\nwith contextlib.suppress(OSError): kept = [os.dup(0) for _ in range(250)]"
for limit in (1000, 200):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with pyisolate.spawn("guest", policy) as sandbox:
        sandbox.exec(fill)
        print([event.target for event in sandbox.get_denial_events()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[]\n['200']\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root's capabilities are taken away here")
@pytest.mark.parametrize("lacking", ["-sys_admin", "-sys_admin,-sys_ptrace,-net_admin,-bpf,-perfmon"])
def test_root_without_cap_sys_admin_is_served_as_an_ordinary_user_is(lacking: str) -> None:
    code = """
import pyisolate
with pyisolate.Supervisor(pool_size=1) as supervisor:
    sandbox = supervisor.spawn("guest")
    usable = {name for name, found in supervisor.diagnostics().enforcers.items() if found.usable}
    print(sandbox.eval("1 + 1"), sandbox.enforcement.missing, {"landlock", "namespaces", "root view"} <= usable)
    try:
        sandbox.exec("open('/etc/passwd')")
    except pyisolate.PolicyError as error:
        print(error.denial_event.capability)
"""
    command = ["setpriv", "--bounding-set", lacking, sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n") == ["2 () True", "fs.read", ""], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace")
def test_a_host_in_a_network_namespace_with_lo_down_has_every_enforcer() -> None:
    code = """
import pyisolate
with pyisolate.Supervisor(pool_size=1) as supervisor:
    print(sorted(name for name, found in supervisor.diagnostics().enforcers.items() if found.usable))
    policy = pyisolate.Policy.preset("compute").allow_connect("127.0.0.1:9").allow_import("socket")
    connect = "import socket\\nsocket.socket().connect_ex(('127.0.0.1', {port}))"
    with supervisor.spawn("guest", policy) as sandbox:
        print(sandbox.exec(connect.format(port=9)).value)
        try:
            sandbox.exec(connect.format(port=10))
        except pyisolate.PolicyError as error:
            print(error.denial_event.capability)
"""
    here = [sys.executable, "-c", code]
    said = [
        subprocess.run([*before, *here], capture_output=True, text=True, timeout=120, check=False).stdout.splitlines()
        for before in ((), ("unshare", "-n"))
    ]
    assert said[0] == [said[1][0], f"{errno.ECONNREFUSED}", "net.connect"]
    assert said[1][1:] == [f"{errno.ENETUNREACH}", "net.connect"]


#: What Docker's default profile refuses to a process without CAP_SYS_ADMIN, as far as it matters here
#: (moby/profiles, default.json): unshare, mounts, namespaces by clone, pidfd_getfd; clone3 answers ENOSYS.
_DOCKER = """
from pyisolate.native import seccomp as s
refused = ("unshare setns mount umount2 pivot_root open_tree move_mount fsopen fsmount mount_setattr bpf "
           "perf_event_open keyctl add_key request_key kcmp userfaultfd pidfd_getfd").split()
rules = [s.FilterRule(call, s.refuse(1)) for call in refused] + [s.FilterRule("clone3", s.refuse(38))]
rules.append(s.FilterRule("clone", s.refuse(1), (s.Compare(0, 0x10000000, 0x10000000),)))
s.install(s.compile_filter(s.FilterSpec(tuple(rules), s.ALLOW, s.ALLOW)), notify=False)
import pyisolate
try:
    pyisolate.spawn("guest")
except pyisolate.EnforcementError as error:
    print(error)
with pyisolate.spawn("guest", enforcement="best_effort") as sandbox:
    print(sandbox.eval("1 + 1"), [line.partition(":")[0] for line in sandbox.enforcement.missing])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root's capabilities are taken away here")
@pytest.mark.parametrize("who", [["--reuid", "1234", "--regid", "1234", "--clear-groups"], []])
def test_under_a_containers_seccomp_profile_strict_says_what_is_missing_and_the_one_remedy(who: list[str]) -> None:
    command = ["setpriv", "--bounding-set", "-sys_admin", *who, sys.executable, "-c", _DOCKER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    said, _, rest = done.stdout.partition("\n2 ")
    assert "namespaces is unavailable" in said, done.stderr
    assert "root view is unavailable" in said
    assert "seccomp is unavailable" in said
    assert said.count("Hint: ") == said.count("docs/deploy/seccomp.json") == 1
    assert "BPF" not in said
    expected = ["fs.metadata and hidden paths", "system calls, network and processes"]
    expected += ["processes and signals outside the sandbox", "seccomp"]
    assert rest.strip() == f"{expected}", done.stderr


#: What Ubuntu 24.04 does to a program without an AppArmor profile that grants user namespaces, as far as it is seen:
#: one is made, but no id is mapped in it and nothing is mounted. Here Landlock refuses both, and `free` is the control.
_UBUNTU = """
import os, sys
from pyisolate.native import landlock, process
if sys.argv[1] != "free":
    handled = landlock.Handled(landlock.AccessFs.WRITE_FILE, landlock.AccessNet(0), landlock.Scope(0))
    ruleset = landlock.create_ruleset(handled)
    for entry in os.scandir("/"):
        if entry.is_dir(follow_symlinks=False) and entry.name != "proc":
            place = os.open(entry.path, os.O_PATH)
            landlock.add_path_rule(ruleset, landlock.AccessFs.WRITE_FILE, place)
            os.close(place)
    process.set_no_new_privs()
    landlock.restrict_self(ruleset)
    os.close(ruleset)
if os.fork() == 0:
    from pyisolate.native import mount
    mount.unshare(process.CLONE_NEWUSER | process.CLONE_NEWNS)
    os._exit(0)
print(os.wait()[1])
import pyisolate
try:
    print(pyisolate.spawn("guest").eval("1 + 1"))
except pyisolate.EnforcementError as error:
    print(error)
"""


@pytest.mark.once
@pytest.mark.skipif(os.geteuid() != 0, reason="another user is taken here")
@pytest.mark.parametrize("which", ["free", "refused"])
def test_where_user_namespaces_have_no_rights_strict_says_which_are_missing_and_one_remedy(which: str) -> None:
    who = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"]
    command = [*who, sys.executable, "-c", _UBUNTU, which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd="/")
    made, said = done.stdout.split("\n", 1)
    assert made == "0", "a user namespace is made"
    if which == "free":
        assert said == "2\n", done.stderr
        return
    assert "namespaces is unavailable" in said, done.stderr
    assert "root view is unavailable" in said
    assert said.count("Hint: ") == said.count("unshare -Ur true") == 1
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("which", ["RLIMIT_MEMLOCK", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE"])
def test_a_lower_limit_of_the_hosts_holds(which: str) -> None:
    source = f"import resource\nresource.getrlimit(resource.{which})"
    before = "import resource\n"
    ordinary = _host(before, source)
    lower = _host(f"{before}resource.setrlimit(resource.{which}, (16, 16))\n", source)
    assert ordinary.returncode == lower.returncode == 0, lower.stderr
    assert ordinary.stdout != "(16, 16)\n"  # the control
    assert lower.stdout == ("(0, 0)\n" if which == "RLIMIT_MSGQUEUE" else "(16, 16)\n")


def test_root_without_capabilities_is_told_which_it_lacks() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    code = "import pyisolate; print(pyisolate.spawn('guest').eval('1 + 1'))"
    without = ["setpriv", "--bounding-set=-setuid", "--inh-caps=-setuid"]
    for command, found in ((without, "without CAP_SETUID cannot give"), ([], "2\n")):
        done = subprocess.run([*command, sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found in done.stdout + done.stderr
        assert "preload" not in done.stderr


@pytest.mark.once
def test_a_daemon_thread_that_waits_for_a_guest_at_exit_prints_nothing() -> None:
    code = (
        "import pyisolate, threading\n"
        "def ask(sandbox):\n"
        "    sandbox.exec('print(1)\\nwhile True: pass', on_stdout=lambda text: begun.set())\n"
        "for isolation in ('process', 'thread'):\n"
        "    begun = threading.Event()\n"
        "    sandbox = pyisolate.spawn(isolation, isolation=isolation, enforcement='best_effort')\n"
        "    threading.Thread(target=ask, args=[sandbox], daemon=True).start()\n"
        "    begun.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_pid_namespaces_proc_is_named_as_the_cause() -> None:
    require("root", os.geteuid() == 0, "makes a pid namespace")
    unshare = shutil.which("unshare")
    require("unshare", unshare is not None, "needs util-linux's unshare")
    said = []
    for own in ((), ("--mount-proc",)):
        code = "import pyisolate\nwith pyisolate.spawn('a') as sandbox: print(sandbox.eval('1 + 1'))"
        command = [str(unshare), "-p", "-f", *own, sys.executable, "-c", code]
        said.append(subprocess.run(command, capture_output=True, text=True, timeout=120, check=False))
    assert "shows the processes of another pid namespace. Hint: mount the one of this namespace" in said[0].stderr
    assert said[1].stdout == "2\n", said[1].stderr  # the control
