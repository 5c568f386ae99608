"""The queue of docs/examples, with a real worker of Celery in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.require import require

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"
#: What the worker and its clients are told of a broker that is a directory.
DIRECTORIES = """
from celery_tasks import app, run

app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "polling_interval": 0.05,
}
"""
CLIENT = """
import json, sys
from over_directories import run

jobs = [run.delay(source) for source in json.load(sys.stdin)]
print(json.dumps([job.get(timeout=60, interval=0.02) for job in jobs]))
"""
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
ASKED: list[tuple[str, dict[str, str]]] = [
    ("print('hi')\n6 * 7", {"stdout": "hi\n", "value": "42"}),
    ("open('/etc/passwd')", {"refused": "/etc/passwd", "code": "NOT_GRANTED"}),
    ("import os; os._exit(3)", {"ended": "SandboxDied"}),
    ("1 / 0", {"raised": "ZeroDivisionError", "message": "division by zero"}),
]


def test_jobs_run_in_sandboxes_of_the_workers(tmp_path: Path) -> None:
    require("celery", importlib.util.find_spec("celery") is not None, "pip install celery")
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "over_directories.py").write_text(DIRECTORIES)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{EXAMPLES}:{tmp_path}",
        "BROKER_URL": "filesystem://",
        "RESULT_BACKEND": f"file://{tmp_path}/results",
    }
    options: Any = {"cwd": tmp_path, "env": environment, "text": True}
    command = [sys.executable, "-m", "celery", "-A", "over_directories", "worker", "--concurrency", "1", *QUIET]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=log, **options)
    try:
        asked = json.dumps([source for source, _ in ASKED])
        client = subprocess.run(
            [sys.executable, "-c", CLIENT], input=asked, capture_output=True, timeout=90, check=False, **options
        )
        assert client.returncode == 0, client.stderr + (tmp_path / "log").read_text()
        assert json.loads(client.stdout) == [answer for _, answer in ASKED]
    finally:
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(timeout=30)
    assert status == 0, (tmp_path / "log").read_text()
