"""`pyisolate policy learn --verify` on ordinary programs: nothing is refused in the next run, the output is the same,
and the policy is short enough to be read."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyisolate import Policy

MOST_RULES = 15
ROWS = "1,b\n4,a\n"

#: name -> (what it needs besides the standard library, the program); {0} is a directory of its own
PROGRAMS: dict[str, tuple[str, str]] = {
    "csv": (
        "",
        """
import csv
with open("{0}/in.csv") as source, open("{0}/out.csv", "w", newline="") as sink:
    csv.writer(sink).writerows([int(a) + 1, b] for a, b in csv.reader(source))
print(open("{0}/out.csv").read())
""",
    ),
    "sqlite": (
        "",
        """
import sqlite3
with sqlite3.connect("{0}/data.db") as database:
    database.execute("create table if not exists t(a)")
    database.execute("delete from t")
    database.executemany("insert into t values (?)", [(1,), (2,)])
    print(database.execute("select sum(a) from t").fetchall())
database.close()
""",
    ),
    "requests": (
        "requests",
        """
import http.server, threading, requests
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")
    def log_message(self, *arguments): pass
server = http.server.HTTPServer(("127.0.0.1", 18473), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(requests.get("http://127.0.0.1:18473/").text)
server.shutdown()
server.server_close()
""",
    ),
    "multiprocessing": (
        "",
        """
import multiprocessing
def work(queue, number): queue.put(number * 2)
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
processes = [context.Process(target=work, args=(queue, n)) for n in range(3)]
for process in processes: process.start()
for process in processes: process.join()
print(sorted(queue.get() for _ in processes))
""",
    ),
    "matplotlib": (
        "matplotlib",
        """
import os
os.environ["HOME"] = "{0}"
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plot
plot.plot([1, 2, 3])
plot.savefig("{0}/plot.png")
print(open("{0}/plot.png", "rb").read(4))
""",
    ),
    "temporary files": (
        "",
        """
import tempfile, pathlib
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "a")
    path.write_text("x")
    print(path.read_text())
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("y"); file.seek(0)
    print(file.read())
""",
    ),
    "zip": (
        "",
        """
import zipfile
with zipfile.ZipFile("{0}/a.zip", "w") as archive: archive.write("{0}/in.csv", "in.csv")
with zipfile.ZipFile("{0}/a.zip") as archive:
    archive.extractall("{0}/unpacked")
    print(archive.namelist(), open("{0}/unpacked/in.csv").read())
""",
    ),
    "logging": (
        "",
        """
import logging, logging.handlers
handler = logging.handlers.RotatingFileHandler("{0}/app.log", maxBytes=200, backupCount=2)
logging.basicConfig(level="INFO", handlers=[handler], format="%(message)s")
for number in range(20): logging.info("line %s of the log", number)
logging.shutdown()
print(open("{0}/app.log").read().splitlines()[-1])
""",
    ),
    "git": (
        "git",
        """
import subprocess
def git(*words):
    done = subprocess.run(["git", "-C", "{0}", "-c", "user.name=n", "-c", "user.email=e", *words],
                          capture_output=True, text=True, env={{"HOME": "{0}", "PATH": "/usr/bin:/bin"}})
    assert done.returncode == 0, done.stderr
    return done.stdout
git("init", "-q")
git("add", "in.csv")
git("commit", "-q", "--allow-empty", "-m", "first")
print(git("log", "-1", "--format=%s"))
""",
    ),
    "socket server": (
        "",
        """
import socketserver, socket, threading
class Echo(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(self.rfile.readline().upper())
with socketserver.ThreadingTCPServer(("127.0.0.1", 18474), Echo, bind_and_activate=False) as server:
    server.allow_reuse_address = True
    server.server_bind(); server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.create_connection(("127.0.0.1", 18474)) as client:
        client.sendall(b"hello\\n")
        print(client.makefile().readline())
    server.shutdown()
""",
    ),
    "asyncio": (
        "",
        """
import asyncio
async def handle(reader, writer):
    writer.write(await reader.readline()); await writer.drain(); writer.close()
async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 18475)
    reader, writer = await asyncio.open_connection("127.0.0.1", 18475)
    writer.write(b"hello\\n")
    print(await reader.readline())
    writer.close(); server.close()
    process = await asyncio.create_subprocess_exec("/bin/echo", "x", stdout=asyncio.subprocess.PIPE)
    print((await process.communicate())[0])
asyncio.run(main())
""",
    ),
    "dataclasses and pickle": (
        "",
        """
import dataclasses, pickle
@dataclasses.dataclass
class Point:
    x: int
    y: int
with open("{0}/point.pickle", "wb") as file: file.write(pickle.dumps(dataclasses.asdict(Point(1, 2))))
print(Point(**pickle.load(open("{0}/point.pickle", "rb"))))
""",
    ),
    "pathlib": (
        "",
        """
