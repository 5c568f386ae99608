"""`pyisolate doctor`: it says what is so, and notices when it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyisolate
from pyisolate.cli import doctor_checks as checks
from pyisolate.policy import Policy


def doctor(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyisolate.cli.main", "doctor", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_proves_this_machine() -> None:
    done = doctor("--json")
    document = json.loads(done.stdout)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert done.returncode == (0 if document["ok"] else 1)
    assert document["ok"], [finding for finding in document["findings"] if finding["status"] == "missing"]
    for name in ("landlock", "seccomp", "namespaces", "root view", "strict sandbox"):
        assert found[name]["status"] == "ok", found[name]
    for name in ("connect", "read a file", "read it by a raw system call"):
        assert "worked where granted" in found[f"sandbox: {name}"]["text"]
    assert "recorded as fs.read" in found["sandbox: read a file"]["text"]


OUTER = """
from pyisolate.cli import doctor_checks as checks
from pyisolate.native import seccomp
assert not [one.name for one in checks.machine() if "leaves no event" in one.text]
everything = seccomp.FilterSpec((), seccomp.ALLOW, seccomp.ALLOW)
seccomp.install(seccomp.compile_filter(everything), notify=False)
print([one.name for one in checks.machine() if "leaves no event" in one.text])
"""


def test_it_says_that_a_container_has_a_filter_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", OUTER], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['outer seccomp filter']", done.stderr


_TABLE = """31 23 0:28 / /sys/fs/cgroup rw - tmpfs favordynmods rw,mode=755
32 31 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 31 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate{}
"""


def test_it_says_whether_moves_between_control_groups_are_quick(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(_TABLE.format(""))
    (slow,) = checks.moves(str(table))
    assert "no hierarchy mounted here shows favordynmods" in slow.text
    table.write_text(_TABLE.format(",favordynmods"))
    (quick,) = checks.moves(str(table))
    assert quick.text == "quick: /sys/fs/cgroup/unified is mounted with favordynmods"
    assert not slow.failed
    assert not quick.failed
    table.write_text(_TABLE.splitlines()[0] + "\n")
    assert checks.moves(str(table)) == []


def test_it_is_readable() -> None:
    done = doctor()
    assert "Strict sandboxes work here." in done.stdout
    assert "guard rail" in " ".join(done.stdout.split())


def test_a_probe_that_goes_through_is_a_failure(supervisor: pyisolate.Supervisor) -> None:
    """The control of the probes themselves: under a policy that grants it, "refused" must not be claimed."""
    wide = Policy.preset("compute").allow_read("/etc/hostname")
    probe = checks.Probe("read", "fs.read", "open('/etc/hostname').read()", lambda policy: policy)
    finding = checks._try(supervisor, wide, probe)
    assert finding.failed
    assert "went through" in finding.text


def test_a_probe_that_never_works_is_a_failure(supervisor: pyisolate.Supervisor) -> None:
    probe = checks.Probe("read", "fs.read", "open('/etc/hostname').read()", lambda policy: policy)
    finding = checks._try(supervisor, Policy.preset("compute"), probe)
    assert finding.failed
    assert "also where a rule grants it" in finding.text


def test_a_missing_enforcer_is_named_with_its_remedy() -> None:
    from pyisolate.enforcement import Availability, Status
    from pyisolate.supervisor.diagnostics import Diagnostics

    seen = {
        "landlock": Availability(
            enforcer="landlock", status=Status.UNAVAILABLE, reason="ENOSYS", remedy="boot with lsm=landlock"
        ),
        "cgroup-bpf": Availability(enforcer="cgroup-bpf", status=Status.UNKNOWN, reason="EPERM"),
    }
    needed, other = checks.enforcers(Diagnostics(state="running", enforcers=seen))
    assert needed.failed
    assert (needed.remedy, needed.text) == ("boot with lsm=landlock", "unavailable: ENOSYS")
    assert not other.failed
    assert other.status == checks.WEAKER
