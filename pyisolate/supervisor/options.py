"""Resolve the arguments of `Supervisor` and `spawn`."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from ..actor import current_actor
from ..choices import Enforcement
from ..errors import EnforcementError
from ..policy import Policy
from ..policy.units import did_you_mean
from ..policy.workspace import relative_name
from ..records import Actor
from ..sandbox.request import check_mapping, check_names, check_text
from ..telemetry.alerts import AlertEngine, AlertRule
from ..telemetry.recorder import AlertObserver, Recorder
from ..telemetry.sinks.audit import AuditLog
from ..telemetry.sinks.protocol import EventSink
from .given_directory import STANDS_FOR, check_copied

if TYPE_CHECKING:
    from ..environments import Environment
    from ..kernel.prepared import Prepared
    from ..sandbox.ask import Asker
    from ..sandbox.host_function import FunctionsLike, Offer
    from ..sandbox.process import Sandbox
    from ..sandbox.question import OnAsk
    from ..sandbox.result import OutputCallback

#: A policy, a preset's name, or the path of a policy file.
PolicyLike = Policy | str | os.PathLike[str]
_FILES = (".yaml", ".yml", ".toml", ".json")


class SpawnOptions(TypedDict, total=False):
    """What `spawn` takes beside name, policy and isolation; see `Supervisor.spawn`."""

    limits: Mapping[str, Any] | None
    mode: str | None
    enforcement: Enforcement
    actor: Mapping[str, str] | Actor | None
    require_actor: bool
    env: Mapping[str, str] | None
    cwd: str | os.PathLike[str] | None
    workspace: str | int | os.PathLike[str] | None
    environment: Environment | str | os.PathLike[str] | None
    files: Mapping[str, bytes | str | os.PathLike[str]] | None
    copy_on_write: str | os.PathLike[str] | None
    allowed_imports: list[str] | tuple[str, ...] | None
    shadow: PolicyLike | None
    on_stdout: OutputCallback | None
    on_stderr: OutputCallback | None
    functions: FunctionsLike | Offer | None
    on_ask: OnAsk | Asker | None
    ask_timeout: float


def check_options(what: str, options: Mapping[str, Any]) -> None:
    """Raise TypeError for what `spawn` does not take: where options are kept, the first spawn would be the first to."""
    known = SpawnOptions.__annotations__.keys() | {"isolation"}
    for name in options:
        if name not in known:
            raise TypeError(f"{what}: no option {name!r} of spawn. Hint: {did_you_mean(name, known)}")


#: What a guest's environment holds before `env=` is added. One thread for the numeric libraries: threads count as
#: processes against the limit. A name for `getpass.getuser`: the user of cells has no entry in passwd(5). Polars asks
#: what the processor can by memory that it makes executable, and cannot be imported where that is refused.
GUEST_ENVIRONMENT = {
    "HOME": "/",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_SKIP_CPU_CHECK": "1",
}


def zygote_environment() -> dict[str, str]:
    """Nothing of the host's environment reaches a cell, not even through /proc/self/environ."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def check_spawn(
    name: str, isolation: str, enforcement: str, env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
) -> tuple[dict[str, str], str | None]:
    """Return environment and working directory, None where none is given.

    Raises TypeError, ValueError for what no sandbox can have.
    """
    check_text("spawn: name", name)
    if enforcement not in ("strict", "best_effort"):
        raise ValueError(f"enforcement: {enforcement!r}: must be 'strict' or 'best_effort'")
    if isolation not in ("process", "thread"):
        raise ValueError(f"isolation: {isolation!r}: must be 'process' or 'thread'")
    if isolation == "thread":
        for argument, value, what in (("env", env, "environment"), ("cwd", cwd, "working directory")):
            if value:
                raise ValueError(
                    f"{argument}: a sandbox thread has the host's own {what}. "
                    "Hint: leave it out, or isolation='process'"
                )
    environment: dict[str, str] = {}
    if env is None and cwd is None:
        return environment, None
    for key, value in check_mapping("spawn: env", env, "{'LANG': 'C.UTF-8'}").items():
        environment[check_text("spawn: env: name", key)] = check_text(f"spawn: env: {key}", value)
        if not key or "=" in key or "\0" in key + value:
            raise ValueError(f"spawn: env: {key!r}: an environment cannot hold this name or value (environ(7))")
    if cwd is not None and not isinstance(cwd, str | os.PathLike):
        raise TypeError(f"spawn: cwd: must be str or a path, not {type(cwd).__name__}")
    return environment, None if cwd is None else os.path.abspath(check_text("spawn: cwd", os.fspath(cwd)) or "/")


