"""What the attacks aim at, and how harm to it shows: files, listeners, processes, kernel objects.

All of it is open to every user of the machine, and owned by the user whom cells run as, so that only the sandbox stands
between a guest and it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pyisolate.native import seccomp
from tests.escape.lifetime import die_with_parent
from tests.escape.web import harm

GUEST_UID = 65534
#: Names of everything that an attack may plant outside start so.
MARK = "escape-"
IPPROTO_MPTCP = 262
#: Where the ground is made: every user's cells may get there.
PLACE = os.environ.get("PYISOLATE_ESCAPE_PLACE", "/tmp")

#: Numbers that the attacks need; a name that this architecture has not stays negative.
SYSCALLS = """
accept4 acct add_key adjtimex bind bpf brk capset chdir chmod chown chroot clock_adjtime clock_settime clone clone3
close connect copy_file_range creat create_module delete_module dup dup3 epoll_create1 execve execveat exit_group
faccessat2 fanotify_init fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fgetxattr file_getattr
file_setattr finit_module fork fremovexattr fsconfig fsetxattr fsmount fsopen fspick ftruncate futimesat
get_kernel_syms get_thread_area getdents64 getrandom getxattr init_module inotify_add_watch inotify_init
inotify_init1 io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter io_uring_register
io_uring_setup ioctl ioperm iopl ioprio_get ioprio_set kcmp kexec_file_load kexec_load keyctl kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount
lookup_dcookie lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack
memfd_create memfd_secret migrate_pages mkdir mkdirat mknod mknodat mmap modify_ldt mount mount_setattr
move_mount move_pages mprotect mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
name_to_handle_at newfstatat nfsservctl open open_by_handle_at open_tree open_tree_attr openat openat2
perf_event_open personality pidfd_getfd pidfd_open pidfd_send_signal pivot_root pkey_alloc pkey_mprotect prctl
prlimit64 process_madvise process_mrelease process_vm_readv process_vm_writev ptrace query_module quotactl quotactl_fd
read readlinkat reboot recvmsg remap_file_pages removexattr rename renameat2 request_key rmdir rt_sigqueueinfo
rt_tgsigqueueinfo sched_setaffinity sched_setattr sched_setparam sched_setscheduler seccomp semctl semget semop
sendfile sendmmsg sendmsg sendto set_thread_area setdomainname setfsgid setfsuid setgid setgroups sethostname setns
setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt settimeofday setuid setxattr
setxattrat removexattrat shmat shmctl shmdt shmget socket socketpair splice stat statfs statmount statx swapoff swapon
symlink symlinkat sync syncfs sysfs syslog tgkill timer_create tkill truncate umount2 unlink unlinkat unshare uselib
userfaultfd ustat utime utimensat utimes vfork vhangup vmsplice write arch_prctl close_range exit cachestat
set_mempolicy_home_node rseq getcpu fgetxattr pidfd_getfd _sysctl afs_syscall tuxcall security vserver getpmsg putpmsg
""".split()


@dataclass
class Targets:
    """What an attacker knows of its targets: everything but the secret itself."""

    base: str = ""
    secret: str = ""
    inbox: str = ""
    granted: str = ""
    outbox: str = ""
    outside: str = ""
    canary: str = ""
    tool: str = ""
    script: str = ""
    library: str = ""
    extension: str = ""
    stream: str = ""
    datagram: str = ""
    abstract: str = ""
    tcp: int = 0
    tcp6: int = 0
    udp: int = 0
    udp6: int = 0
    mptcp: int = 0
    web: int = 0
    tls: int = 0
    authority: str = ""
    victim: int = 0
    supervisor: int = 0
    sibling: int = 0
    inherited: int = 0
    python: str = ""
    isolation: str = "process"
    slowness: float = 1.0

    def facts(self) -> dict[str, Any]:
        """Return plain data for the guest."""
        return {**asdict(self), "nr": _NUMBERS}


_NUMBERS = {name: seccomp.number_of(name) for name in SYSCALLS}


class Ground:
    """The targets, made and restored; a context manager that leaves nothing behind."""

    def __enter__(self) -> Self:
        self.token = f"token-{secrets.token_hex(16)}"
        self._held = contextlib.ExitStack()
        self._sweep()
        self.base = Path(tempfile.mkdtemp(prefix=f"{MARK}{os.getpid()}-", dir=PLACE))
        self.base.chmod(0o755)
        self._held.callback(shutil.rmtree, self.base, ignore_errors=True)
        self.targets = Targets(base=str(self.base), python=sys.executable)
        self._make_files()
        self._make_listeners()
        self._start_web()
        self._start_victim()
        self.worker: int | None = None
        self._files = self._snapshot()
        self._kernel = _kernel_objects()
        self._victim_state = _process_state(self.targets.victim)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._victim.kill()
        self._victim.wait()
        _remove_kernel_objects(self._kernel)
        self._held.close()

    # -- making -----------------------------------------------------------------------------------------------

    def _make_files(self) -> None:
        for name in ("vault", "inbox", "outbox", "outside", "outside/below", "bin", "socket"):
            self._folder(name)
        self._files_wanted = {
            "vault/secret": (self.token.encode() + b"\n", 0o666),
            "inbox/granted.txt": (b"granted\n", 0o666),
            "outside/canary.txt": (b"canary\n", 0o666),
            "outside/below/canary.txt": (b"canary\n", 0o666),
            "bin/tool": (Path("/bin/echo").read_bytes(), 0o777),
            "bin/script": (f"#!{self.base}/bin/tool ESCAPED: script\n".encode(), 0o777),
            "bin/libplanted.so": (_library().read_bytes(), 0o777),
            "bin/" + (extension := _extension()).name: (extension.read_bytes(), 0o777),
        }
        for name in self._files_wanted:
            self._restore(name)
        at = self.targets
        at.secret, at.inbox, at.outbox, at.outside = (
            str(self.base / name) for name in ("vault/secret", "inbox", "outbox", "outside")
        )
        at.granted, at.canary = f"{at.inbox}/granted.txt", f"{at.outside}/canary.txt"
        at.tool, at.script = str(self.base / "bin/tool"), str(self.base / "bin/script")
        at.library, at.extension = str(self.base / "bin/libplanted.so"), str(self.base / "bin" / extension.name)

    def _sweep(self) -> None:
        """Remove the ground of judges that were killed."""
        for path in Path(PLACE).glob(f"{MARK}[0-9]*-*"):
            if not Path(f"/proc/{path.name.split('-')[1]}").exists():
                shutil.rmtree(path, ignore_errors=True)

    def _folder(self, name: str) -> None:
        folder = self.base / name
        folder.mkdir()
        folder.chmod(0o777)
        self._give(folder)

    def _restore(self, name: str) -> None:
        path = self.base / name
        content, mode = self._files_wanted[name]
        if not path.is_file() or path.is_symlink() or path.read_bytes() != content:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            path.write_bytes(content)
        path.chmod(mode)
        self._give(path)

    def _give(self, path: Path) -> None:
        """Whoever attacks owns it: a refusal must not be the file permissions'."""
        if os.geteuid() == 0:
            os.chown(path, GUEST_UID, GUEST_UID)

    def _make_listeners(self) -> None:
        at = self.targets
        self._streams: dict[str, socket.socket] = {}
        self._datagrams: dict[str, socket.socket] = {}
        at.tcp = self._listen("tcp", socket.AF_INET, "127.0.0.1")
        at.tcp6 = self._listen("tcp6", socket.AF_INET6, "::1")
        at.mptcp = self._listen("mptcp", socket.AF_INET, "127.0.0.1", IPPROTO_MPTCP)
        at.udp = self._listen("udp", socket.AF_INET, "127.0.0.1", kind=socket.SOCK_DGRAM)
        at.udp6 = self._listen("udp6", socket.AF_INET6, "::1", kind=socket.SOCK_DGRAM)
        at.stream, at.datagram = str(self.base / "socket/stream"), str(self.base / "socket/datagram")
        at.abstract = f"{MARK}{secrets.token_hex(8)}"
        self._listen("unix", socket.AF_UNIX, at.stream)
        self._listen("abstract", socket.AF_UNIX, "\0" + at.abstract)
        self._listen("unix datagram", socket.AF_UNIX, at.datagram, kind=socket.SOCK_DGRAM)
        for path in (at.stream, at.datagram):
            os.chmod(path, 0o777)

    def _listen(self, name: str, family: int, host: str, protocol: int = 0, kind: int = socket.SOCK_STREAM) -> int:
        try:
            server = socket.socket(family, kind, protocol)
        except OSError:
            return 0
        self._held.callback(server.close)
        server.setblocking(False)
        server.bind(host if family == socket.AF_UNIX else (host, 0))
        if kind == socket.SOCK_STREAM:
            with contextlib.suppress(OSError):
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
            server.listen(64)
            self._streams[name] = server
        else:
            self._datagrams[name] = server
        return 0 if family == socket.AF_UNIX else int(server.getsockname()[1])

    def _start_web(self) -> None:
        """Start the hosts that are reached by name."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.escape.web", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._held.callback(process.wait)
        self._held.callback(ours.close)
        self._web, self._web_said = ours, b""
        ours.settimeout(60)
        while not (said := self._requests()):
            self._web_said += ours.recv(1 << 16)
        ours.setblocking(False)
        at = self.targets
        at.web, at.tls, at.authority = said[0]["plain"], said[0]["secure"], str(self.base / "authority.pem")
        Path(at.authority).write_text(said[0]["authority"])

    def _requests(self) -> list[dict[str, Any]]:
        """Return what came to these hosts since the last time."""
        with contextlib.suppress(BlockingIOError):
            while not self._web.gettimeout() and (more := self._web.recv(1 << 16)):
                self._web_said += more
        *lines, self._web_said = self._web_said.split(b"\n")
        return [json.loads(line) for line in lines]

    def _start_victim(self) -> None:
        """Start a process of the guests' user, outside every sandbox: secret in its environment and descriptor 0."""
        identity: dict[str, Any] = (
            {"user": GUEST_UID, "group": GUEST_UID, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        with open(self.targets.secret) as secret:
            victim = subprocess.Popen(
                ["/bin/sleep", "3600"],
                env={"TOKEN": self.token},
                stdin=secret,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
                **identity,
            )
        self._victim = victim
        self.targets.victim = victim.pid

    # -- seeing -----------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Return every trace of harm since the last `reset`."""
        found = [f"{name} changed" for name in _changed(self._files, self._snapshot())]
        found += [f"a connection came to {name}" for name in self._connections()]
        found += [f"a datagram came to {name}" for name in self._packets()]
        found += [done for request in self._requests() if (done := harm(request, self.token))]
        kernel = _kernel_objects()
        found += [
            f"{name}: {', '.join(sorted(now - self._kernel[name]))}"
            for name, now in kernel.items()
            if now - self._kernel[name]
        ]
        if self._victim.poll() is not None:
            found.append(f"the victim ended with {self._victim.returncode}")
        elif (state := _process_state(self.targets.victim)) != self._victim_state:
            found += [
                f"the victim's {key} changed" for key, value in state.items() if value != self._victim_state.get(key)
            ]
        return found

    def reset(self) -> None:
        """Undo what an attack or its control left."""
        for name in ("vault", "inbox", "outbox", "outside", "outside/below", "bin"):
            if not (self.base / name).is_dir():
                self._folder(name)
            (self.base / name).chmod(0o777)
            self._give(self.base / name)
        for name in self._files_wanted:
            self._restore(name)
        wanted = {str(self.base / name) for name in self._files_wanted}
        for folder in ("vault", "inbox", "outbox", "outside", "bin"):
            for path in sorted((self.base / folder).rglob("*"), reverse=True):
                if str(path) not in wanted and path != self.base / "outside/below":
                    _remove(path)
        for path in (*self.base.iterdir(), *(self.base / name for name in self._files_wanted)):
            with contextlib.suppress(OSError):
                for attribute in os.listxattr(path):
                    os.removexattr(path, attribute)
        self._connections(), self._packets(), self._requests()
        _remove_kernel_objects(self._kernel)
        if self._victim.poll() is not None or _process_state(self.targets.victim) != self._victim_state:
            self.renew_victim()
        self._files = self._snapshot()

    def renew_victim(self) -> None:
        """Put a fresh process in the victim's place."""
        self._victim.kill()
        self._victim.wait()
        self._start_victim()
        self._victim_state = _process_state(self.targets.victim)

    def _snapshot(self) -> dict[str, tuple[Any, ...]]:
        found = {}
        for name in ("vault", "inbox", "outside", "bin"):
            top = self.base / name
            for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
                with contextlib.suppress(FileNotFoundError):
                    found[str(path.relative_to(self.base))] = _look(path)
        return found

    def _connections(self) -> list[str]:
        found = []
        for name, server in self._streams.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
                    found.append(name)
        return found

    def _packets(self) -> list[str]:
        found = []
        for name, server in self._datagrams.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    server.recv(4096)
                    found.append(name)
        return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()


def _look(path: Path) -> tuple[Any, ...]:
    seen = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    return (
        seen.st_mode,
        seen.st_uid,
        seen.st_gid,
        seen.st_nlink,
        seen.st_ino,
        seen.st_size,
        seen.st_mtime_ns,
        seen.st_ctime_ns,
        content,
    )


def _changed(before: dict[str, tuple[Any, ...]], after: dict[str, tuple[Any, ...]]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _process_state(pid: int) -> dict[str, str]:
    """Return what another process could change about one."""
    state = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("Name", "TracerPid", "Uid", "Gid", "Cpus_allowed", "NoNewPrivs"):
                state[key] = value.strip()
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        state["state"], state["nice"] = "stopped" if letter[0] in "Tt" else "running", letter[16]
        state["limits"] = Path(f"/proc/{pid}/limits").read_text()
    with contextlib.suppress(OSError):
        state["environment"] = Path(f"/proc/{pid}/environ").read_bytes().decode("latin-1")
    return state


def supervisor_state(pid: int) -> dict[str, str]:
    """Return what a guest could change about its supervisor."""
    state = _process_state(pid)
    return state


def _kernel_objects() -> dict[str, set[str]]:
    """Return the kernel's own objects that outlive a process, as far as the host shows them."""
    found: dict[str, set[str]] = {}
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
            found[kind] = {" ".join(line.split()[:2]) for line in lines}
    for name, folder in (("shared memory", "/dev/shm"), ("queue", "/dev/mqueue"), ("pin", "/sys/fs/bpf")):
        with contextlib.suppress(OSError):
            found[name] = {entry for entry in os.listdir(folder) if MARK in entry}
    with contextlib.suppress(OSError):
        found["key"] = {line for line in Path("/proc/keys").read_text().splitlines() if MARK in line}
    found["mount"] = {line for line in Path("/proc/self/mountinfo").read_text().splitlines() if MARK in line}
    found["host name"] = {platform.node()}
    return found


def _remove_kernel_objects(kept: dict[str, set[str]]) -> None:
    libc = ctypes.CDLL(None)
    now = _kernel_objects()
    removers = {
        "shm": lambda number: libc.shmctl(number, 0, None),
        "msg": lambda number: libc.msgctl(number, 0, None),
        "sem": lambda number: libc.semctl(number, 0, 0),
    }
    for kind, remove in removers.items():
        for line in now.get(kind, set()) - kept.get(kind, set()):
            remove(int(line.split()[1]))
    for name, folder in (("shared memory", "/dev/shm"), ("queue", "/dev/mqueue")):
        for entry in now.get(name, set()) - kept.get(name, set()):
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{entry}")


def _library() -> Path:
    """Return a shared library that is loaded here and is no Python module: a copy of it does no harm."""
    with open("/proc/self/maps") as maps:
        paths = sorted({line.split(maxsplit=5)[-1].strip() for line in maps if ".so" in line})
    for wanted in ("libz.so", "libexpat.so", "libm.so", "libc.so"):
        for path in paths:
            if Path(path).name.startswith(wanted):
                return Path(path)
    raise RuntimeError("no shared library is loaded")


def _extension() -> Path:
    """Return an extension module that nothing has loaded."""
    import sysconfig

    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    for pattern in ("_testclinic*.so", "_crypt*.so", "xxlimited*.so", "_lsprof*.so"):
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise RuntimeError(f"no extension module in {folder}")


def wait_gone(namespace: str, patience: float = 1.0) -> int:
    """Return how many processes of a pid namespace are left after 10 s, or as many times longer as `patience` says."""
    import time

    deadline = time.monotonic() + 10 * patience
    while True:
        left = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                left += os.readlink(f"/proc/{pid}/ns/pid") == namespace
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.01)


__all__ = ["GUEST_UID", "MARK", "Ground", "Targets", "supervisor_state", "wait_gone"]
