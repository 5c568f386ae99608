"""Build an environment with the libraries, run their jobs as guests there, and write the table of docs/libraries.md.

`python -m tests.libraries [NAME ...]` runs all, or those named (and writes nothing then). It takes some minutes and a
gigabyte below .cache/libraries, so it is no part of `make test`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import importlib.metadata
import json
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .jobs import JOBS, Job
from .page import PAGE, Row, replace_table

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".cache" / "libraries"


def main() -> int:
    """Return 0 where every library works, 1 where one does not."""
    parser = argparse.ArgumentParser(prog="python -m tests.libraries", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these libraries, and write nothing")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = [job for job in JOBS if not arguments.names or job.library in arguments.names]
    if arguments.inside:
        run_all(chosen)
        return 0
    python = build()
    command = [str(python), "-m", "tests.libraries", "--inside", *arguments.names]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    rows = [Row(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        print(row.library, row.version, "works" if row.works else f"FAILS: {row.error}", row.denials or "")
    if not arguments.names:
        PAGE.write_text(replace_table(PAGE.read_text(), rows))
    return 0 if all(row.works for row in rows) else 1


def build() -> Path:
    """Return the interpreter of an environment that holds the libraries and what this package needs."""
    python = PLACE / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PLACE], check=True)
    (site,) = PLACE.glob("lib/python*/site-packages")
    if not (site / "pyisolate").exists():  # no .pth: its directory would be searched by every guest's import
        (site / "pyisolate").symlink_to(ROOT / "pyisolate")
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    libraries = [job.library for job in JOBS]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *needs, *libraries]).returncode:
        for one in (*needs, *libraries):  # some have no wheel for a new Python: the others are still worth the table
            subprocess.run([*pip, "--only-binary", ":all:", one])
    return python


def run_all(jobs: list[Job]) -> None:
    """Run jobs in sandboxes of this interpreter, and print what came of each as a line of JSON."""
    import pyisolate

    with answering() as port, pyisolate.Supervisor(pool_size=1) as supervisor:
        for job in jobs:
            try:
                version = importlib.metadata.version(job.library)
            except importlib.metadata.PackageNotFoundError:
                continue
            error, denials = run(supervisor, job, port)
            row = Row(job.library, version, job.preset, not error, error, denials)
            print(json.dumps(row.to_dict()), flush=True)


def run(supervisor: Any, job: Job, port: int) -> tuple[str, list[str]]:
    """Return what went wrong with a job, and what it was refused."""
    import pyisolate
    from pyisolate.policy.suggest import apply

    policy = pyisolate.Policy.preset(job.preset)
    if job.grant:
        granted = json.dumps(job.grant).replace("{python}", os.path.realpath(sys.executable))
        policy = apply(policy, json.loads(granted))
    if "{port}" in job.source:
        policy = policy.allow_connect(f"127.0.0.1:{port}")
    with supervisor.spawn(job.library, policy, env=job.env) as sandbox:
        error = ""
        try:
            result = sandbox.exec(job.source.replace("{port}", str(port)))
            if result.value != job.value:
                error = f"gave {result.value!r}"
        except pyisolate.SandboxError as raised:
            error = str(raised)
        events = sandbox.get_denial_events()
    return error, [f"{event.capability} {event.target}" for event in events]


@contextlib.contextmanager
def answering() -> Iterator[int]:
    """Serve a document on loopback; yields the port."""
    directory = PLACE / "served"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "data.json").write_text('{"a": [1, 2]}')
    handler = functools.partial(_Quiet, directory=os.fspath(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: stdout and stderr are the table's."""


if __name__ == "__main__":
    sys.exit(main())
