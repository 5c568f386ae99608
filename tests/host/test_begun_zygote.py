"""A zygote imports while the host proves what the kernel enforces; where that fails, nothing of it is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import ClassVar

import pytest

import pyisolate
from pyisolate.cell import zygote_process
from pyisolate.cell.confine import CellSpec
from pyisolate.kernel.plan import KernelPlan


class _Begun(zygote_process.BegunZygote):
    made: ClassVar[list[zygote_process.BegunZygote]] = []

    def __init__(self, settings: zygote_process.PoolSettings) -> None:
        super().__init__(settings)
        self.made.append(self)


def test_the_zygote_that_was_begun_is_the_one_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyisolate.supervisor.start.BegunZygote", _Begun)
    monkeypatch.setattr(_Begun, "made", [])
    with pyisolate.Supervisor(pool_size=0) as supervisor, supervisor.spawn("begun") as sandbox:
        assert sandbox.eval("1 + 1") == 2
        (begun,) = _Begun.made
        assert begun.process.poll() is None
    assert begun.process.poll() is not None


def test_a_start_that_fails_ends_the_zygote_in_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(plan: KernelPlan) -> None:
        raise OSError(5, "of the test")

    monkeypatch.setattr("pyisolate.supervisor.start.BegunZygote", _Begun)
    monkeypatch.setattr(_Begun, "made", [])
    monkeypatch.setattr(KernelPlan, "start", fails)
    with pytest.raises(pyisolate.SandboxError, match="of the test"), pyisolate.Supervisor(pool_size=0) as supervisor:
        supervisor.start()
    (begun,) = _Begun.made
    assert begun.process.poll() is not None
    assert not os.path.exists(f"/proc/{begun.process.pid}")
    assert capfd.readouterr().err == ""


@pytest.mark.once
def test_one_that_ends_at_its_imports_is_told_with_its_status(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable} -I\nraise SystemExit(7)\n")
    program.chmod(0o700)
    uid, gid = os.getuid(), os.getgid()
    spec = CellSpec(
        uid=uid, gid=gid, zygote_uid=uid, clone_flags=0, seccomp_program=b"", forking_program=b"", dumpable=True
    )
    settings = zygote_process.PoolSettings(0, (), spec, False, {}, python=str(program))
    begun = zygote_process.BegunZygote(settings)
    begun.process.wait(10)  # so what it is to learn cannot be sent any more
    for one in (begun, None):
        with pytest.raises(zygote_process.ZygoteError, match="ended with status 7 before it was warm"):
            zygote_process.ZygoteProcess(settings, one)
