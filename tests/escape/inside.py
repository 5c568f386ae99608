"""What an attack has at hand: facts about its targets, raw system calls, machine code, frames of the wire.

Runs in the guest (and, for a control, in a plain process); only the standard library is there.
"""

import ctypes
import errno
import os
import struct
import time

CODE_EXEC = 0x04
LIBC = ctypes.CDLL(None, use_errno=True)


class World:
    """The targets, by name, and the attacker's tools."""

    libc = LIBC

    def __init__(self, facts):
        self.nr = facts.pop("nr")
        self.__dict__.update(facts)

    @property
    def own(self):
        """Return a directory of one's own: the workspace, or the outbox where there is none."""
        return "/sandbox/workspace" if os.path.isdir("/sandbox/workspace") else self.outbox

    # -- what was taken ---------------------------------------------------------------------------------------

    def got(self, what):
        """Say that something worked which nobody outside can see."""
        print("ESCAPED:", what, flush=True)

    def loot(self, data):
        """Show what was read; the judge looks for the secret in it."""
        print("LOOT:", data.decode("latin-1") if isinstance(data, bytes) else data, flush=True)

    # -- system calls -----------------------------------------------------------------------------------------

    def attempt(self, name, *arguments):
        """Make a raw system call; return (result, errno)."""
        number = name if isinstance(name, int) else self.nr[name]
        values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
        ctypes.set_errno(0)
        LIBC.syscall.restype = ctypes.c_long
        result = LIBC.syscall(ctypes.c_long(number), *values)
        error = ctypes.get_errno() if result < 0 else 0
        print("ANSWER:", name, errno.errorcode.get(error, error) if error else "OK", flush=True)
        return result, error

    def syscall(self, name, *arguments):
        """Make a raw system call; return its result, or raise OSError."""
        result, error = self.attempt(name, *arguments)
        if result < 0:
            raise OSError(error, f"{name}: {os.strerror(error)}")
        return result

    def floor(self, name, *arguments):
        """Make a raw system call that no sandbox may make: any success is an escape."""
        self.got(f"{name} returned {self.syscall(name, *arguments)}")

    def take(self, descriptor):
        """Read from a descriptor, from its start where it has one."""
        try:
            data = os.pread(descriptor, 4096, 0)
        except OSError:
            data = os.read(descriptor, 4096)
        self.loot(data)

    def swap(self, one, two, seconds=0.0):
        """Exchange two names fifty times, and again until the time is over."""
        until = time.monotonic() + seconds * self.slowness
        while True:
            for _ in range(50):
                self.libc.renameat2(-100, one, -100, two, 2)
            if time.monotonic() >= until:
                return

    def open_raw(self, path, flags=0, mode=0o644):
        """Open by system call, past every hook."""
        return self.syscall("openat", -100, os.fsencode(path), flags, mode)

    def socket_raw(self, family, kind, protocol=0):
        """Make a socket by system call."""
        return self.syscall("socket", family, kind, protocol)

    def ipv4(self, port, host=(127, 0, 0, 1)):
        """Return a sockaddr_in."""
        return struct.pack("=H", 2) + struct.pack("!H4B8x", port, *host)

    def ipv6(self, port, host=b"\0" * 15 + b"\1"):
        """Return a sockaddr_in6."""
        return struct.pack("=H", 10) + struct.pack("!HI16sI", port, 0, host, 0)

    def unix(self, path):
        """Return a sockaddr_un; a leading NUL makes it abstract."""
        return struct.pack("=H", 1) + (path if isinstance(path, bytes) else path.encode()) + b"\0"

    # -- hosts by name ----------------------------------------------------------------------------------------

    def proxy(self):
        """Say whether there is one."""
        return "HTTP_PROXY" in os.environ

    def proxied(self, port):
        """Return a connection to the egress proxy and the header that it wants; to a server where there is none."""
        import base64
        import socket

        url = os.environ.get("HTTP_PROXY", "")
        user, _, place = url.removeprefix("http://").partition("@")
        port = int(place.rpartition(":")[2]) if url else port
        header = "Proxy-Authorization: Basic " + base64.b64encode(user.encode()).decode() + "\r\n" if url else ""
        return socket.create_connection(("127.0.0.1", port), timeout=2), header

    def ask(self, port, *lines, header=None, body=""):
        """Ask for something in any words, by the proxy where there is one; return and show what is answered."""
        sock, own = self.proxied(port)
        head = "\r\n".join(lines) + "\r\n" + (own if header is None else header) + "\r\n"
        with sock:
            return self.answer(sock, (head + body).encode())

    def answer(self, sock, data):
        """Send bytes; return and show what comes back: the first of it within a while, the rest at once."""
        sock.sendall(data)
        sock.settimeout(1.5 * self.slowness)
        got = b""
        try:
            while part := sock.recv(65536):
                got += part
                sock.settimeout(0.3 * self.slowness)
        except OSError:
            pass
        self.loot(got)
        return got

    def tunnel(self, host, port):
        """Return a tunnel to a host by the proxy; a connection to its server where there is none."""
        sock, header = self.proxied(port)
        if header:
            sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{header}\r\n".encode())
            self.loot(sock.recv(4096))
        return sock

    def over_tls(self, host, port, name, *lines):
        """Ask over TLS, under any name, in a tunnel to a host."""
        import ssl

        with ssl._create_unverified_context().wrap_socket(self.tunnel(host, port), server_hostname=name) as sock:
            return self.answer(sock, ("\r\n".join(lines) + "\r\n\r\n").encode())

    # -- programs ---------------------------------------------------------------------------------------------

    def fork(self):
        """Fork past Python, without releasing its lock: other threads' state must not matter to the child."""
        libc = ctypes.PyDLL(None)
        if self.isolation == "thread":  # see exec/fork_libc
            return libc.syscall(ctypes.c_long(self.nr["clone"]), ctypes.c_long(17), 0, 0, 0, 0)
        return libc.fork()

    def execute(self, path, *words, name="execve", descriptor=None):
        """Run a program by system call, in a child where that is possible, else in place."""
        argv = (ctypes.c_char_p * (len(words) + 1))(*map(os.fsencode, words), None)
        child = self.fork()
        if child > 0:
            os.waitpid(child, 0)
            return
        try:
            if name == "execve":
                self.attempt("execve", os.fsencode(path), argv, None)
            else:
                self.attempt("execveat", descriptor, b"", argv, None, 0x1000)
        finally:
            if child == 0:
                LIBC._exit(1)

    # -- machine code -----------------------------------------------------------------------------------------

    def code(self, machine_code, *arguments):
        """Run x86-64 machine code from fresh executable memory; return rax."""
        size = 4096
        address = self.syscall("mmap", 0, size, 7, 0x22, -1, 0)
        ctypes.memmove(address, machine_code, len(machine_code))
        function = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * len(arguments))(address)
        return function(*arguments)

    def executable_ranges(self):
        """Return (start, end, path) of what is mapped executable, from the loader's own list: no /proc, no callback."""
        found = []
        link = ctypes.c_ulong.from_address(ctypes.addressof(ctypes.c_char.in_dll(LIBC, "_r_debug")) + 8).value
        while link:
            base, name, _dynamic, following = struct.unpack("=4Q", ctypes.string_at(link, 32))
            header = base or 0x400000  # a program that is not position-independent
            if ctypes.string_at(header, 4) == b"\x7fELF":
                at, size, count = struct.unpack("=Q14xHH", ctypes.string_at(header + 32, 26))
                for index in range(count):
                    kind, flags, _offset, address, _physical, _file, memory, _align = struct.unpack(
                        "=IIQQQQQQ", ctypes.string_at(header + at + index * size, 56)
                    )
                    if kind == 1 and flags & 1:
                        found.append((base + address, base + address + memory, ctypes.string_at(name)))
            link = following
        return found

    # -- io_uring ---------------------------------------------------------------------------------------------

    def ring(self, opcode, descriptor=-1, address=0, length=0, offset=0, flags=0):
        """Set up an io_uring, have it perform one operation, and return its result."""
        parameters = ctypes.create_string_buffer(120)
        ring = self.syscall("io_uring_setup", 4, parameters)
        submit, complete = struct.unpack_from("=8I", parameters, 40), struct.unpack_from("=8I", parameters, 80)
        queue = self.syscall("mmap", 0, 4096, 3, 1, ring, 0)
        done = self.syscall("mmap", 0, 4096, 3, 1, ring, 0x8000000)
        entries = self.syscall("mmap", 0, 4096, 3, 1, ring, 0x10000000)
        entry = struct.pack("=BBHiQQIIQ", opcode, 0, 0, descriptor, offset, address, length, flags, 7).ljust(64, b"\0")
        ctypes.memmove(entries, entry, 64)
        ctypes.c_uint32.from_address(queue + submit[6]).value = 0
        ctypes.c_uint32.from_address(queue + submit[1]).value += 1
        self.syscall("io_uring_enter", ring, 1, 1, 1, 0, 0)
        result = ctypes.c_int32.from_address(done + complete[5] + 8).value
        if result < 0:
            raise OSError(-result, f"io_uring operation {opcode}: {os.strerror(-result)}")
        return result

    def text(self, path):
        """Return the address of a path, kept alive."""
        self.kept = [*getattr(self, "kept", []), ctypes.create_string_buffer(os.fsencode(path))]
        return ctypes.addressof(self.kept[-1])

    # -- the wire ---------------------------------------------------------------------------------------------

    def wire(self):
        """Return the descriptor of the channel to the host."""
        import stat

        for descriptor in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    return descriptor
            except OSError:
                pass
        raise OSError(errno.EBADF, "no channel")

    def pipes(self, way=1):
        """Return the pipes that can be written to (or read: 0), but standard streams."""
        import fcntl
        import stat

        found = set()
        for descriptor in range(3, 64):
            try:
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & 3 == way:
                    found.add(descriptor)
            except OSError:
                pass
        return found

    def on_report(self, lie):
        """Call `lie` on a thread with each pipe that a program of `popen` is reported on; no order comes any more."""
        import threading

        nothing, self.kept_open = os.pipe()

        def watch(seen):
            while True:
                new = self.pipes() - seen
                if len(new) == 1:  # its output's are closed
                    seen |= new
                    for orders in self.pipes(0):
                        os.dup2(nothing, orders)
                    lie(*new)
                seen &= self.pipes()
                time.sleep(0.001)

        threading.Thread(target=watch, args=(self.pipes(),), daemon=True).start()

    def send(self, *frames):
        """Write frames to the wire, by system call."""
        self.send_bytes(b"".join(frames))

    def send_bytes(self, data):
        """Write bytes to the wire."""
        view, descriptor = memoryview(data), self.wire()
        while view:
            view = view[os.write(descriptor, view) :]

    def frame(self, kind, /, **fields):
        """Return one frame of the wire."""
        payload = self.pack({"t": kind, **fields})
        return struct.pack(">I", len(payload)) + payload

    def denial(self, **fields):
        """Return a frame with a denial record, as the broker would send it."""
        record = {"sequence": 1, "capability": "fs.read", "target": "/forged", "verdict": "deny", "code": "NOT_GRANTED"}
        return self.frame("denial", record={**record, **fields})

    def request_id(self):
        """Return the id of the request that runs, from the objects of the runtime: its frames are hidden."""
        import gc

        return next((one.id for one in gc.get_objects() if type(one).__name__ == "Request"), 1)

    def pack(self, value):
        """Return msgpack."""
        if value is None:
            return b"\xc0"
        if value is True or value is False:
            return b"\xc3" if value else b"\xc2"
        if isinstance(value, int):
            return b"\xd3" + struct.pack(">q", value) if value < 0 else b"\xcf" + struct.pack(">Q", value)
        if isinstance(value, float):
            return b"\xcb" + struct.pack(">d", value)
        if isinstance(value, str):
            data = value.encode()
            return b"\xdb" + struct.pack(">I", len(data)) + data
        if isinstance(value, bytes):
            return b"\xc6" + struct.pack(">I", len(value)) + value
        if isinstance(value, list):
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(self.pack, value))
        parts = (self.pack(key) + self.pack(item) for key, item in value.items())
        return b"\xdf" + struct.pack(">I", len(value)) + b"".join(parts)