def check_pool_size(size: object) -> None:
    """Raise TypeError, ValueError for what is no number of cells."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"pool_size: must be int, not {type(size).__name__}")
    if size < 0:
        raise ValueError(f"pool_size {size}: must be 0 or more cells")


def check_workspace(
    name: str,
    asked: str | int | os.PathLike[str] | None,
    files: Mapping[str, Any] | None,
    prepared: Prepared,
    enforcement: Enforcement,
    copy_on_write: str | os.PathLike[str] | None = None,
) -> None:
    """Raise EnforcementError where `spawn` was asked for a workspace and there is none; a policy's is noted.

    Raises TypeError, ValueError for `files` that cannot be put into one.
    """
    if asked is None and files is None and copy_on_write is None:
        return
    for path, content in check_mapping("spawn: files", files, "{'in.csv': Path('data.csv')}").items():
        relative_name(path)
        if not isinstance(content, bytes | str | os.PathLike):
            raise TypeError(f"spawn: files: {path}: must be bytes, text or a path, not {type(content).__name__}")
    given = isinstance(asked, os.PathLike)
    if given and copy_on_write is not None:
        raise ValueError("spawn: workspace, copy_on_write: a workspace is a directory, or a copy of one. Hint: choose")
    needed = files or copy_on_write is not None or given or (asked is not None and enforcement == "strict")
    if copy_on_write is not None:
        check_copied(copy_on_write, prepared.compiled)
    if prepared.compiled.workspace_bytes is not None or not needed:
        return
    why = next((note for note in prepared.notes if note.startswith("no workspace")), "no workspace")
    leave = "leave workspace=, files= and copy_on_write= out"
    raise EnforcementError(
        f"spawn {name!r}: {why}",
        missing="workspace",
        hint=f"{leave}, or take isolation='process'"
        if "thread" in why
        else f"workspace='64MiB' asks for one; where there can be none, {leave}",
    )


def put_first(
    sandbox: Sandbox, files: Mapping[str, bytes | str | os.PathLike[str]] | None, source: str | os.PathLike[str] | None
) -> None:
    """Put a copy of a directory, then files, into the workspace of a new sandbox; it is closed where one cannot be."""
    try:
        if source is not None:
            sandbox.files.begin_as(source)
        for path, content in (files or {}).items():
            if isinstance(content, bytes | str):
                sandbox.files.write(path, content)
            else:
                sandbox.files.put(content, path)
    except BaseException:
        sandbox.close()
        raise


def choose_policy(
    policy: PolicyLike | None,
    limits: Mapping[str, Any] | None,
    mode: str | None,
    allowed_imports: list[str] | tuple[str, ...] | None,
    workspace: str | int | os.PathLike[str] | None = None,
    environment: Environment | str | os.PathLike[str] | None = None,
) -> Policy:
    """Return the policy that `spawn`'s arguments come to.

    Raises PolicySyntaxError, OSError for a file, EnforcementError for an environment.
    """
    chosen = Policy.preset("compute") if policy is None or policy == "" else as_policy("spawn: policy", policy)
    if limits is not None and (limits := check_mapping("spawn: limits", limits, "{'memory': '128MiB'}")):
        chosen = chosen.with_limits(**limits)
    if mode is not None:
        chosen = chosen.with_mode(mode)
    if allowed_imports is not None and (names := check_names("spawn: allowed_imports", allowed_imports)):
        chosen = chosen.allow_import(*names)
    if workspace is None:
        pass
    elif isinstance(workspace, os.PathLike):
        chosen = chosen if chosen.workspace is not None else chosen.with_workspace(STANDS_FOR)
    elif isinstance(workspace, str) and "/" in workspace:
        raise TypeError(f"spawn: workspace: {workspace!r}: text is a size. Hint: of a directory: Path({workspace!r})")
    else:
        chosen = chosen.with_workspace(workspace)
    if environment is not None:
        from ..environments.environment import as_environment  # what reads requirements takes a while to import

        chosen = as_environment(environment).grant(chosen)
    return chosen


def check_environment(name: str, policy: Policy, isolation: str, preload: tuple[str, ...], *, own_python: bool) -> None:
    """Raise ValueError where the interpreter or the packages that were asked for cannot be the guest's."""
    if isolation == "thread" and not own_python:
        raise ValueError(
            f"spawn {name!r}: a sandbox thread runs in the host's interpreter, and this supervisor was given another "
            "(python=). Hint: isolation='process', or another supervisor"
        )
    if policy.environment is None:
        return
    if isolation == "thread":
        raise ValueError(
            f"spawn {name!r}: environment: a sandbox thread has the host's own modules. Hint: isolation='process'"
        )
    if foreign := [one for one in preload if one.partition(".")[0] not in sys.stdlib_module_names]:
        raise ValueError(
            f"spawn {name!r}: environment: this supervisor preloads {', '.join(foreign)} from the host's packages. "
            "Hint: a Supervisor of its own, without preload"
        )


