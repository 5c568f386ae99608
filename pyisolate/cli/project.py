"""What `run` is to run: a script, `-m` a module, `-c` a text; and the modules of the guest's own beside it."""

from __future__ import annotations

import io
import os
import shlex
import stat
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

if TYPE_CHECKING:
    from ..policy import Policy

STDIN, TEXT = "<stdin>", "<string>"
#: What the interpreter's own -m calls: the module is __main__. One that is refused is a refusal, not an exit status.
_RUN_MODULE = """\
try:
    __import__('runpy')._run_module_as_main({!r})
except SystemExit as end:
    refused = getattr(end.__context__, '__cause__', None)
    if type(refused).__name__ != 'RefusedImport':
        raise
    raise refused.with_traceback(None) from None
"""
#: Modules beside a script that are looked at; a directory of more is no project.
_MOST_MODULES = 1000
#: Where an archive's directory ends: a record of 22 bytes and a comment (APPNOTE.TXT 4.3.16).
_END_OF_ARCHIVE = 22 + (1 << 16)
#: Bytes of an archive's __main__.py: it is unpacked here, and what it claims to be is its author's word.
_MOST_SOURCE = 16 << 20


class Script(msgspec.Struct, frozen=True):
    """What to run: its text, the name it shall have, its arguments."""

    source: str
    filename: str
    args: tuple[str, ...] = ()
    #: `sys.argv[0]` where that is another than the file's name
    program: str = ""
    #: where its own modules are; None: it has none that it may read
    directory: str | None = None
    #: what `-m` names
    module: str = ""
    #: a program and its arguments, in the place of a script
    command: tuple[str, ...] = ()


class RunCommand(click.Command):
    """A command whose options end with -c TEXT or -m MODULE, as the interpreter's do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `--` after the value of -c or -m."""
        takes_value = {name for one in self.params if not getattr(one, "is_flag", True) for name in one.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at] in ("-c", "-m") and at + 1 < len(args):
                args = [*args[: at + 2], "--", *args[at + 2 :]]
                break
            at += 1 + (args[at] in takes_value)
        return super().parse_args(ctx, args)


def chosen_script(words: tuple[str, ...], text: str | None, module: str | None) -> Script:
    """Return what the command line names. Raises click.UsageError, OSError, ValueError."""
    if text is not None and module is not None:
        raise click.UsageError("-c and -m exclude each other.")
    if text is not None:
        return Script(text, TEXT, words, program="-c")
    if module is not None:
        source = _RUN_MODULE.format(module)
        return Script(source, f"<-m {module}>", words, program=module, directory=os.getcwd(), module=module)
    if not words:
        raise click.UsageError("name a SCRIPT, or - for stdin, or use -c TEXT or -m MODULE.")
    if words[0] == "-":
        return msgspec.structs.replace(read_script("-", words[1:]), program="-")
    if os.path.isdir(words[0]):
        if not os.path.exists(os.path.join(words[0], "__main__.py")):
            raise ValueError(f"run {words[0]}: it is a directory without a __main__.py")
        script = read_script(os.path.join(words[0], "__main__.py"), words[1:])
        return msgspec.structs.replace(script, program=words[0], directory=os.path.realpath(words[0]))
    if _is_archive(words[0]):
        return _read_archive(words[0], words[1:])
    return msgspec.structs.replace(
        read_script(words[0], words[1:]), directory=os.path.dirname(os.path.realpath(words[0]))
    )


def read_script(script: str, args: tuple[str, ...] = ()) -> Script:
    """Read a script here, by its own encoding declaration; `-` is stdin. Raises OSError, ValueError."""
    data = sys.stdin.buffer.read() if script == "-" else Path(script).read_bytes()
    name = STDIN if script == "-" else _absolute(script)
    return Script(_decode(data, script), name, args)


def _absolute(path: str) -> str:
    """Return an absolute name that leads through no directory which the guest does not see: without `..`."""
    found = Path(path).absolute()
    return str(found if ".." not in found.parts else Path(os.path.realpath(found.parent)) / found.name)


def _decode(data: bytes, script: str) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"read {script}: not Python source text: {error}") from None


