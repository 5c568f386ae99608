"""Real libraries as guests: each does its work under a preset with some grants and limits, and is refused the rest."""

from __future__ import annotations

import http.server
import importlib.util
import os
import shutil
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyisolate
from pyisolate import Policy
from tests.require import require

DATA = Policy.preset("data").with_limits(memory="512MiB", wall="60s", cpu="30s")


@pytest.fixture(scope="module")
def supervisor() -> Iterator[pyisolate.Supervisor]:
    with pyisolate.Supervisor(pool_size=1) as made:
        made.spawn("first", Policy.preset("compute").allow_connect("127.0.0.1:9")).close()  # its pool starts with it
        yield made


@pytest.fixture
def out() -> Iterator[Path]:
    """A directory that cells may write in, whatever their uid."""
    directory = Path(f"/tmp/pyisolate-test-{os.getpid()}-{time.monotonic_ns()}")
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def needs(*names: str) -> None:
    for name in names:
        require(name, importlib.util.find_spec(name) is not None, f"pip install {name}")


def working_in(policy: Policy, directory: Path) -> Policy:
    return policy.allow_read(str(directory)).allow_write(str(directory))


def refused(sandbox: pyisolate.Sandbox, source: str) -> tuple[str, str]:
    """Run what must be refused; return what the error's event says, which must be in the store too."""
    with pytest.raises(pyisolate.PolicyError) as caught:
        sandbox.exec(source)
    event = caught.value.denial_event
    assert event is not None
    assert event.event_id in {one.event_id for one in sandbox.get_denial_events()}
    return event.capability.value, event.target


# -- numpy ------------------------------------------------------------------------------------------------------------


def test_numpy_computes(supervisor: pyisolate.Supervisor) -> None:
    needs("numpy")
    with supervisor.spawn("numpy", DATA) as sandbox:
        sandbox.exec("import numpy as np\nrng = np.random.default_rng(7)\na = rng.normal(size=(120, 120))")
        assert sandbox.eval("bool(np.allclose(np.linalg.inv(a) @ a, np.eye(120)))")
        assert sandbox.eval("float(np.abs(np.fft.ifft(np.fft.fft(a)) - a).max())") < 1e-9
        assert sandbox.eval("[int(n) for n in np.sort(np.array([3, 1, 2]))]") == [1, 2, 3]
        assert sandbox.get_denial_events() == []
        assert refused(sandbox, "np.fromfile('/etc/shadow')") == ("fs.read", "/etc/shadow")
        assert refused(sandbox, "np.save('/srv/a.npy', a)") == ("fs.create", "/srv/a.npy")


def test_numpy_files_in_and_out(supervisor: pyisolate.Supervisor, out: Path) -> None:
    needs("numpy")
    with supervisor.spawn("numpy files", working_in(DATA, out)) as sandbox:
        saved = f"np.save({str(out / 'a.npy')!r}, np.arange(1000).reshape(10, 100))"
        sandbox.exec(f"import numpy as np\n{saved}\nb = np.load({str(out / 'a.npy')!r}, mmap_mode='r')")
        assert sandbox.eval("int(b.sum())") == 499500
    assert (out / "a.npy").read_bytes()[:6] == b"\x93NUMPY"


def test_numpy_stays_within_its_memory(supervisor: pyisolate.Supervisor) -> None:
    needs("numpy")
    with supervisor.spawn("numpy memory", DATA.with_limits(memory="128MiB")) as sandbox:
        with pytest.raises((pyisolate.MemoryExceeded, pyisolate.GuestError)) as caught:
            sandbox.exec("import numpy as np\nkept = [np.ones(4 << 20) for _ in range(32)]")  # a gigabyte
        assert isinstance(caught.value, pyisolate.MemoryExceeded) or "MemoryError" in str(caught.value)


