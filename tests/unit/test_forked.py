"""The registry of what a forked child of the host renews."""

from __future__ import annotations

import gc
import os
import weakref

from pyisolate.native import forked


class Thing:
    def __init__(self) -> None:
        self.order: list[str] = []
        forked.renew(self)

    def renew_after_fork(self) -> None:
        self.order.append("object")


def test_objects_are_renewed_in_the_child_alone_and_before_the_calls() -> None:
    thing = Thing()

    def call() -> None:
        thing.order.append("call")

    forked.call_in_child(call)
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if thing.order == ["object", "call"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert thing.order == []
    finally:
        forked._calls.remove(call)


def test_the_registry_keeps_nothing_alive() -> None:
    gone = weakref.ref(Thing())
    gc.collect()
    assert gone() is None
