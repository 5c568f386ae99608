"""Monitor, learn, enforce: a pandas job that reads a file and asks a web server, and the policy that it needs.

Runs the job in monitor mode, learns a policy from what it did, enforces that without a denial, and then takes away
one learned rule after the other: each time something is refused. Usage: learn_and_enforce.py
"""

from __future__ import annotations

import http.server
import os
import tempfile
import threading
from pathlib import Path

import msgspec

from pyisolate import Policy, SandboxError, Supervisor
from pyisolate.policy.learn import learn, learn_yaml

JOB = """
import json, urllib.request
import pandas

table = pandas.read_csv({data!r})
with urllib.request.urlopen({url!r}, timeout=10) as answer:
    factor = json.load(answer)["factor"]
print((table.groupby("species")["body_mass_g"].mean() * factor).round(3).to_dict())
"""


class Rates(http.server.BaseHTTPRequestHandler):
    """A web server on loopback that the job asks for a number."""

    def do_GET(self) -> None:
        """Answer with the factor from grams to kilograms."""
        body = b'{"factor": 0.001}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def run(supervisor: Supervisor, policy: Policy, job: str) -> tuple[str, list]:
    """Run the job under a policy; return how it ended and what was, or would have been, refused."""
    with supervisor.spawn("job", policy) as sandbox:
        try:
            ended = sandbox.exec(job, timeout=60).stdout.strip()
        except SandboxError as error:
            ended = f"{type(error).__name__}: {error}".splitlines()[0]
        return ended, sandbox.get_denial_events()


def removals(policy: Policy, base: Policy) -> list[tuple[str, Policy]]:
    """Return the policy without each of the rules that were learned."""
    found = []
    for field in ("files", "network", "processes", "imports"):
        rules = getattr(policy, field)
        for rule in rules:
            if rule not in getattr(base, field):
                rest = tuple(other for other in rules if other is not rule)
                found.append((rule.text, msgspec.structs.replace(policy, **{field: rest})))
    return found


def main() -> int:
    """Run the four steps; return 1 if enforcing refused something, or a removed rule was not missed."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rates)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    failures = 0
    # Full telemetry records what native code opens in monitor mode as well.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, Supervisor(telemetry="full") as supervisor:
        os.chmod(directory, 0o755)  # guests of a root supervisor are another user
        data = Path(directory, "penguins.csv")
        data.write_bytes((Path(__file__).parent / "penguins.csv").read_bytes())
        job = JOB.format(data=str(data), url=f"http://127.0.0.1:{server.server_address[1]}/")
        base = Policy.preset("compute").with_name("learned").with_limits(memory="1GiB", cpu="60s", processes=64)

        ended, events = run(supervisor, base.with_mode("monitor"), job)
        print(f"monitor: {ended}\n         {sum(event.count for event in events)} operations would be refused\n")

        policy = learn(events, base=base)
        print(learn_yaml(events, base=base))

        ended, events = run(supervisor, policy, job)
        print(f"enforce: {ended}\n         {len(events)} denials\n")
        failures += bool(events)

        for text, less in removals(policy, base):
            ended, events = run(supervisor, less, job)
            print(f"without {text}\n         {len(events)} denials: {events[0] if events else 'NONE'}")
            failures += not events
    server.shutdown()
    server.server_close()
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
