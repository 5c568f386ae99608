"""Live system-call counts and latencies of one sandbox, by bcc (Debian's python3-bpfcc). A tool, not an enforcer.

bcc compiles against kernel headers. Those of the running kernel are best; any Debian headers stand in where they are
missing (linux-headers-amd64), because the program reads no kernel structure. PyPI's `bcc` is an unrelated project.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from ..errors import SandboxError
from .seccomp.filter import syscall_name

#: Where Debian and Ubuntu put the system interpreter's packages.
_SYSTEM_PACKAGES = ("/usr/lib/python3/dist-packages",)
_ARCH = {"x86_64": "x86", "aarch64": "arm64"}
#: Sandboxes' processes and calls that one trace can hold.
_MAX_PIDS, _MAX_CALLS = 4096, 512
_BUCKETS = 27

_PROGRAM = """
struct began_t { u64 at; u32 number; };
struct total_t { u64 count; u64 errors; u64 ns; };
struct bucket_t { u32 number; u32 bucket; };
BPF_HASH(pids, u32, u8, MAX_PIDS);
BPF_HASH(groups, u64, u8, 64);
BPF_HASH(began, u32, struct began_t, 16384);
BPF_HASH(totals, u32, struct total_t, MAX_CALLS);
BPF_HASH(buckets, struct bucket_t, u64, MAX_BUCKETS);

static int wanted(void)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    u64 group = bpf_get_current_cgroup_id();
    return pids.lookup(&pid) || groups.lookup(&group);
}

RAW_TRACEPOINT_PROBE(sys_enter)
{
    if (!wanted())
        return 0;
    u32 tid = bpf_get_current_pid_tgid();
    struct began_t now = {.at = bpf_ktime_get_ns(), .number = ctx->args[1]};
    began.update(&tid, &now);
    return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
    u32 tid = bpf_get_current_pid_tgid();
    struct began_t *before = began.lookup(&tid);
    if (!before)
        return 0;
    u64 took = bpf_ktime_get_ns() - before->at;
    struct bucket_t place = {.number = before->number, .bucket = bpf_log2l(took)};
    struct total_t zero = {}, *total = totals.lookup_or_try_init(&place.number, &zero);
    long result = ctx->args[1];
    if (total) {
        __sync_fetch_and_add(&total->count, 1);
        __sync_fetch_and_add(&total->ns, took);
        if (result < 0 && result > -4096)
            __sync_fetch_and_add(&total->errors, 1);
    }
    buckets.increment(place);
    began.delete(&tid);
    return 0;
}
"""


class TraceUnavailable(SandboxError):
    """bcc cannot be used here; the text says why and what to do."""


class CallStats(msgspec.Struct, frozen=True, kw_only=True):
    """One system call: how often, how many failed, how long. `histogram` maps 2**n ns (upper bound) to a count."""

    syscall: str
    count: int
    errors: int
    total_ns: int
    histogram: dict[int, int]

    @property
    def mean_ns(self) -> float:
        """Mean time from entry to exit, nanoseconds; waiting included."""
        return self.total_ns / self.count if self.count else 0.0

    def percentile_ns(self, share: float) -> int:
        """Return the upper bound of the bucket below which `share` (0 to 1) of the calls lie."""
        left = share * self.count
        for bound, count in sorted(self.histogram.items()):
            left -= count
            if left <= 0:
                return bound
        return max(self.histogram, default=0)


class TraceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox's processes called, most frequent first."""

    duration_s: float
    calls: tuple[CallStats, ...] = ()


class Tracer:
    """Counts while it is open. Give pids (processes with all their threads) or a cgroup v2 directory with its tasks.

    A cgroup sees children that are born later; a set of pids does not (`add` them).
    """

    def __init__(self, pids: Iterable[int] = (), *, cgroup: str | os.PathLike[str] | None = None) -> None:
        bcc = load_bcc()
        text = _PROGRAM.replace("MAX_PIDS", str(_MAX_PIDS)).replace("MAX_CALLS", str(_MAX_CALLS))
        text = text.replace("MAX_BUCKETS", str(_MAX_CALLS * _BUCKETS))
        self._bpf: Any = _compile(bcc, text)
        self._began = time.monotonic()
        if cgroup is not None:
            groups = self._bpf[b"groups"]
            groups[groups.Key(os.stat(cgroup).st_ino)] = groups.Leaf(1)
        self.add(*pids)

    def add(self, *pids: int) -> None:
        """Trace further processes."""
        table = self._bpf[b"pids"]
        for pid in pids:
            table[table.Key(pid)] = table.Leaf(1)

    def report(self) -> TraceReport:
        """Return what was counted so far."""
        histograms: dict[int, dict[int, int]] = {}
        for place, count in self._bpf[b"buckets"].items():
            histograms.setdefault(place.number, {})[1 << place.bucket] = int(count.value)
        calls = [
            CallStats(
                syscall=syscall_name(number.value),
                count=int(total.count),
                errors=int(total.errors),
                total_ns=int(total.ns),
                histogram=dict(sorted(histograms.get(number.value, {}).items())),
            )
            for number, total in self._bpf[b"totals"].items()
        ]
        calls.sort(key=lambda call: (-call.count, call.syscall))
        return TraceReport(duration_s=time.monotonic() - self._began, calls=tuple(calls))

    def close(self) -> None:
        """Detach."""
        bpf, self._bpf = self._bpf, None
        if bpf is not None:
            bpf.cleanup()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def trace(
    pids: Iterable[int] = (), *, cgroup: str | os.PathLike[str] | None = None, duration_s: float = 5.0
) -> TraceReport:
    """Trace for `duration_s` seconds and return what was counted. Raises TraceUnavailable."""
    with Tracer(pids, cgroup=cgroup) as tracer:
        time.sleep(duration_s)
        return tracer.report()