def asked_by_default(policy: Policy) -> tuple[str, ...]:
    """Return what `on_ask` is asked about where the policy does not say: requests if it leads to the egress proxy."""
    by_name = any(rule.allow and (rule.action == "http" or rule.target.startswith("*.")) for rule in policy.network)
    return ("net.connect", "net.http") if by_name else ("net.connect",)


def as_policy(what: str, given: PolicyLike) -> Policy:
    """Return a policy, or that of a preset's name or a file. Raises TypeError, PolicySyntaxError, OSError."""
    if isinstance(given, Policy):
        return given
    if isinstance(given, str) and not given.endswith(_FILES):  # first: to ask for a protocol takes longer
        return Policy.preset(given)
    if isinstance(given, str | os.PathLike):
        return Policy.load(os.fspath(given))
    raise TypeError(
        f"{what}: must be a Policy, a preset's name or a path, not {type(given).__name__}. "
        "Hint: Policy.from_dict reads a mapping"
    )


def check_hosts(hosts: Mapping[str, Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Return the names that the egress proxy is not to look up, in small letters. Raises ValueError."""
    found = {}
    for name, addresses in (hosts or {}).items():
        if isinstance(addresses, str):
            raise ValueError(f"egress_hosts: {name}: must be a list of addresses, such as ['192.0.2.1']")
        found[name.lower().rstrip(".")] = tuple(str(ipaddress.ip_address(one)) for one in addresses)
    return found


def read_authorities(given: str | os.PathLike[str] | None) -> str | None:
    """Return the certificates of a file, as PEM. Raises ValueError for another file, OSError for an unreadable one."""
    if given is None:
        return None
    import ssl

    text = Path(given).read_text(encoding="ascii", errors="replace")
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"egress_ca: {os.fspath(given)}: holds no certificate in PEM form ({error})") from None
    return text


def choose_actor(actor: Mapping[str, str] | Actor | None) -> Actor | None:
    """Return on whose behalf a sandbox runs: as given, or that of `acting_as`."""
    if actor is None:
        return current_actor()
    if isinstance(actor, Actor):
        return actor
    try:
        given = check_mapping("spawn: actor", actor, "{'kind': 'user', 'id': 'u-1'}")
        return msgspec.convert(given, Actor, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"actor: {actor!r}: must be {{'kind': ..., 'id': ...}} ({error})") from None


def make_recorder(
    audit: str | os.PathLike[str] | EventSink | None,
    sinks: Sequence[EventSink] | None,
    alerts: Iterable[AlertRule] | AlertObserver | None,
) -> Recorder:
    """Return a recorder with the given audit log (or the path of one), sinks and alert rules."""
    for sink in sinks or ():
        if not callable(getattr(sink, "emit", None)):  # a text is a sequence, too
            raise ValueError(f"sinks: {sink!r} is no event sink. Hint: objects that have emit and close")
    log = AuditLog(audit) if isinstance(audit, str | os.PathLike) else audit
    if alerts is None:
        return Recorder(audit=log, sinks=sinks)
    engine = AlertEngine(alerts) if isinstance(alerts, Iterable) else alerts
    return Recorder(audit=log, sinks=sinks, alerts=engine)
