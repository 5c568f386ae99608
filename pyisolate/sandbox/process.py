"""Process isolation: a guest in a cell of its own, which is the boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .cell_session import CellSession
from .files import SandboxFiles
from .programs import RunsPrograms
from .request import Work, check_seconds, check_text
from .result import OutputCallback, Result
from .stdin import StdinSource, check_stdin

if TYPE_CHECKING:
    from ..kernel.trace import Tracer


class Sandbox(RunsPrograms[CellSession]):
    """One guest with its policy, in a cell of its own. Made by `spawn`; a context manager that kills on exit.

    Methods may be called from any thread; requests of one sandbox run one after the other.
    """

    @property
    def init_pid(self) -> int:
        """Process id of the cell's init, the guest's parent, as the host sees it. All of the cell is below it."""
        return self._session.init_pid

    @property
    def files(self) -> SandboxFiles:
        """The sandbox's own files: `write`, `read`, `list`, `put`, `get`, `remove`. See docs/workspace.md."""
        return SandboxFiles(self._session.workspace, self.name)

    def run_script(
        self,
        source: str,
        *,
        filename: str,
        argv: tuple[str, ...] = (),
        program: str | None = None,
        stdin: StdinSource | None = None,
        timeout: float | None = None,
        on_stdout: OutputCallback | None = None,
        on_stderr: OutputCallback | None = None,
    ) -> Result:
        """Run a whole script as `__main__` with `sys.argv`; `Result.exit_code` is what it gave to `sys.exit`.

        `argv` follows `program`, by default the file's name, there. `stdin`: see `exec`. Raises what `exec` raises.
        """
        check_seconds("run_script: timeout", timeout)
        arguments = tuple(check_text("run_script: argv", one) for one in (program or filename, *argv))
        work = Work(
            "script",
            source=check_text("run_script: source", source),
            filename=filename,
            argv=arguments,
            stdin=check_stdin("run_script: stdin", stdin),
        )
        return self._session.submit(work, timeout, on_stdout, on_stderr)

    def trace(self) -> Tracer:
        """Count this sandbox's system calls and their latencies while the returned tracer is open; see `report`.

        A context manager, by bcc (Debian's python3-bpfcc). Raises TraceUnavailable where bcc, headers or the
        privilege are missing. First kernel: 4.17 (BPF_RAW_TRACEPOINT_OPEN). Source: bcc's raw tracepoints.
        """
        from ..kernel.trace import Tracer  # loads bcc, which few sandboxes need

        lease = self._session.control.lease
        return Tracer([self.pid], cgroup=lease.v2_path if lease is not None else None)
