"""A template's sandboxes are prepared ahead, each by itself, and its errors are the caller's."""

from __future__ import annotations

import pytest

import pyisolate
from pyisolate import Policy, Template
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("kept_supervisor")


def test_a_sandbox_waits_with_its_setup_done_and_another_follows(supervisor: pyisolate.Supervisor) -> None:
    with Template("compute", "import json\ntable = {'a': 1}", supervisor=supervisor) as template:
        until(lambda: template.waiting == 1)
        with template.spawn() as one:
            assert one.name == "template-1"
            one.exec("table['a'] += 1")
            with template.spawn() as two:
                assert (one.eval("table"), two.eval("table")) == ({"a": 2}, {"a": 1})
    assert not supervisor.sandboxes
    with pytest.raises(pyisolate.SandboxClosed):
        template.spawn()


def test_setup_may_be_a_function_and_runs_under_the_policy(supervisor: pyisolate.Supervisor) -> None:
    def prepare() -> None:
        import builtins

        with open("/etc/hostname") as file:
            builtins.name = file.read()  # type: ignore[attr-defined]

    granted = Policy.preset("compute").allow_read("/etc/hostname")
    with Template(granted, prepare, ready=0, supervisor=supervisor) as template, template.spawn() as sandbox:
        assert sandbox.eval("len(name)")  # the control
    with Template("compute", prepare, supervisor=supervisor) as template:
        for _ in range(2):
            with pytest.raises(pyisolate.PolicyError) as refused:
                template.spawn()
            assert refused.value.denial_event is not None
            assert refused.value.denial_event.target == "/etc/hostname"
    assert not supervisor.sandboxes


def test_one_that_ended_while_it_waited_is_replaced(supervisor: pyisolate.Supervisor) -> None:
    with Template("compute", "ready = True", supervisor=supervisor) as template:
        until(lambda: template.waiting == 1)
        with template.spawn() as sandbox:
            assert sandbox.eval("ready")
        until(lambda: template.waiting == 1)
        (waits,) = supervisor.sandboxes
        waits.kill()
        assert waits.closed
        with template.spawn() as another:
            assert another.eval("ready")


def test_events_are_of_the_actor_that_asked(supervisor: pyisolate.Supervisor) -> None:
    with Template("compute", supervisor=supervisor) as template:
        with pyisolate.acting_as("user", "alice"), template.spawn() as alices:
            with pytest.raises(pyisolate.PolicyError):
                alices.exec("open('/etc/passwd')")
            assert [event.actor and event.actor.id for event in alices.get_denial_events()] == ["alice"]
        with template.spawn() as nobodys:
            with pytest.raises(pyisolate.PolicyError):
                nobodys.exec("open('/etc/passwd')")
            assert [event.actor for event in nobodys.get_denial_events()] == [None]