def test_numpy_in_a_long_loop_of_c_is_ended(supervisor: pyisolate.Supervisor) -> None:
    needs("numpy")
    with supervisor.spawn("numpy loop", DATA) as sandbox:
        sandbox.exec("import numpy as np\na = np.ones((900, 900))")
        started = time.monotonic()
        with pytest.raises(pyisolate.TimeoutError):
            sandbox.exec("while True: a @ a", timeout=0.5)
        assert time.monotonic() - started < 10


def test_numpy_without_its_grant_is_refused(supervisor: pyisolate.Supervisor) -> None:
    needs("numpy")
    with supervisor.spawn("no numpy") as sandbox:
        assert refused(sandbox, "import numpy")[0] in ("import.module", "import.native")


# -- pandas -----------------------------------------------------------------------------------------------------------


def test_pandas_reads_computes_and_writes(supervisor: pyisolate.Supervisor, out: Path) -> None:
    needs("pandas")
    rows = "\n".join(f"{'ab'[n % 2]},{n},2026-01-{n % 28 + 1:02d}" for n in range(200))
    (out / "in.csv").write_text("kind,value,day\n" + rows)
    (out / "in.csv").chmod(0o644)
    with supervisor.spawn("pandas", working_in(DATA, out)) as sandbox:
        sandbox.exec(
            "import pandas as pd\n"
            f"frame = pd.read_csv({str(out / 'in.csv')!r}, parse_dates=['day'])\n"
            "summary = frame.groupby('kind').value.agg(['sum', 'count', 'mean'])\n"
            f"summary.to_csv({str(out / 'out.csv')!r})\n"
            f"frame.to_json({str(out / 'out.json')!r}, orient='records')\n"
        )
        expected = {"a": sum(range(0, 200, 2)), "b": sum(range(1, 200, 2))}
        assert sandbox.eval("{kind: int(total) for kind, total in summary['sum'].items()}") == expected
        assert sandbox.eval("str(frame.day.dtype)").startswith("datetime64")
        assert sandbox.eval("float(frame.value.rolling(5).mean().iloc[-1])") == 197.0
        assert refused(sandbox, "pd.read_csv('/etc/passwd', sep=':')") == ("fs.read", "/etc/passwd")
        assert refused(sandbox, "frame.to_csv('/tmp/leak.csv')") == ("fs.create", "/tmp/leak.csv")
    assert (out / "out.csv").read_text().startswith("kind,sum,count,mean\na,9900,100,99.0")
    assert (out / "out.json").stat().st_size > 1000


def test_pandas_reads_what_a_url_names_only_where_that_is_granted(supervisor: pyisolate.Supervisor) -> None:
    needs("pandas")
    with supervisor.spawn("pandas url", DATA) as sandbox, pytest.raises(pyisolate.SandboxError):
        sandbox.exec("import pandas as pd\npd.read_csv('http://127.0.0.1:9/data.csv')")
    assert ("net.connect", "127.0.0.1:9") in [(e.capability.value, e.target) for e in sandbox.get_denial_events()]


# -- matplotlib -------------------------------------------------------------------------------------------------------

PLOT = """
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(4, 3), dpi=100)
axes.plot([1, 2, 3], [2, 3, 5], label="primes")
axes.set_title("a title")
axes.legend()
"""


