"""The options that choose a policy, shared by the commands that run guests or speak of policies."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .environment_options import environment_option, with_environment

if TYPE_CHECKING:
    from ..policy import Policy

_F = TypeVar("_F", bound=Callable[..., Any])

_BARE_NAME = re.compile(r"\w[\w-]*")
#: option, builder of `Policy` that it calls, metavar, help
_GRANTS = (
    ("--allow-read", "allow_read", "PATH", "Grant reading PATH and all below it."),
    ("--allow-write", "allow_write", "PATH", "Grant writing, creating and deleting at and below PATH."),
    ("--allow-exec", "allow_exec", "PATH", "Grant running the program PATH."),
    ("--allow-connect", "allow_connect", "HOST:PORT", "Grant connecting to an address or host and port."),
    ("--allow-bind", "allow_bind", "HOST:PORT", "Grant listening on an address and port."),
    ("--allow-import", "allow_import", "NAME", "Grant importing a module."),
    ("--allow-native", "allow_native", "NAME", "Grant a module with its native code."),
)


def policy_options(function: _F) -> _F:
    """Add --policy, --preset, --allow-..., --environment and --limit to a command."""
    function = environment_option(function)
    for option, builder, metavar, text in reversed(_GRANTS):
        function = click.option(option, builder, metavar=metavar, multiple=True, help=text + " Repeatable.")(function)
    for decorate in (
        click.option("--limit", "limits", metavar="KEY=VALUE", multiple=True, help="Set a limit: memory=512MiB."),
        click.option("--preset", metavar="NAME", shell_complete=complete_preset,
                     help="A shipped policy (default: compute); see `policy presets`."),
        click.option("--policy", "policy_file", metavar="FILE|NAME",
                     help="A policy file, or the name of one in ~/.config/pyisolate/policies."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def complete_preset(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Return the presets that begin so, for shells."""
    from ..policy.parse import PRESETS

    return [name for name in PRESETS if name.startswith(typed)]


def choose_policy(options: dict[str, Any]) -> Policy:
    """Take the options of `policy_options` out of `options`; return the policy they describe.

    Relative paths in --allow-... are taken from the working directory. Raises SandboxError, OSError.
    """
    from ..policy import Policy

    file, preset = options.pop("policy_file"), options.pop("preset")
    if file and preset:
        raise click.UsageError("--policy and --preset exclude each other.")
    policy = load_policy(file) if file else Policy.preset(preset or "compute")
    for _, builder, metavar, _ in _GRANTS:
        for value in options.pop(builder):
            target = Path(value).absolute() if metavar == "PATH" and not value.startswith("@") else value
            policy = getattr(policy, builder)(target)
    policy = with_environment(policy, options.pop("environment", None))
    limits = dict(_limit(text) for text in options.pop("limits"))
    return policy.with_limits(**limits) if limits else policy


def warn_of_absent(options: dict[str, Any]) -> None:
    """Say on stderr which paths of --allow-... do not exist: a sandbox is started without them."""
    from ..policy.workspace import HOME

    for option, builder, metavar, _ in _GRANTS:
        for value in options[builder] if metavar == "PATH" else ():
            if not value.startswith("@") and not os.path.lexists(value) and value != HOME:
                click.echo(f"pyisolate: {option} {value}: there is no such path, so nothing is granted", err=True)


def _limit(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--limit {text!r}: write KEY=VALUE, such as memory=512MiB or wall=5s.")
    if value.lower() == "none":
        return key, None
    return key, int(value) if value.isdigit() else value


def load_policy(text: str) -> Policy:
    """Return the policy of a file, of the user's file of that name, or the preset; the first that there is."""
    from ..errors import PolicySyntaxError
    from ..policy import Policy

    path = policy_path(text)
    if path.exists() or not _BARE_NAME.fullmatch(text):
        return Policy.load(path)
    try:
        return Policy.preset(text)
    except PolicySyntaxError as error:
        hint = f"{error.hint}; or write {_own_file(text)}"
        raise PolicySyntaxError(f"policy {text!r}: no such file, and no such preset", hint=hint) from None


def policy_path(text: str) -> Path:
    """Return the file that `text` names: that path, else `NAME.yaml` of the user's policies where it is a bare name."""
    path = Path(text)
    if path.exists() or not _BARE_NAME.fullmatch(text):
        return path
    own = _own_file(text)
    return own if own.exists() else path


def _own_file(name: str) -> Path:
    """Return where a policy of this user's lies by its name."""
    from ..policy.site import user_directory

    return user_directory("XDG_CONFIG_HOME", ".config") / "pyisolate" / "policies" / f"{name}.yaml"
