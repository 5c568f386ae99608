"""No preset but `data` grants foreign functions: not by name, not through a module that imports them, not as a file."""

from __future__ import annotations

import sys

import pytest

import pyisolate
from pyisolate import Policy, PolicyError
from pyisolate.policy import suggest
from tests.foreign_functions import with_ctypes

pytestmark = pytest.mark.usefixtures("kept_supervisor")

CALL = "import ctypes; ctypes.CDLL(None).getpid() > 0"
WAYS = {
    "import ctypes": "import.module ctypes",
    "import _ctypes": "import.module _ctypes",
    "import multiprocessing.sharedctypes": "import.native _ctypes",
}


@pytest.mark.once
@pytest.mark.parametrize("preset", ["compute", "readonly", "shell"])
def test_a_preset_grants_none(supervisor: pyisolate.Supervisor, preset: str) -> None:
    with supervisor.spawn("plain", Policy.preset(preset)) as sandbox:
        assert sandbox.exec("import json, uuid, platform, multiprocessing.shared_memory; 1").value == 1
        with pytest.raises(PolicyError) as refused:
            sandbox.exec(CALL)
        assert refused.value.denial_event is not None
        assert refused.value.denial_event.suggestion == {"import": {"allow": ["ctypes"]}}
        assert [event.target for event in sandbox.get_denial_events()] == ["ctypes"]
    with supervisor.spawn("data", Policy.preset("data")) as sandbox:
        assert sandbox.exec(CALL).value is True


@pytest.mark.parametrize("source", WAYS)
def test_each_way_is_one_event_that_says_what_opens_it(supervisor: pyisolate.Supervisor, source: str) -> None:
    plain = Policy.preset("compute")
    with supervisor.spawn("plain", plain) as sandbox:
        with pytest.raises(PolicyError):
            sandbox.exec(source)
        (event,) = sandbox.get_denial_events()
        assert f"{event.capability} {event.target}" == WAYS[source]
        # as a library tries what it can do without
        assert sandbox.exec(f"try:\n    {source}\n    done = 1\nexcept ImportError:\n    done = 2\ndone").value == 2
    assert event.suggestion is not None
    with supervisor.spawn("suggested", suggest.apply(plain, event.suggestion)) as sandbox:
        sandbox.exec(source)
        with pytest.raises(PolicyError):  # and nothing else
            sandbox.exec("import _testcapi")


def test_the_kernel_withholds_the_file(supervisor: pyisolate.Supervisor) -> None:
    command = [sys.executable, "-c", "import ctypes"]
    source = f"import subprocess; subprocess.run({command!r}, capture_output=True).returncode"
    with supervisor.spawn("plain", Policy.preset("shell")) as sandbox:
        assert sandbox.exec(source).value != 0
        (event,) = (one for one in sandbox.get_denial_events() if "_ctypes" in one.target)
        assert event.kernel_decision == "deny"
    assert event.suggestion == {"import": {"native": [event.target]}}  # to be read alone would not load it
    for policy in (with_ctypes(Policy.preset("shell")), suggest.apply(Policy.preset("shell"), event.suggestion)):
        with supervisor.spawn("granted", policy) as sandbox:
            assert sandbox.exec(source).value == 0
            assert not [one for one in sandbox.get_denial_events() if "_ctypes" in one.target]
