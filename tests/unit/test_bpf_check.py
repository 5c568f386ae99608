"""Whether this kernel takes LSM programs is asked once for each load, and before anything is made for it."""

from __future__ import annotations

import pytest

from pyisolate.enforcement import Status
from pyisolate.kernel.bpf import lsm
from pyisolate.kernel.bpf.loader import BpfLoader, BpfUnavailable
from pyisolate.kernel.bpf.runtime import BpfShared


class _Loads(BpfShared):
    """What is made for the programs, so far as it is needed here."""

    def __init__(self, loader: BpfLoader) -> None:
        self.loader, self.closed = loader, False

    def close(self) -> None:
        self.closed = True


def test_a_kernel_that_takes_none_is_asked_once_and_nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuses() -> None:
        asked.append("asked")
        raise BpfUnavailable("bpf_lsm", "none", hint="another kernel")

    monkeypatch.setattr(lsm, "check_lsm", refuses)
    monkeypatch.setattr(BpfShared, "start", lambda *_: pytest.fail("made for programs that cannot be loaded"))
    assert lsm.BpfLsmEnforcer().probe().status is Status.UNAVAILABLE
    assert asked == ["asked"]


def test_a_kernel_that_takes_them_is_asked_once_before_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    shared = _Loads(BpfLoader())
    monkeypatch.setattr(lsm, "check_lsm", lambda: seen.append("asked"))
    monkeypatch.setattr(BpfShared, "start", lambda *_: seen.append("made") or shared)
    monkeypatch.setattr(BpfLoader, "load", lambda *_, **__: seen.append("loaded") or pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception, match="far enough"):
        lsm.BpfLsmEnforcer().start(lambda record: None)
    assert seen == ["asked", "made", "loaded"]
    assert shared.closed
