"""A Jupyter kernel whose cells run in a sandbox (the extra `jupyter`): `pyisolate kernel install`.

One kernel has one sandbox, which keeps variables and files from cell to cell. Whatever looks at the guest's objects
(completion, inspection) runs in the sandbox too, and what it displays reaches the page in inert forms.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

from ..cell.values import text_of
from ..distribution import VERSION
from ..errors import GuestError, SandboxError
from ..policy import Policy
from ..sandbox.process import Sandbox
from ..sandbox.result import Result
from ..sandbox.rich import RichOutput
from ..supervisor.supervisor import Supervisor
from . import jupyter_guest, jupyter_shown
from .kept_sandbox import with_files

#: Seconds for a question about the guest's objects; the guest is interrupted then.
_QUESTION_TIMEOUT_S = 5.0
_INPUT_POLL_MS = 50


class SandboxKernel(Kernel):  # type: ignore[misc]
    """A kernel on ipykernel's own base class. `policy` is set by `serve` before the kernel starts."""

    implementation = "pyisolate"
    implementation_version = VERSION
    language = "python"
    banner = f"pyisolate {VERSION}: cells run in a sandbox"
    policy = Policy.preset("compute")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.language_info = {
            "name": "python",
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "python3",
        }
        self._supervisor: Supervisor | None = None
        self._sandbox: Sandbox | None = None
        self._over = False
        self._lock = threading.Lock()  # of the three above
        self._cell: _Cell | None = None

    def start(self) -> None:
        """Serve the channels, and make the first sandbox: cells come to it later."""
        super().start()
        self.io_loop.add_callback(self._make_ahead)

    # -- the protocol ---------------------------------------------------------------------------------------

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        **_of_the_cell: Any,
    ) -> dict[str, Any]:
        """Run a cell, and say on IOPub what it wrote, showed and was refused."""
        cell = _Cell(self, silent=silent, allow_stdin=allow_stdin)
        self._cell = cell
        try:
            failed = await asyncio.to_thread(cell.run, code)
            expressions = {} if failed else await asyncio.to_thread(cell.evaluate, user_expressions or {})
        finally:
            self._cell = None
            cell.over.set()
        if failed:
            return {"status": "error", "execution_count": self.execution_count, **failed}
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": expressions,
        }

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Ask in the sandbox which names fit."""
        found = await self._ask(jupyter_guest.complete, code, cursor_pos)
        matches, start = _of(found, "matches", list), _of(found, "start", int)
        return {
            "status": "ok",
            "matches": [jupyter_shown.plain(name) for name in matches or () if isinstance(name, str)],
            "cursor_start": cursor_pos if start is None else max(0, min(start, cursor_pos)),
            "cursor_end": cursor_pos,
            "metadata": {},
        }

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()
    ) -> dict[str, Any]:
        """Ask in the sandbox what a name stands for."""
        text = await self._ask(jupyter_guest.describe, code, cursor_pos, detail_level)
        data = {"text/plain": jupyter_shown.plain(text)} if isinstance(text, str) else {}
        return {"status": "ok", "found": bool(data), "data": data, "metadata": {}}

    async def do_is_complete(self, code: str) -> dict[str, str]:
        """Ask in the sandbox whether code can run as it is: its compiler reads text of anyone's."""
        found = await self._ask(jupyter_guest.is_complete, code)
        status, indent = _of(found, "status", str), _of(found, "indent", str)
        if status not in ("complete", "incomplete", "invalid"):
            return {"status": "unknown"}
        return {"status": status} | ({} if indent is None else {"indent": indent})

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the sandbox."""
        await asyncio.to_thread(self.close)
        return {"status": "ok", "restart": restart}

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Raise KeyboardInterrupt in the guest; its state stays. Runs on the thread of the control channel."""
        self.interrupt_guest()
        self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    def pre_handler_hook(self) -> None:
        """Let SIGINT, which some front ends send, do what their message would."""
        self.saved_sigint_handler = signal.signal(signal.SIGINT, lambda *_: self.interrupt_guest())

    # -- the sandbox ----------------------------------------------------------------------------------------

    def living(self) -> Sandbox:
        """Return the kernel's sandbox; another one where it has ended. Raises SandboxError, OSError."""
        with self._lock:
            if self._over:
                raise SandboxError(operation="cell", cause="the kernel was shut down")
            if self._sandbox is None or self._sandbox.closed:
                if self._sandbox is not None:  # until it is closed the supervisor holds its files
                    self._sandbox.close()
                if self._supervisor is None:
                    self._supervisor = Supervisor(pool_size=1)
                sandbox = self._supervisor.spawn("notebook", with_files(self.policy))
                sandbox.function(name="_pyisolate_input", timeout=None, concurrency=1)(self._input)
                sandbox.call(jupyter_guest.ask_for_input)
                self._sandbox = sandbox
            return self._sandbox

    async def _make_ahead(self) -> None:
        try:
            await asyncio.to_thread(self.living)
        except (SandboxError, OSError) as error:  # the first cell meets it again, and says so
            self.log.warning("no sandbox: %s", error)

    def interrupt_guest(self) -> None:
        """Interrupt what runs; nothing where nothing does."""
        cell, sandbox = self._cell, self._sandbox
        if cell is None:
            return
        cell.over.set()  # ends a wait for a line of input
        if sandbox is not None:
            try:
                sandbox.interrupt()
            except SandboxError as error:  # it ended at that moment
                self.log.debug("interrupt: %s", error)

    def close(self) -> None:
        """End the sandbox with its supervisor. Safe to call twice."""
        with self._lock:
            self._over = True
            supervisor, self._supervisor = self._supervisor, None
            if supervisor is not None:
                supervisor.close()

    async def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function of `jupyter_guest` says in the sandbox, None where it fails."""

        def ask() -> Any:
            return self.living().call(function, *arguments, timeout=_QUESTION_TIMEOUT_S)

        try:
            return await asyncio.to_thread(ask)
        except (SandboxError, OSError) as error:
            self.log.debug("%s: %s", function.__name__, error)
            return None

    def _input(self, prompt: str) -> str | None:
        """Called by the guest, on a thread of the host's for such calls."""
        cell = self._cell
        return None if cell is None else cell.read_line(prompt)