# -- bcc and its headers ----------------------------------------------------------------------------------------------


def load_bcc() -> ModuleType:
    """Return the real bcc, from the system's packages where this interpreter has none. Raises TraceUnavailable."""
    found = _imported() or _from_system()
    if found is None:
        raise TraceUnavailable(
            "trace: bcc is not installed for this interpreter",
            hint="apt-get install python3-bpfcc, and use the system's Python or its version (not `pip install bcc`)",
        )
    return found


def _imported() -> ModuleType | None:
    try:
        module = importlib.import_module("bcc")
    except ImportError:
        return None
    return module if hasattr(module, "BPF") else None


def _from_system() -> ModuleType | None:
    for folder in _SYSTEM_PACKAGES:
        package = Path(folder, "bcc")
        if not (package / "libbcc.py").exists():
            continue
        spec = importlib.util.spec_from_file_location(
            "bcc", package / "__init__.py", submodule_search_locations=[str(package)]
        )
        if spec is None or spec.loader is None:
            continue
        before = sys.modules.get("bcc")
        sys.modules["bcc"] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (ImportError, OSError):
            sys.modules.pop("bcc", None)
            if before is not None:
                sys.modules["bcc"] = before
            continue
        return module
    return None


_environment = threading.Lock()


def _compile(bcc: ModuleType, text: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="pyisolate-headers-") as scratch, _environment:
        source = _headers(Path(scratch))
        if source is not None:
            os.environ["BCC_KERNEL_SOURCE"] = str(source)
        try:
            return bcc.BPF(text=text.encode(), cflags=["-w"])
        except Exception as error:  # bcc raises a bare Exception for everything
            raise TraceUnavailable(
                f"trace: bcc cannot compile or load its program: {error}",
                hint="run as root; apt-get install linux-headers-$(uname -r), or linux-headers-amd64 in its place",
            ) from error
        finally:
            if source is not None:
                del os.environ["BCC_KERNEL_SOURCE"]


def _headers(scratch: Path) -> Path | None:
    """Return headers to compile against; None where bcc finds the running kernel's itself. Raises TraceUnavailable."""
    release = platform.release()
    if os.environ.get("BCC_KERNEL_SOURCE") or Path(f"/lib/modules/{release}/build/include").exists():
        return None
    if Path("/sys/kernel/kheaders.tar.xz").exists():
        return None
    for flavour, shared in _stand_ins():
        return _merged(flavour, shared, scratch / "headers")
    raise TraceUnavailable(
        f"trace: no kernel headers for Linux {release}",
        hint="apt-get install linux-headers-$(uname -r), or linux-headers-amd64 in its place",
    )


def _stand_ins() -> Iterator[tuple[Path, Path]]:
    """Yield (flavour's, shared) header trees, newest first, from /usr/src and $PYISOLATE_HEADERS."""
    places = [Path("/usr/src")]
    if os.environ.get("PYISOLATE_HEADERS"):
        places.insert(0, Path(os.environ["PYISOLATE_HEADERS"]))
    for place in places:
        for shared in sorted(place.glob("linux-headers-*-common"), reverse=True):
            base = shared.name.removesuffix("-common")
            for flavour in sorted(place.glob(f"{base}-*")):
                if flavour != shared and (flavour / "include/generated").exists():
                    yield flavour, shared


def _merged(flavour: Path, shared: Path, target: Path) -> Path:
    """Link Debian's two halves into one tree, as bcc expects it."""
    arch = f"arch/{_ARCH.get(platform.machine(), platform.machine())}/include"
    for folder in ("include", arch):
        (target / folder).mkdir(parents=True)
        for half in (flavour, shared):
            for entry in sorted((half / folder).iterdir()) if (half / folder).is_dir() else ():
                place = target / folder / entry.name
                if not place.is_symlink():
                    place.symlink_to(entry)
    return target
