"""What lies in docs/deploy is what runs: pods in a real container runtime, the unit under systemd's own eyes, the
scrape configuration under promtool's.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients import oci
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "docs/deploy"
PROFILE = json.loads((DEPLOY / "seccomp.json").read_text())
#: clone(2) without any namespace flag, as container runtimes allow it.
PLAIN_CLONE = {
    "names": ["clone"],
    "action": "SCMP_ACT_ALLOW",
    "args": [{"index": 0, "value": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}],
}


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def context_of(pod: str) -> dict[str, Any]:
    (found,) = (one for one in documents() if one["kind"] == "Pod" and one["metadata"]["name"] == pod)
    (container,) = found["spec"]["containers"]
    return dict(container["securityContext"])


def runtime_default() -> dict[str, Any]:
    """The profile without what was added for pyisolate: what a pod gets that asks for RuntimeDefault."""
    profile = copy.deepcopy(PROFILE)
    profile["syscalls"][-1] = PLAIN_CLONE
    return dict(profile)


def doctor(context: dict[str, Any], profile: dict[str, Any] | None) -> tuple[bool, dict[str, dict[str, Any]]]:
    """Return doctor's verdict in such a container, and its findings by name."""
    require("crun", shutil.which("crun") is not None, "apt-get install crun")
    require("root", os.geteuid() == 0, "a container that is privileged needs root")
    done = oci.run(context, profile, sys.executable, "-m", "pyisolate.cli.main", "doctor", "--json")
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    document = json.loads(done.stdout)
    return document["ok"], {finding["name"]: finding for finding in document["findings"]}


def test_the_users_pod_gets_strict_sandboxes() -> None:
    context = context_of("user")
    assert context["seccompProfile"] == {"type": "Localhost", "localhostProfile": "pyisolate.json"}
    works, findings = doctor(context, PROFILE)
    assert works, [one for one in findings.values() if one["status"] == "missing"]
    assert findings["bpf"]["status"] == "weaker"
    assert findings["outer seccomp filter"]["status"] == "info"


def test_the_same_pod_under_the_runtimes_default_profile_is_refused_and_says_why() -> None:
    works, findings = doctor(context_of("user"), runtime_default())
    assert not works
    assert findings["namespaces"]["status"] == "missing"
    assert "seccomp profile" in findings["namespaces"]["remedy"]


def test_a_pod_without_a_security_context_is_no_place_for_strict_sandboxes() -> None:
    works, findings = doctor({}, None)
    assert not works
    assert findings["strict sandbox"]["status"] == "ok"
    assert findings["sandbox: connect"]["status"] == "missing"


def test_the_root_pod_has_bpf_programs_and_no_control_groups() -> None:
    works, findings = doctor(context_of("root"), None)
    assert works, [one for one in findings.values() if one["status"] == "missing"]
    assert findings["bpf"]["status"] == "ok"
    assert findings["cgroup-bpf"]["status"] == "weaker"
    assert "not writable" in findings["cgroup"]["text"] + findings["cgroup-bpf"]["text"]


@pytest.mark.parametrize("capability", ["SYS_ADMIN", "SYS_PTRACE", "SYS_CHROOT", "SETUID", "SETGID"])
def test_the_root_pod_cannot_do_without(capability: str) -> None:
    context = context_of("root")
    context["capabilities"]["add"].remove(capability)
    works, _ = doctor(context, None)
    assert not works


def test_the_privileged_pod_has_control_groups() -> None:
    works, findings = doctor(context_of("privileged"), None)
    assert works, [one for one in findings.values() if one["status"] == "missing"]
    assert findings["cgroup-bpf"]["status"] == "ok"


def test_the_manifest_is_what_the_cluster_expects() -> None:
    have = importlib.util.find_spec("kubernetes_validate") is not None
    require("kubernetes-validate", have, "pip install kubernetes-validate")
    import kubernetes_validate

    for one in documents():
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    wrong = documents()[1]
    wrong["spec"]["containers"][0]["securityContext"]["runAsNonroot"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_users_pod_keeps_the_restricted_standard() -> None:
    context = context_of("user")
    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    require("systemd", shutil.which("systemd-analyze") is not None, "apt-get install systemd")
    text = (DEPLOY / "pyisolate.service").read_text()
    assert re.search(r"^Delegate=memory pids$", text, re.MULTILINE)
    unit = tmp_path / "pyisolate.service"
    unit.write_text(text.replace("/opt/app/bin/python", "/bin/true"))
    assert analyze(unit) == ""
    unit.write_text(text.replace("Delegate=memory pids", "Delegate=memory\nDelegateSubgruop=x"))
    assert "DelegateSubgruop" in analyze(unit)


def analyze(unit: Path) -> str:
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if unit.name in line)


def test_promtool_accepts_the_scrape_configuration() -> None:
    from tests.prometheus_server import PROMTOOL

    require("prometheus", PROMTOOL is not None, "apt-get install prometheus")
    done = subprocess.run(
        [str(PROMTOOL), "check", "config", str(DEPLOY / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_grafana_is_given_the_dashboard_that_there_is() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/datasources.yaml").read_text())
    boards = yaml.safe_load((DEPLOY / "grafana/dashboards.yaml").read_text())
    dashboard = json.loads((ROOT / "docs/monitoring/dashboard.json").read_text())
    (choice,) = (one for one in dashboard["templating"]["list"] if one["name"] == "datasource")
    assert choice["query"] == sources["datasources"][0]["type"]  # chosen by type: no import dialogue fills it in
    assert boards["providers"][0]["type"] == "file"


def test_the_image_recipe_names_packages_and_files_that_there_are() -> None:
    require("apt", shutil.which("apt-get") is not None, "this is no Debian")
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    stages = re.findall(r"apt-get install -y --no-install-recommends ([\w. +-]+?)(?: &&|\n)", text)
    assert len(stages) == 2
    for packages in stages:
        command = ["apt-get", "install", "--simulate", "--quiet", *packages.split()]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0, packages
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)  # a number, and not 0
    assert "USER 0" not in text
    left_out = set((ROOT / ".dockerignore").read_text().splitlines())
    assert {"build", ".venv*", "**/*.so", "pyisolate/kernel/bpf/objects"} <= left_out  # what was built elsewhere