class _Cell:
    """One execution: who asked for it, and what goes back to them."""

    def __init__(self, kernel: SandboxKernel, *, silent: bool, allow_stdin: bool) -> None:
        self._kernel, self._silent, self._allow_stdin = kernel, silent, allow_stdin
        self._parent = kernel.get_parent("shell")
        self._ident = kernel._parent_ident["shell"]  # noqa: SLF001  where ipykernel keeps it for its subclasses
        self._number = kernel.execution_count
        #: it was interrupted, or has ended: no line of input is waited for any more
        self.over = threading.Event()

    def run(self, code: str) -> dict[str, Any] | None:
        """Run it; return None, or what an error reply says."""
        sandbox: Sandbox | None = None
        try:
            sandbox = self._kernel.living()
            result = sandbox.exec(
                code,
                filename=f"<cell {self._number}>",
                on_stdout=self._writer("stdout"),
                on_stderr=self._writer("stderr"),
            )
        except (SandboxError, OSError) as error:
            self._show(getattr(error, "outputs", ()))
            self._show_denials(getattr(error, "denials", ()))
            return self._fail(error, ended=sandbox is not None and sandbox.closed)
        self._show(result.outputs)
        self._show_value(result)
        self._show_denials(result.denials)
        if result.exit_code is not None:
            return self._fail(GuestError("SystemExit", str(result.exit_code), ""), ended=False)
        return None

    def evaluate(self, expressions: dict[str, str]) -> dict[str, Any]:
        """Return the values of `user_expressions`, as their text."""
        answers: dict[str, Any] = {}
        for name, expression in expressions.items():
            try:
                value = self._kernel.living().exec(expression, filename="<expression>")
                answers[name] = {"status": "ok", "data": {"text/plain": _shown(value)}, "metadata": {}}
            except (SandboxError, OSError) as error:
                answers[name] = _reply(error, ended=False)
        return answers

    def read_line(self, prompt: str) -> str | None:
        """Ask the front end for a line; None where it gives none, or the cell is over."""
        socket, session = self._kernel.stdin_socket, self._kernel.session
        if not self._allow_stdin:
            return None
        while socket.poll(0):  # answers to questions of earlier cells
            socket.recv_multipart()
        content = {"prompt": jupyter_shown.plain(prompt), "password": False}
        session.send(socket, "input_request", content, self._parent, ident=self._ident)
        while not self.over.is_set():
            if not socket.poll(_INPUT_POLL_MS):
                continue
            _, reply = session.recv(socket)
            if reply is not None:
                value = reply["content"].get("value")
                return value if isinstance(value, str) and value != "\x04" else None
        return None

    # -- what goes back -------------------------------------------------------------------------------------

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        if not self._silent:
            kernel = self._kernel
            kernel.session.send(kernel.iopub_socket, kind, content, self._parent, ident=kernel._topic(kind))  # noqa: SLF001

    def _writer(self, stream: str) -> Callable[[str], None]:
        return lambda text: self._send("stream", {"name": stream, "text": jupyter_shown.plain(text)})

    def _show(self, outputs: tuple[RichOutput, ...]) -> None:
        for output in outputs:
            data, metadata = jupyter_shown.bundle(output)
            content: dict[str, Any] = {"data": data, "metadata": metadata}
            if output.kind == "execute_result":
                content["execution_count"] = self._number
            else:
                content["transient"] = {}
            self._send(output.kind, content)

    def _show_value(self, result: Result) -> None:
        if result.value is None or any(output.kind == "execute_result" for output in result.outputs):
            return
        data = {"text/plain": _shown(result)}
        self._send("execute_result", {"data": data, "metadata": {}, "execution_count": self._number})

    def _show_denials(self, events: Any) -> None:
        if events:
            facts = {"pyisolate": {"denials": json.loads(json.dumps([event.to_dict() for event in events]))}}
            self._send("display_data", {"data": jupyter_shown.denials(events), "metadata": facts, "transient": {}})

    def _fail(self, error: Exception, *, ended: bool) -> dict[str, Any]:
        reply = _reply(error, ended=ended)
        self._send("error", {key: reply[key] for key in ("ename", "evalue", "traceback")})
        return reply


