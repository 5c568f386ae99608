"""The workspace of a sandbox: the one place that is the guest's own, by the same name in every sandbox.

It is memory (a tmpfs), made for one sandbox and gone with it. The guest finds it at `HOME`, which is its working
directory, its home and its place for temporary files; `/tmp` and `/dev/shm` lead there, unless the policy itself speaks
of them. Landlock knows it by its parent, `ROOT`: a rule needs an inode, and each sandbox's workspace is another one.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..decision import DenialCode, Mode
from ..errors import PolicySyntaxError
from . import units
from .compiled import CompiledPolicy, FsRight, FsRule
from .fs_table import FsTable

if TYPE_CHECKING:
    from .rules import PolicyFields

#: Nothing but the workspace is below it, and no policy that has one may speak of it.
ROOT = "/sandbox"
HOME = "/sandbox/workspace"
#: Where a directory of the host's is, that was given: what programs keep for themselves stays beside it, in memory.
PROJECT = f"{HOME}/project"
#: Names that programs take for granted, and that lead to the workspace.
LINKS = ("/tmp", "/dev/shm")
#: The one that holds a host's files: in monitor mode it stays the host's, so that what a program reads there is seen.
WITH_FILES = "/tmp"
RIGHTS = int(FsRight.READ | FsRight.WRITE | FsRight.CREATE | FsRight.DELETE | FsRight.METADATA)
_RUNNING = int(FsRight.EXEC | FsRight.MAP_EXEC)
#: Where libraries keep what is theirs, in it: no result of the guest's.
OF_LIBRARIES = (".cache", ".config", ".local")
#: A page, and what a host may lend to one guest (bytes).
SMALLEST, LARGEST = 1 << 16, 1 << 40

#: Where libraries look for a place of their own. All of it is below `HOME`.
ENVIRONMENT = {
    "HOME": HOME,
    "TMPDIR": HOME,
    "MPLCONFIGDIR": f"{HOME}/.config/matplotlib",
    "XDG_CACHE_HOME": f"{HOME}/.cache",
    "XDG_CONFIG_HOME": f"{HOME}/.config",
    "XDG_DATA_HOME": f"{HOME}/.local/share",
    "XDG_STATE_HOME": f"{HOME}/.local/state",
}


def workspace_size(value: object, what: str = "workspace") -> int | None:
    """Return bytes of a workspace from a size such as `64MiB`, None for none. Raises PolicySyntaxError."""
    if value is None:
        return None
    size = units.size(value, what)
    if not SMALLEST <= size <= LARGEST:
        raise PolicySyntaxError(f"{what}: {size} bytes: out of range", hint="use 64KiB to 1TiB, or null for none")
    return size


def rule_text(size: int) -> str:
    """Return the key of a policy file that grants a workspace."""
    return f"workspace: {units.size_text(size)}"


def is_rule(text: str | None) -> bool:
    """Tell whether the text of a rule is that of the key which grants a workspace."""
    return text is not None and text.startswith("workspace: ")


def is_of_host_files(path: str) -> bool:
    """Tell whether a path is below the name that stays the host's in monitor mode."""
    return path.startswith(f"{WITH_FILES}/")


def keeps_host_files(policy: CompiledPolicy) -> bool:
    """Tell whether that name is the host's now and would lead to the workspace if the policy were enforced."""
    return any(rule.path == WITH_FILES and rule.origin == "workspace" for rule in policy.fs)


def judge_socket(
    policy: CompiledPolicy, action: int, path: str, *, sends: bool = False
) -> tuple[str | None, DenialCode | None, str]:
    """Return (rule, code, reason) for a unix socket: a rule to the letter decides, else whether it is in here.

    `sends`: a datagram to a path, for which a rule is needed here too.
    """
    for rule in policy.net:
        if rule.action == action and rule.unix_path == path:
            return (rule.text, None, "") if rule.allow else (rule.text, DenialCode.EXPLICIT_DENY, "")
    if policy.own_sockets and not sends and path.startswith(f"{HOME}/"):
        return rule_text(policy.workspace_bytes or 0), None, ""
    return None, DenialCode.NOT_GRANTED, ""