import pathlib
root = pathlib.Path("{0}")
(root / "folder" / "below").mkdir(parents=True, exist_ok=True)
(root / "folder" / "below" / "a.txt").write_text("a")
(root / "folder" / "b.txt").write_text("b")
print(sorted(p.relative_to(root).as_posix() for p in (root / "folder").rglob("*.txt")))
print((root / "in.csv").stat().st_size, (root / "absent").exists())
""",
    ),
    "argparse": (
        "",
        """
import argparse, json
parser = argparse.ArgumentParser()
parser.add_argument("--input", type=argparse.FileType())
options = parser.parse_args(["--input", "{0}/in.csv"])
print(json.dumps(options.input.read()))
""",
    ),
    "numpy and pandas": (
        "pandas",
        """
import numpy, pandas
frame = pandas.read_csv("{0}/in.csv", names=["a", "b"])
frame["c"] = numpy.sqrt(frame["a"])
frame.to_csv("{0}/frame.csv")
numpy.save("{0}/array.npy", frame["a"].to_numpy())
print(frame.describe().to_string(), numpy.load("{0}/array.npy"))
""",
    ),
    "scikit-learn": (
        "sklearn",
        """
from sklearn.linear_model import LinearRegression
print(LinearRegression().fit([[0], [1]], [0, 1]).predict([[2]]).round(3))
""",
    ),
    "unix sockets": (
        "",
        """
import os, socket, threading
path = "{0}/socket"
if os.path.exists(path): os.unlink(path)
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen()
def serve():
    connection, _ = server.accept()
    connection.sendall(connection.recv(9)[::-1])
    connection.close()
threading.Thread(target=serve, daemon=True).start()
client = socket.socket(socket.AF_UNIX)
client.connect(path)
client.sendall(b"abc")
print(client.recv(9))
os.unlink(path)
""",
    ),
    "rename": (
        "",
        """
import os, shutil
os.makedirs("{0}/from", exist_ok=True); os.makedirs("{0}/to", exist_ok=True)
open("{0}/from/a", "w").write("a")
os.rename("{0}/from/a", "{0}/to/a")
shutil.copy("{0}/to/a", "{0}/from/b")
shutil.move("{0}/from/b", "{0}/to/b")
os.replace("{0}/to/b", "{0}/to/a")
print(sorted(os.listdir("{0}/to")), sorted(os.listdir("{0}/from")))
""",
    ),
    "optional import": (
        "",
        """
try:
    import yaml as loader
except ImportError:
    loader = None
import decimal, xml.etree.ElementTree as tree
print(decimal.Decimal("0.1") + 1, tree.fromstring("<a><b/></a>")[0].tag)
""",
    ),
    "subprocess": (
        "",
        """
import subprocess
print(subprocess.run("sort {0}/in.csv | head -n 1", shell=True, capture_output=True, text=True).stdout)
print(subprocess.check_output(["ls", "{0}/in.csv"], text=True))
""",
    ),
}


@pytest.fixture
def ground() -> Iterator[Path]:
    """A directory that a guest may write to whatever its uid, with a file."""
    directory = Path(tempfile.mkdtemp(prefix="pyisolate-programs-", dir="/var/tmp")).resolve()
    directory.chmod(0o777)
    (directory / "in.csv").write_text(ROWS)
    (directory / "in.csv").chmod(0o666)
    yield directory
    shutil.rmtree(directory)


def _missing(need: str) -> bool:
    return bool(need) and importlib.util.find_spec(need) is None and shutil.which(need) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_learned_from_a_program_lets_it_do_the_same_again(ground: Path, name: str) -> None:
    need, program = PROGRAMS[name]
    if _missing(need):
        pytest.skip(f"{need} is not installed")
    script, policy = ground / "program.py", ground / "learned.yaml"
    script.write_text(program.format(ground))
    pyisolate = [sys.executable, "-m", "pyisolate.cli.main"]
    learned = _run(*pyisolate, "policy", "learn", "-o", str(policy), "--verify", str(script), cwd=ground)
    if "the peer would see root" in learned.stderr:
        pytest.skip("this kernel lets no guest of a supervisor that is root connect to unix sockets as itself")
    assert learned.returncode == 0, learned.stderr
    # what is left out no grant could give: fontconfig tries to write to /var/cache
    strict = [] if "left out" in learned.stderr else ["--fail-on-denial"]
    again = _run(*pyisolate, "run", "--policy", str(policy), *strict, str(script), cwd=ground)
    for made in ground.iterdir():  # as the first run found it
        if made not in (script, policy):
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    (ground / "in.csv").write_text(ROWS)
    plain = _run(sys.executable, str(script), cwd=ground)
    assert plain.returncode == 0, plain.stderr
    assert (again.returncode, again.stdout) == (0, plain.stdout), again.stderr
    assert learned.stdout == plain.stdout
    base = Policy.preset("compute").rules
    rules = [rule.text for rule in Policy.load(policy).rules if rule not in base]
    assert len(rules) <= MOST_RULES, rules


def _run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd)
