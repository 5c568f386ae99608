"""A real Prometheus server, for one test session."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

BINARY = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")

CONFIG = """
global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: pyisolate
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Prometheus:
    """Scrapes `target` and evaluates `rules` until closed."""

    def __init__(self, directory: Path, target: int, rules: Path) -> None:
        assert BINARY is not None
        config = directory / "prometheus.yml"
        config.write_text(CONFIG.format(rules=json.dumps(str(rules)), target=target))
        self.port = free_port()
        self.log = (directory / "log").open("wb")
        self.process = subprocess.Popen(
            [
                BINARY,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=warn",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        self.wait(lambda: self.query("up == 1"), "Prometheus scrapes")

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        return {a["labels"]["alertname"] for a in self.get("alerts")["alerts"] if a["state"] == "firing"}

    def wait(self, condition: Any, what: str, timeout: float = 20) -> Any:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                if found := condition():
                    return found
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"{what}: not within {timeout} s\n{Path(self.log.name).read_text()[-2000:]}")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