def grant(table: FsTable, policy: PolicyFields) -> None:
    """Grant the workspace. Raises PolicySyntaxError where a rule speaks of its place, but of running what is in it.

    A rule that grants code of any place does not reach into it: what is written runs where a rule names this place.
    """
    if (size := policy.workspace) is None:
        return
    programs = [(rule.path or "", rule.text) for rule in policy.processes if rule.path != HOME]
    for path, text in (*programs, *((rule.name, rule.text) for rule in policy.imports)):
        if is_place(path):
            raise PolicySyntaxError(
                f"{text}: in the workspace a guest gives its files any name",
                hint=f"write process: {{exec: {HOME}}}, for all programs and libraries that are in it",
            )
    for rule in policy.files:
        if same_line(rule.path, ROOT) and rule.path != "/":
            raise PolicySyntaxError(
                f"{rule.text}: {ROOT} is the place of the workspace",
                hint="move what the rule grants elsewhere, or use workspace: null",
            )
    named = any(one.allow and one.path == HOME for one in policy.processes)
    kept_out = 0 if named else table.granted(HOME) & _RUNNING
    table.add(HOME, RIGHTS, kept_out, text=rule_text(size), origin="workspace", link=False)
    monitored = dict(policy.modes).get("fs", policy.mode) is Mode.MONITOR
    if monitored and not any(same_line(path, WITH_FILES) for path in _spoken_of(table.rules())):
        # enforcing leads the name to the workspace: to go there and to list it is refused in neither mode
        table.add(WITH_FILES, int(FsRight.LIST), text=rule_text(size), origin="workspace", implied=True, link=False)


def links(policy: CompiledPolicy) -> tuple[str, ...]:
    """Return the names that lead to the workspace: those of which no rule speaks, nor of what is above or below.

    Not /tmp in monitor mode, where what a program finds in the host's is to be seen.
    """
    if policy.workspace_bytes is None:
        return ()
    enforced = policy.mode_of("fs") is Mode.ENFORCE
    spoken = _spoken_of(policy.fs)
    names = [link for link in LINKS if enforced or link != WITH_FILES]
    return tuple([link for link in names if not any(same_line(path, link) for path in spoken)])


def _spoken_of(rules: tuple[FsRule, ...]) -> list[str]:
    return [rule.path for rule in rules if rule.origin != "workspace" and not _of_any_code(rule)]


def _of_any_code(rule: FsRule) -> bool:
    """Tell whether a rule is what grants native code of any kind, which speaks of no place."""
    return rule.path == "/" and not (rule.allow | rule.deny) & ~FsRight.MAP_EXEC


def may_run(policy: CompiledPolicy) -> bool:
    """Tell whether a rule lets programs in the workspace run."""
    return any(rule.path == HOME and rule.allow & ~rule.deny & FsRight.EXEC for rule in policy.fs)


def is_mounted_to_run(policy: CompiledPolicy, *, programs_decide: bool) -> bool:
    """Tell whether the workspace's mount lets programs and native code in it run.

    In monitor mode too, where what would be refused has to be seen; and wherever BPF-LSM decides. That refuses by name
    what no rule lets run, and records it: a mount would refuse before its programs are asked, and leave no event.
    """
    monitored = Mode.MONITOR in (policy.mode_of("process"), policy.mode_of("import"))
    return programs_decide or monitored or may_run(policy)


def as_reached(path: str, leading: tuple[str, ...]) -> str:
    """Return a guest's absolute path with those of `links` followed, as the guest's kernel follows them."""
    for link in leading:
        if path == link or path.startswith(link + "/"):
            return HOME + path[len(link) :]
    return path


def is_place(path: str) -> bool:
    """Tell whether a path is the place of workspaces, or below it."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def same_line(one: str, other: str) -> bool:
    """Tell whether one path is the other, or lies above or below it."""
    a, b = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return a.startswith(b) or b.startswith(a)


def is_project(path: str) -> bool:
    """Tell whether a guest's absolute path is that of the directory that was given, or below it."""
    return path == PROJECT or path.startswith(f"{PROJECT}/")


def relative_name(path: str | os.PathLike[str], places: tuple[str, ...] = (HOME, *LINKS)) -> str:
    """Return a name in the workspace, relative to it: as given, or from a path as the guest writes it.

    `places`: the guest's names of it.

    Raises ValueError for what leads elsewhere, or is no plain text.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path: must be text, not {type(text).__name__}")
    if not text or not text.isprintable() or len(os.fsencode(text)) >= 4096:
        raise ValueError(f"path {text!r}: must be 1 to 4095 bytes of printable text")
    for start in places:
        if text == start or text.startswith(start + "/"):
            text = text[len(start) :].lstrip("/") or "."
            break
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/") or ".." in parts:
        raise ValueError(f"path {text!r}: leads out of the workspace")
    if any(len(os.fsencode(part)) > 255 for part in parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), text)
    return "/".join(parts) or "."