def _is_archive(path: str) -> bool:
    """Tell whether it is a zip application; a pipe is not looked at, which can be read once."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(-min(size, _END_OF_ARCHIVE), os.SEEK_END)
        if b"PK\5\6" not in file.read():  # what reads archives takes longer to import than most scripts to run
            return False
    import zipfile

    return zipfile.is_zipfile(path)


def _read_archive(path: str, args: tuple[str, ...]) -> Script:
    """Read the __main__.py of a zip application, whose modules are in the archive. Raises OSError, ValueError."""
    import zipfile
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("__main__.py")
            if member.file_size > _MOST_SOURCE:
                raise ValueError(f"read {path}: its __main__.py is over {_MOST_SOURCE} bytes")
            data = archive.read(member)
    except KeyError:
        raise ValueError(f"read {path}: it is an archive without a __main__.py") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"read {path}: {error}") from None
    inside = str(Path(_absolute(path)) / "__main__.py")
    return Script(_decode(data, inside), inside, args, program=path, directory=os.path.realpath(path))


def with_project(policy: Policy, script: Script, *, grant: bool) -> tuple[Policy, Script]:
    """Let a script import the modules beside it: by a grant to read their directory and to import them by name.
    Those of a zip application are in it, and only it is granted.

    No grant for what is no project's: a home, a place that everyone may write to, or what guests cannot read. There and
    without `grant`, they are found where the policy itself lets the guest read that directory.
    """
    if grant:
        policy = _with_editable(policy, script.module)
    directory = script.directory
    if directory is None or not (names := _modules(directory)):
        return _with_own_text(policy, script) if grant else policy, msgspec.structs.replace(script, directory=None)
    if grant and not _is_shared(directory) and _is_readable(directory):
        return policy.allow_read(directory).allow_import(*names), script
    policy = _with_own_text(policy, script) if grant else policy
    from ..policy.explain import explain

    found = explain(policy, "fs.read", directory).code is None
    return policy, script if found else msgspec.structs.replace(script, directory=None)


def _with_own_text(policy: Policy, script: Script) -> Policy:
    """Grant a script its own file, which it has anyway: `open(__file__)`, `inspect`, `doctest` look there."""
    own = script.directory is not None and not script.program and os.path.isfile(script.filename)
    if not own or not _is_readable(script.filename):
        return policy
    if policy.workspace is not None and script.filename.startswith("/tmp/"):
        return policy  # a rule about the host's /tmp would take the place of the guest's own
    try:
        return policy.allow_read(script.filename)
    except ValueError:  # no policy can name it
        return policy


def _with_editable(policy: Policy, module: str) -> Policy:
    """Grant the module that `-m` names, where it is an editable install: a project of this user's, too."""
    from ..policy.interpreter import InterpreterFiles
    from ..policy.packages import is_editable

    top = module.partition(".")[0]
    return policy.allow_import(top) if top and is_editable(top, InterpreterFiles.discover()) else policy


def _modules(directory: str) -> list[str]:
    from ..policy.packages import modules_in

    if os.path.isfile(directory):
        return _modules_of_archive(directory)
    names = modules_in(directory, namespaces=True, natives=False)
    return names if len(names) <= _MOST_MODULES else []


def _modules_of_archive(path: str) -> list[str]:
    import zipfile

    names = set()
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            name, _, rest = entry.removesuffix(".py").partition("/")
            if name.isidentifier() and rest in ("", "__init__") and entry.endswith(".py"):
                names.add(name)
    return sorted(names) if len(names) <= _MOST_MODULES else []


def _is_shared(directory: str) -> bool:
    home = os.path.realpath(os.path.expanduser("~"))
    around_home = f"{home}/".startswith(f"{directory.rstrip('/')}/")
    return around_home or bool(os.stat(directory).st_mode & stat.S_IWOTH)


def _is_readable(directory: str) -> bool:
    """Tell whether a guest can look into it: as root, guests are another user."""
    if os.geteuid() != 0:
        return True
    path = Path(directory)
    parents = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
    wanted = 0o005 if path.is_dir() else 0o004
    return parents and path.stat().st_mode & wanted == wanted


def why_not_granted(script: Script) -> str:
    """Say why the modules beside a script are not granted; empty where they are, or there are none."""
    directory, own = script.directory, Path(script.filename).stem
    if directory is None or not os.path.isdir(directory):
        return ""
    shared = _is_shared(directory)
    if (_is_readable(directory) and not shared) or not set(_modules(directory)) - {own}:
        return ""
    if shared:
        return (
            f"the modules in {directory} are not granted: it is a home, or all may write there "
            f"(--allow-read {shlex.quote(directory)} beside --allow-import; a directory of its own needs neither)"
        )
    return f"the modules in {directory} are not granted: guests are another user, who cannot read there (chmod o+rx)"


def why_not_beside(script: Script, name: str) -> str:
    """Say why a text, which has no directory, does not find a module of the working directory; else empty."""
    if script.filename not in (STDIN, TEXT) or name not in _modules(os.getcwd()):
        return ""
    return (
        f"{name} is in the working directory, which is not granted to -c and -: their text may be from anywhere; "
        "a script that lies there finds it, and so does -m"
    )


def find_modules(sandbox: Any, script: Script) -> None:
    """Let the guest import its own modules, before all others."""
    if script.directory is not None:
        sandbox.eval(f"__import__('sys').path.insert(0, {script.directory!r})")
