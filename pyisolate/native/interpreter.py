"""A fresh interpreter for a part of the supervisor: nothing of the host's memory, threads or directory comes along."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence


def start(
    arguments: Sequence[str],
    descriptors: Sequence[int],
    environment: Mapping[str, str],
    *,
    silent: bool = False,
    program: str = sys.executable,
) -> subprocess.Popen[bytes]:
    """Start an interpreter, isolated (-I), with `arguments`; it inherits `descriptors`, and stderr alone besides.

    Its session is its own, so that no Ctrl-C of the host's terminal reaches it. `program`: this one, or one of an
    environment. `silent`: its stdout is no one's. -B: a guest is refused no bytecode that an import would write beside
    its source. Raises OSError.
    """
    return subprocess.Popen(
        [program, "-I", "-B", *arguments],
        pass_fds=descriptors,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if silent else None,
        start_new_session=True,
    )
