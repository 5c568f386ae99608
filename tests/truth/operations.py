"""The table. `python` is run by the interpreter; `native` and `raw` go round it: the C library, or a system call.

An operation says what its one event must hold: the capability, the target (the path or address asked for, with the
world's names), the code. Texts are code of the guest; each raises, or returns a negative number, when it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_GRANTED, SCOPE, EXPLICIT, ALWAYS = "NOT_GRANTED", "SCOPE_INSUFFICIENT", "EXPLICIT_DENY", "ALWAYS_DENIED"
ANY_GRANT = (NOT_GRANTED, SCOPE)


@dataclass(frozen=True)
class Operation:
    """One operation. `capability`, `target` and `code` are what is right; more than one where the words allow it."""

    name: str
    capability: tuple[str, ...]
    target: tuple[str, ...]
    code: tuple[str, ...] = ANY_GRANT
    python: str = ""
    native: str = ""
    raw: str = ""

    def ways(self) -> dict[str, str]:
        """Return the ways there are of doing it, by name."""
        return {way: text for way in ("python", "native", "raw") if (text := getattr(self, way))}


def _op(name: str, capability: str, target: str, code: str | tuple[str, ...] = ANY_GRANT, **ways: str) -> Operation:
    codes = (code,) if isinstance(code, str) else code
    return Operation(name, tuple(capability.split()), tuple(target.split("|")), codes, **ways)


def _opens(name: str, path: str, target: str, code: tuple[str, ...] | str = ANY_GRANT) -> list[Operation]:
    return [
        _op(f"read {name}", "fs.read", target, code, python=f"open('{path}').read()", native=f"c.open(b'{path}', 0)",
            raw=f"sys_(257, -100, b'{path}', 0, 0)"),
        _op(f"read {name}, fopen", "fs.read", target, code, python=f"os.open('{path}', os.O_RDONLY)",
            native=f"-1 if not c.fopen(b'{path}', b'r') else 0", raw=f"sys_(2, b'{path}', 0, 0)"),
        _op(f"write {name}", "fs.write", target, code, python=f"open('{path}', 'r+')", native=f"c.open(b'{path}', 2)",
            raw=f"sys_(257, -100, b'{path}', 1, 0)"),
        _op(f"truncate {name}", "fs.write", target, code, python=f"os.truncate('{path}', 0)",
            native=f"c.truncate(b'{path}', 0)", raw=f"sys_(76, b'{path}', 0)"),
    ]  # fmt: skip


FILES: list[Operation] = [
    *_opens("a hidden file", "{secret}", "{secret}"),
    *_opens("a denied file", "{denied}", "{denied}", (*ANY_GRANT, EXPLICIT))[:2],
    *_opens("a readable file", "{rofile}", "{rofile}")[2:],
    _op("read by a long name", "fs.read", "{secret}", python="open('{ro}/' + './' * 400 + '../hidden/secret.txt').read()",
        native="c.open(b'{ro}/' + b'./' * 400 + b'../hidden/secret.txt', 0)",
        raw="sys_(257, -100, b'../' * 1000 + b'{secret}'[1:], 0, 0)"),
    _op("rename an allowed file", "fs.delete fs.create", "{ro}/moved|{rwfile}|{secret}",
        python="open('{rwfile}', 'w').close(); os.rename('{rwfile}', '{ro}/moved')",
        native="(open('{rwfile}', 'w').close(), c.rename(b'{rwfile}', b'{ro}/moved'))[1]",
        raw="(open('{rwfile}', 'w').close(), sys_(316, -100, b'{rwfile}', -100, b'{secret}', 2))[1]"),
    _op("reopen for writing", "fs.write", "/proc/self/fd/[0-9]*|/dev/fd/[0-9]*|{rofile}",
        python="open('/proc/self/fd/%d' % os.open('{rofile}', 0), 'r+')",
        native="c.open(b'/proc/self/fd/%d' % os.open('{rofile}', 0), 2)",
        raw="sys_(257, -100, b'/dev/fd/%d' % os.open('{rofile}', 0), 2, 0)"),
    *[
        _op(f"read by a link of the task, {name}", "fs.read", f"/proc/self/{name}/*", python=f"os.chdir('{{ro}}'); open({path})",
            native=f"(c.chdir(b'{{ro}}'), c.open(os.fsencode({path}), 0))[1]",
            raw=f"(c.chdir(b'{{ro}}'), sys_(257, -100, os.fsencode({path}), 0, 0))[1]")
        for name, path in (
            ("cwd", "'/proc/self/cwd/file.txt'"), ("root", "'/proc/self/root{rofile}'"),
            ("fd", "'/proc/self/fd/%d/file.txt' % os.open('{ro}', 0)"),
        )
    ],
    _op("another's descriptor", "fs.write fs.create", "/proc/1/fd/1", python="open('/proc/1/fd/1', 'w')",
        native="c.open(b'/proc/1/fd/1', 1)", raw="sys_(257, -100, b'/proc/1/fd/1', 1, 0)"),
    _op("read /etc/shadow", "fs.read", "/etc/shadow", python="open('/etc/shadow').read()",
        native="c.open(b'/etc/shadow', 0)", raw="sys_(257, -100, b'/etc/shadow', 0, 0)"),
    _op("read through ..", "fs.read", "{secret}", python="open('{ro}/../hidden/secret.txt').read()",
        native="c.open(b'{ro}/../hidden/secret.txt', 0)", raw="sys_(257, -100, b'{ro}/../hidden/secret.txt', 0, 0)"),
    _op("read relative", "fs.read", "{secret}", python="os.chdir('{ro}'); open('../hidden/secret.txt').read()",
        native="(c.chdir(b'{ro}'), c.open(b'../hidden/secret.txt', 0))[1]",
        raw="(c.chdir(b'{ro}'), sys_(257, -100, b'../hidden/secret.txt', 0, 0))[1]"),
    _op("read by a folder's descriptor", "fs.read", "{secret}",
        python="os.open('../hidden/secret.txt', 0, dir_fd=os.open('{ro}', 0))",
        native="c.openat(c.open(b'{ro}', 0), b'../hidden/secret.txt', 0)",
        raw="sys_(257, c.open(b'{ro}', 0), b'../hidden/secret.txt', 0, 0)"),
    *[
        _op(f"look at {name}, {how}", "fs.lookup", path, python=python.format(path=path), native=native.format(path=path),
            raw=raw.format(path=path))
        for name, path in (("a hidden file", "{secret}"), ("a hidden folder", "{hidden}"), ("a file of the host's", "/etc/shadow"))
        for how, python, native, raw in (
            ("stat", "os.stat('{path}')", "c.stat(b'{path}', ctypes.create_string_buffer(256))",
             "sys_(4, b'{path}', ctypes.create_string_buffer(256))"),
            ("lstat", "os.lstat('{path}')", "c.lstat(b'{path}', ctypes.create_string_buffer(256))",
             "sys_(262, -100, b'{path}', ctypes.create_string_buffer(256), 0x100)"),
            ("access", "-2 + os.access('{path}', os.F_OK)", "c.access(b'{path}', 0)", "sys_(439, -100, b'{path}', 0, 0x200)"),
            ("readlink", "os.readlink('{path}')", "c.readlink(b'{path}', ctypes.create_string_buffer(256), 256)",
             "sys_(89, b'{path}', ctypes.create_string_buffer(256), 256)"),
            ("chdir", "os.chdir('{path}')", "c.chdir(b'{path}')", "sys_(80, b'{path}')"),
            ("O_PATH", "os.open('{path}', os.O_PATH)", "c.open(b'{path}', 0o10000000)", "sys_(2, b'{path}', 0o10000000, 0)"),
        )
    ],
    _op("look by a relative name", "fs.lookup", "{secret}", python="os.chdir('{ro}'); os.stat('../hidden/secret.txt')",
        native="(c.chdir(b'{ro}'), c.stat(b'../hidden/secret.txt', ctypes.create_string_buffer(256)))[1]",
        raw="(c.chdir(b'{ro}'), sys_(4, b'../hidden/secret.txt', ctypes.create_string_buffer(256)))[1]"),
    _op("look by a folder's descriptor", "fs.lookup", "{secret}",
        python="os.stat('../hidden/secret.txt', dir_fd=os.open('{ro}', 0))",
        native="c.fstatat(c.open(b'{ro}', 0), b'../hidden/secret.txt', ctypes.create_string_buffer(256), 0)",
        raw="sys_(332, c.open(b'{ro}', 0), b'../hidden/secret.txt', 0, 2047, ctypes.create_string_buffer(256))"),
    _op("list a hidden folder", "fs.read", "{hidden}", python="os.listdir('{hidden}')",
        native="-1 if not c.opendir(b'{hidden}') else 0", raw="sys_(257, -100, b'{hidden}', 0o200000, 0)"),
    _op("scan a hidden folder", "fs.read", "{hidden}", python="list(os.scandir('{hidden}'))",
        native="c.open(b'{hidden}', 0o200000)"),
    _op("create in a hidden folder", "fs.create", "{hidden}/new", python="open('{hidden}/new', 'w')",
        native="c.open(b'{hidden}/new', 0o101, 0o600)", raw="sys_(85, b'{hidden}/new', 0o600)"),
    _op("create in a readable folder", "fs.create", "{ro}/new", python="open('{ro}/new', 'x')",
        native="c.creat(b'{ro}/new', 0o600)", raw="sys_(257, -100, b'{ro}/new', 0o101, 0o600)"),
    _op("mkdir", "fs.create", "{ro}/made", python="os.mkdir('{ro}/made')", native="c.mkdir(b'{ro}/made', 0o700)",
        raw="sys_(83, b'{ro}/made', 0o700)"),
    _op("mkdir hidden", "fs.create", "{hidden}/made", python="os.mkdir('{hidden}/made')",
        native="c.mkdirat(-100, b'{hidden}/made', 0o700)", raw="sys_(258, -100, b'{hidden}/made', 0o700)"),
    _op("mkdir below a folder's descriptor", "fs.create", "{ro}/below",
        python="os.mkdir('below', dir_fd=os.open('{ro}', 0))", native="c.mkdirat(c.open(b'{ro}', 0), b'below', 0o700)"),
    _op("unlink below a folder's descriptor", "fs.delete", "{rofile}",
        python="os.unlink('file.txt', dir_fd=os.open('{ro}', 0))"),
    _op("touch", "fs.create", "{ro}/touched", python="__import__('pathlib').Path('{ro}/touched').touch()"),
    _op("mkfifo", "fs.create", "{ro}/fifo", python="os.mkfifo('{ro}/fifo')", native="c.mkfifo(b'{ro}/fifo', 0o600)",
        raw="sys_(133, b'{ro}/fifo', 0o010600, 0)"),
    _op("symlink", "fs.create", "{ro}/link", python="os.symlink('x', '{ro}/link')",
        native="c.symlink(b'x', b'{ro}/link')", raw="sys_(88, b'x', b'{ro}/link')"),
    _op("hard link", "fs.create fs.read fs.write", "{rw}/linked|{rofile}|{secret}",
        python="os.link('{secret}', '{rw}/linked')", native="c.link(b'{secret}', b'{rw}/linked')",
        raw="sys_(86, b'{secret}', b'{rw}/linked')"),
    _op("hard link of an open file", "fs.create fs.write", "{rw}/linked|{rofile}|{ro}",
        native="c.linkat(c.open(b'{rofile}', 0), b'', -100, b'{rw}/linked', 0x1000)",
        raw="sys_(265, c.open(b'{rofile}', 0), b'', -100, b'{rw}/linked', 0x1000)"),
    _op("hard link into a readable folder", "fs.create", "{ro}/linked", python="os.link('{rwfile}', '{ro}/linked')",
        native="c.link(b'{rwfile}', b'{ro}/linked')", raw="sys_(86, b'{rwfile}', b'{ro}/linked')"),
    _op("unlink hidden", "fs.delete", "{secret}", python="os.unlink('{secret}')", native="c.unlink(b'{secret}')",
        raw="sys_(87, b'{secret}')"),
    _op("unlink readable", "fs.delete", "{rofile}", python="os.remove('{rofile}')",
        native="c.unlinkat(-100, b'{rofile}', 0)", raw="sys_(263, -100, b'{rofile}', 0)"),
    _op("unlink writable without delete", "fs.delete", "{nodelete}", python="os.unlink('{nodelete}')",
        native="c.unlink(b'{nodelete}')", raw="sys_(87, b'{nodelete}')"),
    _op("rmdir", "fs.delete", "{rodir}", python="os.rmdir('{rodir}')", native="c.rmdir(b'{rodir}')",
        raw="sys_(84, b'{rodir}')"),
    _op("rename away", "fs.delete fs.create", "{rofile}|{rw}/moved", python="os.rename('{rofile}', '{rw}/moved')",
        native="c.rename(b'{rofile}', b'{rw}/moved')", raw="sys_(82, b'{rofile}', b'{rw}/moved')"),
    _op("rename hidden", "fs.delete fs.create", "{secret}|{rw}/moved", python="os.replace('{secret}', '{rw}/moved')",
        native="c.rename(b'{secret}', b'{rw}/moved')", raw="sys_(316, -100, b'{secret}', -100, b'{rw}/moved', 0)"),
    _op("rename into a readable folder", "fs.create", "{ro}/moved", python="os.rename('{rwfile}', '{ro}/moved')",
        native="c.rename(b'{rwfile}', b'{ro}/moved')", raw="sys_(82, b'{rwfile}', b'{ro}/moved')"),
    _op("chmod hidden", "fs.metadata", "{secret}", python="os.chmod('{secret}', 0o600)",
        native="c.chmod(b'{secret}', 0o600)", raw="sys_(90, b'{secret}', 0o600)"),
    _op("chmod readable", "fs.metadata", "{rofile}", python="os.chmod('{rofile}', 0o600)",
        native="c.chmod(b'{rofile}', 0o600)", raw="sys_(268, -100, b'{rofile}', 0o600)"),
    _op("fchmod", "fs.metadata", "{rofile}", python="os.fchmod(os.open('{rofile}', 0), 0o600)",
        native="c.fchmod(c.open(b'{rofile}', 0), 0o600)", raw="sys_(91, c.open(b'{rofile}', 0), 0o600)"),
    _op("chown", "fs.metadata", "{rofile}", python="os.chown('{rofile}', os.getuid(), os.getgid())",
        native="c.chown(b'{rofile}', os.getuid(), os.getgid())",
        raw="sys_(92, b'{rofile}', os.getuid(), os.getgid())"),
    _op("fchown", "fs.metadata", "{rofile}", python="os.fchown(os.open('{rofile}', 0), os.getuid(), os.getgid())",
        native="c.fchown(c.open(b'{rofile}', 0), os.getuid(), os.getgid())",
        raw="sys_(93, c.open(b'{rofile}', 0), os.getuid(), os.getgid())"),
    _op("utime", "fs.metadata", "{rofile}", python="os.utime('{rofile}')", native="c.utimes(b'{rofile}', None)",
        raw="sys_(280, -100, b'{rofile}', None, 0)"),
    _op("futimens", "fs.metadata", "{rofile}", python="os.utime(os.open('{rofile}', 0))",
        native="c.futimens(c.open(b'{rofile}', 0), None)", raw="sys_(280, c.open(b'{rofile}', 0), None, None, 0)"),
    _op("setxattr", "fs.metadata", "{rofile}", python="os.setxattr('{rofile}', b'user.truth', b'1')",
        native="c.setxattr(b'{rofile}', b'user.truth', b'1', 1, 0)",
        raw="sys_(188, b'{rofile}', b'user.truth', b'1', 1, 0)"),
    _op("fsetxattr", "fs.metadata", "{rofile}", python="os.setxattr(os.open('{rofile}', 0), b'user.truth', b'1')",
        native="c.fsetxattr(c.open(b'{rofile}', 0), b'user.truth', b'1', 1, 0)",
        raw="sys_(190, c.open(b'{rofile}', 0), b'user.truth', b'1', 1, 0)"),
    _op("sqlite", "fs.read fs.write fs.create", "{secret}",
        python="import sqlite3; sqlite3.connect('file:{secret}?mode=ro', uri=True).execute('select * from sqlite_master')"),
    _op("/proc of the init", "fs.read", "/proc/1/environ", python="open('/proc/1/environ').read()",
        native="c.open(b'/proc/1/environ', 0)", raw="sys_(257, -100, b'/proc/1/environ', 0, 0)"),
]  # fmt: skip

_V4 = "struct.pack('<HH4s8x', 2, socket.htons({port_}), socket.inet_aton('{host}'))"


def _v4(host: str, port: str) -> str:
    return f"__import__('struct').pack('<H', 2) + __import__('struct').pack('>H', {port}) + bytes(map(int, '{host}'.split('.'))) + bytes(8)"


def _unix(call: str, path: str) -> str:
    address = f"(1).to_bytes(2, 'little') + b'{path}'"
    return f"(lambda s: s if s < 0 else {call}{address}, len({address})))(c.socket(1, 1, 0))"


_TCP, _UDP = "c.socket(2, 1, 0)", "c.socket(2, 2, 0)"
NET: list[Operation] = [
    _op("connect elsewhere", "net.connect", "127.0.0.1:{closed}",
        python="import socket; socket.create_connection(('127.0.0.1', {closed}))",
        native=f"c.connect({_TCP}, {_v4('127.0.0.1', '{closed}')}, 16)",
        raw=f"sys_(42, {_TCP}, {_v4('127.0.0.1', '{closed}')}, 16)"),
    _op("connect far", "net.connect", "10.1.2.3:443", python="import socket; socket.socket().connect(('10.1.2.3', 443))",
        native=f"c.connect({_TCP}, {_v4('10.1.2.3', '443')}, 16)",
        raw=f"sys_(42, {_TCP}, {_v4('10.1.2.3', '443')}, 16)"),
    _op("connect_ex", "net.connect", "127.0.0.1:1",
        python="import socket; -socket.socket().connect_ex(('127.0.0.1', 1))",
        native=f"c.connect({_TCP}, {_v4('127.0.0.1', '1')}, 16)"),
    _op("bind", "net.bind", "127.0.0.1:1025", python="import socket; socket.socket().bind(('127.0.0.1', 1025))",
        native=f"c.bind({_TCP}, {_v4('127.0.0.1', '1025')}, 16)",
        raw=f"sys_(49, {_TCP}, {_v4('127.0.0.1', '1025')}, 16)"),
    _op("bind any", "net.bind", "0.0.0.0:1026", python="import socket; socket.socket().bind(('', 1026))",
        native=f"c.bind({_TCP}, {_v4('0.0.0.0', '1026')}, 16)", raw=f"sys_(49, {_TCP}, {_v4('0.0.0.0', '1026')}, 16)"),
    _op("serve", "net.bind", "127.0.0.1:1027", python="import socket; socket.create_server(('127.0.0.1', 1027))"),
    _op("listen unbound", "net.listen", "0.0.0.0:0", python="import socket; socket.socket().listen()",
        native=f"c.listen({_TCP}, 1)", raw=f"sys_(50, {_TCP}, 1)"),
    _op("send a datagram", "net.send", "10.1.2.3:53",
        python="import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.1.2.3', 53))",
        native=f"c.sendto({_UDP}, b'x', 1, 0, {_v4('10.1.2.3', '53')}, 16)",
        raw=f"sys_(44, {_UDP}, b'x', 1, 0, {_v4('10.1.2.3', '53')}, 16)"),
    _op("connect a datagram socket", "net.connect", "10.1.2.3:53",
        python="import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('10.1.2.3', 53))",
        native=f"c.connect({_UDP}, {_v4('10.1.2.3', '53')}, 16)",
        raw=f"sys_(42, {_UDP}, {_v4('10.1.2.3', '53')}, 16)"),
    *(
        _op(f"socket {name}", "net.socket", f"{name}/SOCK_{kind}", (ALWAYS, *ANY_GRANT),
            python=f"import socket; socket.socket({family}, socket.SOCK_{kind})", native=f"c.socket({family}, {number}, 0)",
            raw=f"sys_(41, {family}, {number}, 0)")
        for name, family, kind, number in (
            ("AF_PACKET", 17, "RAW", 3), ("AF_NETLINK", 16, "RAW", 3), ("AF_VSOCK", 40, "STREAM", 1),
            ("AF_ALG", 38, "SEQPACKET", 5), ("AF_INET", 2, "RAW", 3),
        )
    ),
    # where the policy lets no socket of AF_UNIX be made, that is what is refused
    _op("unix connect", "net.connect net.socket", "unix:{unix}|AF_UNIX/SOCK_STREAM",
        python="import socket; socket.socket(socket.AF_UNIX).connect('{unix}')", native=_unix("c.connect(s, ", "{unix}"),
        raw=_unix("sys_(42, s, ", "{unix}")),
    _op("unix abstract", "net.connect net.socket", "unix:@truth|AF_UNIX/SOCK_STREAM",
        python="import socket; socket.socket(socket.AF_UNIX).connect('\\0truth')",
        native=_unix("c.connect(s, ", "\\0truth"), raw=_unix("sys_(42, s, ", "\\0truth")),
    _op("unix bind", "net.bind net.socket", "unix:{hidden}/s|AF_UNIX/SOCK_STREAM",
        python="import socket; socket.socket(socket.AF_UNIX).bind('{hidden}/s')", native=_unix("c.bind(s, ", "{hidden}/s"),
        raw=_unix("sys_(49, s, ", "{hidden}/s")),
    _op("unix socket", "net.socket", "AF_UNIX/SOCK_STREAM", python="import socket; socket.socket(socket.AF_UNIX)",
        native="c.socket(1, 1, 0)", raw="sys_(41, 1, 1, 0)"),
]  # fmt: skip

PROCESS: list[Operation] = [
    _op("fork", "process.fork", "fork|os.fork", python="os.fork()", native="c.fork()", raw="sys_(57)"),
    _op("vfork by clone", "process.fork", "fork", raw="sys_(56, 17, 0, 0, 0, 0)"),
    _op("subprocess", "process.exec", "/bin/true|/usr/bin/true", python="import subprocess; subprocess.run(['/bin/true'])",
        native="c.execv(b'/bin/true', None)", raw="sys_(59, b'/bin/true', None, None)"),
    _op("exec hidden", "process.exec", "{program}", python="os.execv('{program}', ['x'])",
        native="c.execv(b'{program}', None)", raw="sys_(59, b'{program}', None, None)"),
    _op("exec of an open file", "process.exec", "{rofile}", raw="sys_(322, c.open(b'{rofile}', 0), b'', None, None, 0x1000)"),
    _op("exec by a relative name", "process.exec", "{rofile}",
        raw="(c.chdir(b'{ro}'), sys_(59, b'.//././file.txt', None, None))[1]"),
    _op("system", "process.exec", "/bin/sh|/usr/bin/sh|/usr/bin/dash", python="os.system('true') and -1"),
    _op("posix_spawn", "process.exec", "/bin/true|/usr/bin/true",
        python="os.posix_spawn('/bin/true', ['true'], {{}})"),
    _op("popen", "process.exec", "/bin/sh|/usr/bin/sh|/usr/bin/dash", python="os.popen('true').read()"),
    _op("ptrace", "process.trace", "ptrace(request 16, 1)|ptrace(request 0, 0)", ALWAYS, native="c.ptrace(16, 1, 0, 0)",
        raw="sys_(101, 16, 1, 0, 0)"),
    _op("read another's memory", "process.trace", "process_vm_readv(1)", (ALWAYS, *ANY_GRANT), native="c.process_vm_readv(1, None, 0, None, 0, 0)",
        raw="sys_(310, 1, None, 0, None, 0, 0)"),
    _op("kill the init", "process.signal", "kill(1, signal 9)|os.kill(1, signal 9)|*", ALWAYS, python="os.kill(1, 9)", native="c.kill(1, 9)",
        raw="sys_(62, 1, 9)"),
    _op("kill a thread of the init", "process.signal", "tgkill(1, signal 9)", ALWAYS, raw="sys_(234, 1, 1, 9)"),
    _op("pidfd of the init", "process.signal", "pidfd_open(1)", ALWAYS, python="os.pidfd_open(1)", raw="sys_(434, 1, 0)"),
    _op("priority of the init", "process.trace", "setpriority(1)", ALWAYS, python="os.setpriority(0, 1, 5)",
        native="c.setpriority(0, 1, 5)", raw="sys_(141, 0, 1, 5)"),
    _op("affinity of the init", "process.trace", "sched_setaffinity(1)", ALWAYS, python="os.sched_setaffinity(1, {{0}})",
        raw="sys_(203, 1, 8, b'\\1' + bytes(7))"),
    _op("a higher priority", "kernel.capability", "setpriority(0)", ALWAYS, python="os.nice(-5)", native="c.setpriority(0, 0, -5)",
        raw="sys_(141, 0, 0, -5)"),
    _op("real time", "kernel.capability", "sched_setscheduler(0)", ALWAYS,
        python="os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", raw="sys_(144, 0, 1, b'\\1' + bytes(7))"),
    _op("capset", "kernel.capability", "capset()", ALWAYS,
        raw="sys_(126, bytes.fromhex('2205082000000000'), b'\\1' * 8 + bytes(16))"),
]  # fmt: skip


def _floor(
    name: str, capability: str, number: int, arguments: str = "0, 0, 0", python: str = "", native: str = ""
) -> Operation:
    return Operation(
        name, tuple(capability.split()), ("*",), (ALWAYS, *ANY_GRANT), python, native, f"sys_({number}, {arguments})"
    )


FLOOR: list[Operation] = [
    _floor("mount", "kernel.mount", 165, "b'none', b'/tmp', b'tmpfs', 0, 0", native="c.mount(b'none', b'/tmp', b'tmpfs', 0, None)"),
    _floor("umount", "kernel.mount", 166, "b'/tmp', 0", native="c.umount2(b'/tmp', 0)"),
    _floor("chroot", "kernel.mount", 161, "b'/'", python="os.chroot('/')", native="c.chroot(b'/')"),
    _floor("unshare", "kernel.namespace", 272, "0x10000000", native="c.unshare(0x10000000)"),
    _floor("setns", "kernel.namespace", 308, "0, 0", native="c.setns(0, 0)"),
    _floor("sethostname", "kernel.namespace", 170, "b'x', 1", python="__import__('socket').sethostname('x')", native="c.sethostname(b'x', 1)"),
    _floor("bpf", "kernel.bpf", 321),
    _floor("perf", "kernel.perf", 298, "0, 0, -1, -1, 0"),
    _floor("module", "kernel.module", 175),
    _floor("kexec", "kernel.module", 246, "0, 0, 0, 0"),
    _floor("keyctl", "kernel.keys", 250, "0, 0"),
    _floor("add_key", "kernel.keys", 248, "b'user', b'x', b'y', 1, -3"),
    _floor("io_uring", "kernel.io_uring", 425, "1, 0"),
    _floor("setuid", "kernel.capability", 105, "0", python="os.setuid(0)", native="c.setuid(0)"),
    _floor("setgroups", "kernel.capability", 116, "0, 0", python="os.setgroups([])", native="c.setgroups(0, None)"),
    _floor("reboot", "kernel.capability", 169, native="c.reboot(0)"),
    _floor("syslog", "kernel.capability", 103),
    _floor("settimeofday", "kernel.capability", 164, "0, 0"),
    _floor("TIOCSTI", "kernel.ioctl", 16, "0, 0x5412, 0", python="__import__('fcntl').ioctl(0, 0x5412, b'x')", native="c.ioctl(0, 0x5412, b'x')"),
    _floor("userfaultfd", "kernel.syscall", 323, "0"),
    _floor("seccomp", "kernel.syscall", 317, "0, 0, 0"),
    _floor("personality", "memory.exec", 135, "0x0400000", native="c.personality(0x0400000)"),
    _floor("shmget", "ipc.sysv", 29, "0, 4096, 0o1600", native="c.shmget(0, 4096, 0o1600)"),
    _floor("semget", "ipc.sysv", 64, "0, 1, 0o1600", native="c.semget(0, 1, 0o1600)"),
    _floor("msgget", "ipc.sysv", 68, "0, 0o1600", native="c.msgget(0, 0o1600)"),
    _floor("mq_open", "ipc.posix", 240, "b'truth', 0o102, 0o600, 0"),
    _floor("executable memory", "memory.exec", 9, "0, 4096, 7, 34, -1, 0", python="__import__('mmap').mmap(-1, 4096, prot=7)",
           native="c.mmap(0, 4096, 7, 34, -1, 0)"),
    _op("a file's code", "import.native", "{rofile}", python="__import__('mmap').mmap(os.open('{rofile}', 0), 1, flags=2, prot=5)",
        native="c.mmap(0, 4096, 5, 2, os.open('{rofile}', 0), 0)", raw="sys_(9, 0, 4096, 5, 2, os.open('{rofile}', 0), 0)"),
    _floor("memfd", "import.native", 319, "b'x', 0", python="os.memfd_create('x')", native="c.memfd_create(b'x', 0)"),
    _floor("inotify", "fs.metadata", 294, "0", native="c.inotify_init1(0)"),
    _floor("a call of i386's kind", "kernel.syscall", 700),
    _floor("unknown", "kernel.syscall", 600),
    _floor("open_by_handle", "kernel.mount", 304, "-100, 0, 0"),
    _floor("name_to_handle", "kernel.mount", 303, "-100, b'/', 0, 0, 0"),
    _floor("swapon", "kernel.mount", 167, "b'/x', 0"),
    _floor("prlimit of another", "process.trace", 302, "1, 7, 0, 0"),
    _floor("get_robust_list of another", "process.trace", 274, "1, bytes(8), bytes(8)"),
    _floor("pidfd_getfd", "process.trace", 438, "0, 0, 0"),
]  # fmt: skip

IMPORTS: list[Operation] = [
    _op("import a module", "import.module", "click|click.*", python="import click"),
    _op("import by importlib", "import.module", "psutil|psutil.*", python="import importlib; importlib.import_module('psutil')"),
    _op("import by __import__", "import.module", "msgspec|msgspec.*", python="__import__('msgspec')"),
    *[
        _op(f"import by {name}", "import.module", "click|click.*", python=f"import {name}; {call}")
        for name, call in (
            ("runpy", "runpy.run_module('click')"), ("pkgutil", "pkgutil.resolve_name('click:echo')"),
            ("importlib.resources", "importlib.resources.files('click')"),
        )
    ],
    _op("import arrays", "import.module", "numpy|numpy.*", python="import numpy"),
]  # fmt: skip

OPERATIONS: tuple[Operation, ...] = (*FILES, *NET, *PROCESS, *FLOOR, *IMPORTS)
