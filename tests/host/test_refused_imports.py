"""A refused import is to a program what an absent module is, and to the host a refusal."""

from __future__ import annotations

import json

import pytest

import pyisolate
from pyisolate import Policy, PolicyError

pytestmark = pytest.mark.usefixtures("kept_supervisor")


OPTIONAL = """
try:
    import click as optional
except {kind} as error:
    optional, told = None, (type(error).__name__, error.name, error.denial_event.capability.value)
(optional, told)
"""


@pytest.mark.parametrize("kind", ["ImportError", "ModuleNotFoundError"])
def test_a_program_does_without_a_module_that_is_refused(supervisor: pyisolate.Supervisor, kind: str) -> None:
    with supervisor.spawn("optional", Policy.preset("compute")) as sandbox:
        value = sandbox.exec(OPTIONAL.format(kind=kind)).value
        assert value == (None, ("RefusedImport", "click", "import.module"))
        (event,) = sandbox.get_denial_events()  # caught, and still an event
        assert (event.capability, event.target) == ("import.module", "click")
    with supervisor.spawn("optional", Policy.preset("compute").allow_import("click")) as sandbox:  # the control
        assert sandbox.exec("import click\nclick.__name__").value == "click"


@pytest.mark.parametrize("denied", [True, False])
def test_a_module_that_is_loaded_again_is_named(supervisor: pyisolate.Supervisor, denied: bool) -> None:
    """The finders see nothing of what is denied, and would make an empty module of it without a word."""
    policy = Policy.preset("compute")
    with supervisor.spawn("again", policy.deny_import("json") if denied else policy) as sandbox:
        source = "import importlib, sys\nhasattr(importlib.reload(sys.modules['json']), 'dumps')"
        if denied:
            with pytest.raises(PolicyError) as raised:
                sandbox.exec(source)
            assert raised.value.denial_event is not None
            assert (raised.value.denial_event.capability, raised.value.denial_event.target) == ("import.module", "json")
            assert [event.code for event in sandbox.get_denial_events()] == ["EXPLICIT_DENY"]
        else:
            assert sandbox.exec(source).value is True
            assert sandbox.get_denial_events() == []


@pytest.mark.parametrize("name", ["click", "msgspec", "no_such_module"])
def test_the_guest_reads_the_rule_that_its_event_suggests(supervisor: pyisolate.Supervisor, name: str) -> None:
    source = f"try:\n    import {name}\nexcept ImportError as error:\n    told = str(error)\ntold"
    with supervisor.spawn("advised", Policy.preset("compute")) as sandbox:
        told = sandbox.exec(source).value
        (event,) = sandbox.get_denial_events()
        kind = "native" if name == "msgspec" else "allow"
        assert event.suggestion == {"import": {kind: [name]}}
        assert json.dumps(event.suggestion) in told
        assert "if it is installed" in told


def test_a_name_that_is_no_modules_is_said_to_be_none(supervisor: pyisolate.Supervisor) -> None:
    with supervisor.spawn("absent", Policy.preset("compute")) as sandbox:
        for name, absent in (("jsno", True), ("click", False)):
            with pytest.raises(PolicyError) as raised:
                sandbox.exec(f"import {name}")
            assert (f"look at the name: {name} is not installed" in str(raised.value)) is absent
            assert f'add to the policy: {{"import": {{"allow": ["{name}"]}}}}' in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "import click",
        "try:\n    import click\nexcept ImportError as error:\n    raise ImportError('it takes click') from error",
    ],
)
def test_uncaught_it_is_a_policy_error_of_the_host(supervisor: pyisolate.Supervisor, source: str) -> None:
    with supervisor.spawn("optional", Policy.preset("compute")) as sandbox:
        with pytest.raises(PolicyError) as raised:
            sandbox.exec(source)
        assert raised.value.denial_event is not None
        assert raised.value.denial_event.target == "click"


