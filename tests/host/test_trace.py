"""bcc traces one process's system calls for real: counts, failures, latencies; and says what is missing where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate.kernel import trace
from pyisolate.kernel.bpf import cgroup as bpf_cgroup
from tests.require import require

_BUSY = """
import os, sys
print("ready", flush=True)
while True:
    os.getppid()
    try: os.stat("/nonexistent")
    except OSError: pass
"""


def _stand_in_headers() -> Path | None:
    """Return Debian's headers from the cache, downloading them once: this kernel's own exist nowhere."""
    base = Path(os.environ.get("PYISOLATE_CACHE") or Path.home() / ".cache/pyisolate") / "headers"
    if list(base.glob("usr/src/linux-headers-*-common")):
        return base / "usr/src"
    if not shutil.which("apt-get"):
        return None
    listing = subprocess.run(
        ["apt-cache", "depends", "linux-headers-amd64"], capture_output=True, text=True, check=False
    )
    names = [word for word in listing.stdout.split() if word.startswith("linux-headers-6")]
    if not names:
        return None
    base.mkdir(parents=True, exist_ok=True)
    pair = [names[0], names[0].removesuffix("-amd64") + "-common"]
    if subprocess.run(["apt-get", "download", *pair], cwd=base, capture_output=True, check=False).returncode:
        return None
    for archive in base.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(base)], check=True)
        archive.unlink()
    return base / "usr/src"


@pytest.fixture(scope="module")
def headers() -> Path | None:
    require("bcc", os.geteuid() == 0, "needs root")
    try:
        trace.load_bcc()
    except trace.TraceUnavailable as error:
        require("bcc", False, str(error))
    found = _stand_in_headers()
    require("bcc", found is not None or Path(f"/lib/modules/{os.uname().release}/build").exists(), "no kernel headers")
    return found


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", _BUSY], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


def test_calls_of_one_process_are_counted(
    headers: Path | None, busy: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if headers is not None:
        monkeypatch.setenv("PYISOLATE_HEADERS", str(headers))
    report = trace.trace([busy.pid], duration_s=0.5)
    calls = {call.syscall: call for call in report.calls}
    assert set(calls) >= {"getppid", "newfstatat"}
    assert len(calls) <= 4  # nobody else's: this machine calls hundreds of different ones
    stat = calls["newfstatat"]
    assert stat.errors == stat.count > 100
    assert calls["getppid"].errors == 0
    assert sum(stat.histogram.values()) == pytest.approx(stat.count, rel=0.05)  # read later, and calls go on
    assert 0 < stat.mean_ns < 1e7
    assert stat.percentile_ns(0.5) <= stat.percentile_ns(0.99)


def test_a_cgroup_is_traced_with_its_children(headers: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = bpf_cgroup.unified()
    require("cgroup_bpf", mount is not None, "cgroup v2 is not mounted")
    assert mount is not None
    if headers is not None:
        monkeypatch.setenv("PYISOLATE_HEADERS", str(headers))
    folder = mount / f"pyisolate-trace-test.{os.getpid()}"
    folder.mkdir()
    try:
        with trace.Tracer(cgroup=folder) as tracer:
            code = f"open({str(folder / 'cgroup.procs')!r}, 'w').write('0')\nimport os\nos.system('true')"
            subprocess.run([sys.executable, "-c", code], check=True)
            calls = {call.syscall for call in tracer.report().calls}
        assert "execve" in calls
    finally:
        folder.rmdir()


def test_missing_headers_are_named(headers: Path | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(trace, "_stand_ins", lambda: iter(()))
    monkeypatch.setattr(trace.platform, "release", lambda: "0.0.0-none")
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    with pytest.raises(trace.TraceUnavailable, match=r"no kernel headers.*apt-get install linux-headers"):
        trace._headers(tmp_path)


def test_a_missing_bcc_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_SYSTEM_PACKAGES", ())
    monkeypatch.setattr(trace, "_imported", lambda: None)
    with pytest.raises(trace.TraceUnavailable, match="python3-bpfcc"):
        trace.load_bcc()
