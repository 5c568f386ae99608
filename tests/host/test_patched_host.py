"""Hosts whose standard library is patched, as gevent does it, and those that are no main interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

SPAWN = "import pyisolate\nwith pyisolate.Supervisor(pool_size=0).spawn('b') as s: print(s.eval('1 + 1'))\n"
#: What gevent.monkey says of itself, without gevent.
MONKEY = (
    "import sys, types\nmonkey = sys.modules['gevent.monkey'] = types.ModuleType('gevent.monkey')\n"
    "monkey.is_module_patched = {}.__contains__\n"
)


def host(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)


def test_a_select_without_epoll_is_no_hindrance() -> None:
    done = host("import select; del select.epoll\n" + SPAWN)
    assert done.stdout == "2\n", done.stderr


def test_patched_threads_and_sockets_are_refused_in_words_and_do_not_hang() -> None:
    assert host(MONKEY.format("()") + SPAWN).stdout == "2\n"  # the control: loaded, nothing patched
    refused = host(MONKEY.replace("{}", "{'threading', 'socket'}") + SPAWN)
    assert "SandboxError: start supervisor: gevent has patched threading, socket in this process" in refused.stderr
    assert "patch_all(thread=False, socket=False, select=False" in refused.stderr
    assert "gevent has patched select" in host(MONKEY.replace("{}", "{'select'}") + SPAWN).stderr


@pytest.mark.once
def test_a_sub_interpreter_is_told_that_it_is_one() -> None:
    if sys.version_info >= (3, 13):
        code = f"import _interpreters as those\none = those.create('legacy')\nprint(those.exec(one, {SPAWN!r}))"
    else:
        code = f"import _xxsubinterpreters as those\nthose.run_string(those.create(isolated=False), {SPAWN!r})"
    done = host(code)
    assert "start supervisor: this is a sub-interpreter" in done.stdout + done.stderr, done