def test_matplotlib_writes_a_picture(supervisor: pyisolate.Supervisor, out: Path) -> None:
    needs("matplotlib")
    env = {"MPLCONFIGDIR": str(out)}
    with supervisor.spawn("matplotlib", working_in(DATA, out), env=env) as sandbox:
        sandbox.exec(PLOT)
        sandbox.exec(f"figure.savefig({str(out / 'plot.png')!r})\nfigure.savefig({str(out / 'plot.svg')!r})")
        assert refused(sandbox, "figure.savefig('/tmp/plot.png')") == ("fs.create", "/tmp/plot.png")
    png = (out / "plot.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (400, 300)
    assert png.endswith(b"IEND\xaeB`\x82")
    assert "<svg" in (out / "plot.svg").read_text()[:2000]


# -- requests ---------------------------------------------------------------------------------------------------------


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = b'{"path": "%s"}' % self.path.encode()
        self.send_response(302 if self.path == "/away" else 200)
        if self.path == "/away":
            self.send_header("Location", f"http://127.0.0.1:{self.server.elsewhere}/")  # type: ignore[attr-defined]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[::-1])

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Any, Any]]:
    """Two servers on the loopback: one will be granted, the other listens in vain."""
    made = []
    for _ in range(2):
        server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.asked, server.thread = [], threading.Thread(target=server.serve_forever, args=(0.05,))
        server.daemon_threads = True
        server.thread.start()
        made.append(server)
    made[0].elsewhere = made[1].server_address[1]
    yield made[0], made[1]
    for server in made:
        server.shutdown()
        server.thread.join()
        server.server_close()


def test_requests_reaches_the_server_that_is_granted_and_no_other(
    supervisor: pyisolate.Supervisor, servers: tuple[Any, Any]
) -> None:
    needs("requests")
    granted, other = servers
    url, elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    policy = Policy.preset("web-client").allow_connect(f"127.0.0.1:{granted.server_address[1]}")
    with supervisor.spawn("requests", policy) as sandbox:
        sandbox.exec(f"import requests\nsession = requests.Session()\nurl = {url!r}")
        assert sandbox.eval("session.get(url + '/a', timeout=10).json()") == {"path": "/a"}
        assert sandbox.eval("session.post(url, data=b'x' * 100_000 + b'y', timeout=10).content[:2]") == b"yx"
        assert granted.asked == ["/a"]
        for attempt in (f"requests.get({elsewhere!r}, timeout=10)", "session.get(url + '/away', timeout=10)"):
            before = len(denied_connections(sandbox))
            with pytest.raises(pyisolate.SandboxError):
                sandbox.exec(attempt)
            assert denied_connections(sandbox)[-1] == elsewhere.removeprefix("http://")
            assert len(denied_connections(sandbox)) >= max(1, before)
        assert granted.asked == ["/a", "/away"]
        assert sandbox.eval("session.get(url + '/b', timeout=10).status_code") == 200
    assert other.asked == []


def denied_connections(sandbox: pyisolate.Sandbox) -> list[str]:
    events = sandbox.get_denial_events()
    return [event.target for event in events if event.capability.value == "net.connect"]


# -- sqlite3 ----------------------------------------------------------------------------------------------------------


def test_sqlite3_keeps_a_database(supervisor: pyisolate.Supervisor, out: Path) -> None:
    path = out / "kept.db"
    with supervisor.spawn("sqlite3", working_in(Policy.preset("compute"), out)) as sandbox:
        sandbox.exec(
            "import sqlite3\n"
            f"base = sqlite3.connect({str(path)!r})\n"
            "base.execute('pragma journal_mode=wal')\n"
            "base.execute('create table t(n integer primary key, word text)')\n"
            "with base: base.executemany('insert into t(word) values (?)', [(str(n),) for n in range(500)])"
        )
        assert sandbox.eval("base.execute('select count(*), max(word) from t').fetchone()") == (500, "99")
        assert refused(sandbox, "sqlite3.connect('/tmp/other.db').execute('create table t(n)')")[0].startswith("fs.")
        assert not Path("/tmp/other.db").exists()
        with pytest.raises(pyisolate.SandboxError):  # attaching is no event of the interpreter: the kernel refuses it
            sandbox.exec("base.execute(\"attach '/etc/shadow' as s\").execute('select * from s.sqlite_master')")
        sandbox.exec("base.close()")
    with sqlite3.connect(path) as base:
        assert base.execute("select count(*) from t").fetchone() == (500,)
    base.close()


# -- multiprocessing --------------------------------------------------------------------------------------------------