def test_an_import_error_of_another_cause_is_the_guests_own(supervisor: pyisolate.Supervisor) -> None:
    source = "try:\n    import click\nexcept ImportError:\n    pass\nraise ImportError('my own')"
    with supervisor.spawn("optional", Policy.preset("compute")) as sandbox, pytest.raises(pyisolate.GuestError):
        sandbox.exec(source)


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_a_guest_error_has_what_the_guest_was_refused_before(supervisor: pyisolate.Supervisor, isolation: str) -> None:
    source = "try:\n    open('/etc/shadow')\nexcept OSError:\n    pass\nraise ValueError('no data')"
    options = {"enforcement": "best_effort"} if isolation == "thread" else {}
    with supervisor.spawn("explained", "compute", isolation=isolation, **options) as sandbox:
        with pytest.raises(pyisolate.GuestError, match="no data") as raised:
            sandbox.exec(source)
        assert [(event.capability, event.target) for event in raised.value.denials] == [("fs.read", "/etc/shadow")]
        with pytest.raises(pyisolate.GuestError) as raised:  # the control: the next request was refused nothing
            sandbox.exec("raise ValueError")
        assert raised.value.denials == ()


@pytest.mark.parametrize("name", ["importlib.import_module", "builtins.__import__", "importlib.__import__"])
def test_a_call_by_the_host_is_asked_about_as_the_guests(supervisor: pyisolate.Supervisor, name: str) -> None:
    with supervisor.spawn("called", Policy.preset("compute").allow_import("click")) as sandbox:
        assert "click" in repr(sandbox.call(name, "click"))
        assert sandbox.stats.denials == 0
        with pytest.raises(PolicyError):
            sandbox.call(name, "pip")
        (event,) = sandbox.get_denial_events()
        assert (event.capability, event.target, event.origin) == ("import.module", "pip", None)


def test_a_thread_may_begin_with_an_import(supervisor: pyisolate.Supervisor) -> None:
    source = """
import _thread, importlib, sys, time
class Name(str): pass  # no plain text either
raised, ends = [], time.monotonic() + 5
sys.unraisablehook = lambda args: raised.append(type(args.exc_value).__name__)
for name in ("click", "pip"):
    _thread.start_new_thread(importlib.import_module, (Name(name),))
while not raised and time.monotonic() < ends: time.sleep(0.001)
raised
"""
    with supervisor.spawn("thread", Policy.preset("compute").allow_import("click")) as sandbox:
        assert sandbox.exec(source).value == ["RefusedImport"]
        assert [event.target for event in sandbox.get_denial_events()] == ["pip"]


OF_ITS_OWN = """
import sys, types
from importlib.machinery import ModuleSpec
from unittest import mock
class Own:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=name == "virt") if name in ("virt", "virt.sub", "curses") else None
    def create_module(self, spec): return None
    def exec_module(self, module): module.value = 5
sys.meta_path.insert(0, Own())
"""


def test_a_module_of_the_guests_own_needs_no_rule_whatever_its_name(supervisor: pyisolate.Supervisor) -> None:
    own = {
        "sys.modules['click'] = mock.MagicMock()\nimport click\nfrom click import command": True,
        "with mock.patch.dict(sys.modules, {'click': mock.Mock()}):\n    import click": True,
        "import virt.sub, curses\nvirt.sub.value + curses.value": True,
        # what follows loads a file of the host's
        "import virt\nvirt.__path__ = list(sys.path)\nimport virt.json": "virt.json",
        "sys.modules['click.x'] = types.ModuleType('click.x')\nimport click.x": "click",
        "import click": "click",
    }
    policy = pyisolate.Policy.preset("compute").allow_import("unittest")
    for source, expected in own.items():
        with supervisor.spawn("own", policy) as sandbox:
            if expected is True:
                sandbox.exec(OF_ITS_OWN + source)
            else:
                with pytest.raises(pyisolate.PolicyError):
                    sandbox.exec(OF_ITS_OWN + source)
            denied = [(event.capability, event.target) for event in sandbox.get_denial_events()]
            assert denied == ([] if expected is True else [("import.module", expected)]), source


def test_a_module_that_the_cell_needs_and_no_rule_grants_is_not_found(supervisor: pyisolate.Supervisor) -> None:
    """Its spec would tell where it lies on the host. It tells nothing else: no event."""
    source = "import importlib.util\npost([importlib.util.find_spec(name) is not None for name in ('msgspec', 'json')])"
    with supervisor.spawn("unseen", pyisolate.Policy.preset("compute")) as sandbox:
        sandbox.exec(source)
        assert sandbox.recv(timeout=30) == [False, True]  # the second is the control
        assert sandbox.get_denial_events() == []
    with supervisor.spawn("seen", pyisolate.Policy.preset("compute").allow_native("msgspec")) as sandbox:
        sandbox.exec(source)
        assert sandbox.recv(timeout=30) == [True, True]
