"""The helper process that builds root views: who ends it, and where it cannot begin."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - getaddrinfo loads it, where the view may not have it
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyisolate.enforcement import Status
from pyisolate.errors import EnforcementError
from pyisolate.kernel.rootview.view import RootViewBuilder
from pyisolate.native import process
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule
from tests.in_child import NOBODY, in_child
from tests.require import require


@pytest.fixture(scope="module", autouse=True)
def _root_view() -> None:
    builder = RootViewBuilder(NOBODY, NOBODY)
    found = builder.probe()
    builder.close()
    require("root_view", found.usable, found.reason)


def _granting(path: Path) -> CompiledPolicy:
    allow = int(FsRight.READ | FsRight.METADATA)
    return CompiledPolicy(name="test", version="1", fs=(FsRule(path=str(path), allow=allow, text=str(path)),))


def test_the_builder_survives_the_death_of_its_helper_and_ends_with_close(tmp_path: Path):
    uid = os.geteuid()
    builder = RootViewBuilder(uid, os.getegid())
    try:
        builder.prepare(_granting(tmp_path)).close()
        helper = builder._process
        assert helper is not None
        helper.kill()
        helper.wait()
        builder.prepare(_granting(tmp_path)).close()
        second = builder._process
        assert second is not None
        assert second.pid != helper.pid
    finally:
        builder.close()
    assert second.poll() is not None


def test_the_helper_ends_when_the_supervisor_is_killed():
    script = (
        "import os, signal\n"
        "from pyisolate.kernel.rootview.view import RootViewBuilder\n"
        "builder = RootViewBuilder(); assert builder.probe().usable\n"
        "print(builder._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(200):
        if not os.path.exists(f"/proc/{pid}") or Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
            return
        in_child(lambda: None)
    pytest.fail("the helper outlived its supervisor")


def test_without_namespaces_the_probe_says_so_and_preparing_fails():
    def limited() -> list[Any]:
        # In a user namespace of our own, a limit of zero on further ones: nothing outside changes.
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        Path("/proc/sys/user/max_mnt_namespaces").write_text("0")
        builder = RootViewBuilder()
        found = builder.probe()
        text = ""
        try:
            builder.prepare(CompiledPolicy(name="test", version="1")).close()
        except EnforcementError as error:
            text = str(error)
        finally:
            builder.close()
        return [found.status, found.reason, found.remedy, text]

    require("root", os.geteuid() == 0, "these limits belong to root")
    status, reason, remedy, text = in_child(limited, flags=process.CLONE_NEWUSER)
    assert status == Status.UNAVAILABLE
    assert reason.startswith("unshare")
    assert "user.max_user_namespaces" in remedy
    assert text.startswith("build the root view of policy 'test': unshare")