#: POSIX semaphores, which its locks and queues are made of, are files there (sem_overview(7)).
SEMAPHORES = "/dev/shm"
FORKS = Policy.preset("compute").allow_fork().with_limits(processes=12, wall="60s")
POOL = """
import multiprocessing
context = multiprocessing.get_context("fork")
def square(n): return n * n
"""


def test_multiprocessing_with_fork_and_pipes(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("processes", FORKS) as sandbox:
        sandbox.exec(
            POOL + "def work(n, end): end.send(square(n))\n"
            "answers = []\n"
            "for n in range(5):\n"
            "    ours, theirs = context.Pipe()\n"
            "    process = context.Process(target=work, args=(n, theirs))\n"
            "    process.start()\n"
            "    answers.append(ours.recv())\n"
            "    process.join()\n"
            "    assert process.exitcode == 0\n"
        )
        assert sandbox.eval("answers") == [0, 1, 4, 9, 16]
        assert sandbox.eval("__import__('multiprocessing').active_children()") == []


def test_multiprocessing_pools_where_semaphores_are_granted(supervisor: pyisolate.Supervisor) -> None:
    require("shm", os.access(SEMAPHORES, os.W_OK), f"{SEMAPHORES} is not there")
    with supervisor.spawn("pool", working_in(FORKS, Path(SEMAPHORES))) as sandbox:
        sandbox.exec(POOL + "with context.Pool(3) as pool: answers = pool.map(square, range(20), chunksize=3)")
        assert sandbox.eval("answers") == [n * n for n in range(20)]
        sandbox.exec(
            "from concurrent.futures import ProcessPoolExecutor\n"
            "with ProcessPoolExecutor(2, mp_context=context) as pool: answers = sorted(pool.map(square, [1, 2, 3]))"
        )
        assert sandbox.eval("answers") == [1, 4, 9]


def test_multiprocessing_without_fork_is_refused(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("no processes") as sandbox:
        start = POOL + "context.Process(target=square, args=(1,)).start()"
        assert refused(sandbox, start) == ("process.fork", "fork")


def test_multiprocessing_cannot_pass_its_limit(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("too many", FORKS.with_limits(processes=4)) as sandbox:
        with pytest.raises(pyisolate.SandboxError) as caught:
            sandbox.exec(
                POOL + "import time\n"
                "for _ in range(40): context.Process(target=time.sleep, args=(60,)).start()\n"
                "time.sleep(5)"
            )
        assert isinstance(caught.value, pyisolate.ProcessesExceeded) or "temporarily unavailable" in str(caught.value)


# -- what a server would do -------------------------------------------------------------------------------------------


def test_asyncio_sockets_inside_and_out(supervisor: pyisolate.Supervisor) -> None:
    """An asyncio server in a guest, on a port of its grant, that a client of the host talks to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    policy = Policy.preset("compute").allow_bind(f"127.0.0.1:{port}")
    with supervisor.spawn("server", policy) as sandbox:
        served: list[bytes] = []

        def talk() -> None:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                        client.sendall(b"hello\n")
                        served.append(client.makefile("rb").readline())
                        return
                except ConnectionRefusedError:
                    time.sleep(0.02)

        client = threading.Thread(target=talk)
        client.start()
        sandbox.exec(
            "import asyncio\n"
            "async def serve():\n"
            "    done = asyncio.Event()\n"
            "    async def answer(reader, writer):\n"
            "        writer.write((await reader.readline()).upper())\n"
            "        await writer.drain()\n"
            "        writer.close()\n"
            "        done.set()\n"
            f"    async with await asyncio.start_server(answer, '127.0.0.1', {port}):\n"
            "        await asyncio.wait_for(done.wait(), 20)\n"
            "asyncio.run(serve())"
        )
        client.join()
        assert served == [b"HELLO\n"]
        other = f"import socket\nsocket.socket().bind(('127.0.0.1', {port + 1}))"
        assert refused(sandbox, other) == ("net.bind", f"127.0.0.1:{port + 1}")
