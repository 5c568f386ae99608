"""Monitor mode and imports: what enforcing would have ended at the statement is one event there, too."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

import pyisolate
from pyisolate import Policy
from tests.foreign_functions import with_ctypes
from tests.require import require

_BASE = Policy.preset("compute").with_mode("monitor")
#: how it is imported -> policy, source, module
IMPORTS: dict[str, tuple[Policy, str, str]] = {
    "a package of somebody's": (_BASE, "import cffi", "cffi"),
    "from it": (_BASE, "from cffi import FFI", "cffi"),
    "by name": (_BASE, "__import__('importlib').import_module('cffi')", "cffi"),
    "one of the standard library": (_BASE.deny_import("json"), "import json", "json"),
    "again": (_BASE.deny_import("json"), "import importlib, sys\njson = importlib.import_module('json')", "json"),
    "below a package that is denied": (_BASE.deny_import("xml.dom"), "import xml.dom", "xml.dom"),
}


@pytest.fixture
def supervisor(supervisor: pyisolate.Supervisor) -> pyisolate.Supervisor:
    require("seccomp", supervisor.diagnostics().listener, "no listener sees what importlib reads")
    return supervisor


@pytest.mark.parametrize("how", IMPORTS)
def test_an_import_is_one_event_and_no_native_code_is_accused(supervisor: pyisolate.Supervisor, how: str) -> None:
    policy, source, module = IMPORTS[how]
    with supervisor.spawn("imports", policy) as sandbox:
        sandbox.exec(source)
        told = [(e.capability.value, e.target, e.count) for e in sandbox.get_denial_events()]
        assert told == [("import.module", module, 1)]


@pytest.mark.parametrize("module", ["_ctypes", "ctypes"])
def test_a_native_module_is_its_import_and_its_loading(supervisor: pyisolate.Supervisor, module: str) -> None:
    """Its file is read by the loader, on the interpreter's behalf. A rule for ctypes alone would not load _ctypes."""
    with supervisor.spawn("imports", _BASE) as sandbox:
        sandbox.exec(f"import {module}")
        told = [(e.capability.value, e.target) for e in sandbox.get_denial_events()]
        assert told == [("import.module", module), ("import.native", "_ctypes")]


#: what reads a module's file and is no import of it -> source, before PATH is opened
READS: dict[str, Callable[[str], str]] = {
    "native code": lambda path: f"assert libc.open({path!r}.encode(), 0) >= 0",
    "native code after the import": lambda path: f"import json\nassert libc.open({path!r}.encode(), 0) >= 0",
    "the guest": lambda path: f"open({path!r}, 'rb').read()",
    "the guest after the import": lambda path: f"import json\nopen({path!r}, 'rb').read()",
    "the loader, asked by the guest": lambda path: f"import json\njson.__loader__.get_data({path!r})",
}


@pytest.mark.parametrize("who", READS)
def test_who_reads_the_files_of_a_denied_module_otherwise_is_told(supervisor: pyisolate.Supervisor, who: str) -> None:
    """The control: the same file, read by anybody but the import, is an event of its own."""
    path = str(json.__spec__.cached)
    with supervisor.spawn("reads", with_ctypes(_BASE.deny_import("json"))) as sandbox:
        sandbox.exec("import ctypes\nlibc = ctypes.CDLL(None)")
        sandbox.exec(READS[who](path))
        told = {e.capability.value: e for e in sandbox.get_denial_events()}
        assert (told["fs.read"].target, told["fs.read"].count) == (path, 1)
        assert (told["fs.read"].broker_decision.value == "not_consulted") == who.startswith("native")