def _reply(error: Exception, *, ended: bool) -> dict[str, Any]:
    """Return an error as the protocol has it, with the guest's own traceback where there is one."""
    trace = getattr(error, "traceback", "") or "\n".join(getattr(error, "__notes__", ()))
    lines = trace.rstrip("\n").splitlines()
    name, text = type(error).__name__, str(getattr(error, "summary", error))
    if isinstance(error, GuestError):
        name, text = error.type_name, error.message
        lines = lines or [f"{name}: {text}"]
    lines = lines or [f"{name}: {error}"]
    if ended:
        lines.append("The sandbox has ended: variables and files are gone. The next cell starts a new one.")
    return {
        "status": "error",
        "ename": jupyter_shown.plain(name),
        "evalue": jupyter_shown.plain(text),
        "traceback": [jupyter_shown.plain(line) for line in lines],
    }


def _shown(result: Result) -> str:
    """Return a value as a notebook shows it; what stands for a value without a form is its text already."""
    value = result.value
    return jupyter_shown.plain(value if result.value_is_repr and isinstance(value, str) else text_of(value))


def _of(found: Any, name: str, kind: type) -> Any:
    """Return a field of a guest's answer, None where it is not as it should be."""
    value = found.get(name) if isinstance(found, dict) else None
    return value if type(value) is kind else None


def serve(connection_file: str, policy: Policy) -> None:
    """Run a kernel under `policy` until its front end shuts it down."""
    SandboxKernel.policy = policy
    app = IPKernelApp.instance(kernel_class=SandboxKernel)
    app.initialize(["-f", connection_file])
    kernel = app.kernel
    try:
        app.start()
    finally:
        kernel.close()
