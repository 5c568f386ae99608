"""The import allow-list: what guest code itself may name.

An import statement in a guest frame needs `import.allow`, warm or not; what granted library code then imports passes,
unless it is one of the few modules that import what their caller names (`runpy`, `pydoc`).
Native modules are asked about wherever they are loaded from. Modules that a guest reaches as attributes
(`json.codecs`) or through `sys.modules` are not seen: this is a guard rail, the kernel's read rules are the boundary.
"""

from __future__ import annotations

import _thread
import builtins
import importlib.util
import sys
from _thread import get_ident
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import machinery
from types import CodeType, FrameType, ModuleType
from typing import Any
from zipimport import zipimporter

from ..capability import Capability
from ..decision import Decision, DenialCode, Verdict
from ..native.frames import checked, untraced
from ..policy.workspace import HOME
from . import frames, paths
from .active import GATE, CellHooks
from .operation import Operation

#: What a guest may name without a grant: already in front of it, and no more than syntax needs.
ALWAYS = frozenset({"builtins", "__main__", "__future__"})
#: What C code imports on behalf of its caller (`PyImport_Import` in CPython 3.11 to 3.13): `time.strptime()` must
#: not need a grant for `_strptime`. Such calls show by their empty list of names; statements pass a tuple.
ON_BEHALF = frozenset(
    {
        "_compat_pickle",
        "_io",
        "_locale",
        "_pydatetime",
        "_pydecimal",
        "_pylong",
        "_strptime",
        "_weakrefset",
        "abc",
        "array",
        "asyncio.events",
        "codecs",
        "collections",
        "collections.abc",
        "contextvars",
        "copyreg",
        "datetime",
        "decimal",
        "enum",
        "functools",
        "io",
        "locale",
        "numbers",
        "operator",
        "re",
        "reprlib",
        "string",
        "time",
        "traceback",
        "types",
        "typing",
        "warnings",
        "weakref",
        "zoneinfo",
    }
)
_NATIVE_SUFFIX = ".so"
#: Classes that CPython before 3.13 has among its modules (Lib/typing.py).
_CLASSES = frozenset({"typing.io", "typing.re"})
_LOADERS = (machinery.SourceFileLoader, machinery.SourcelessFileLoader, machinery.ExtensionFileLoader, zipimporter)
#: Refused because no rule speaks of it, not because one says no.
_NO_RULE = frozenset({DenialCode.NOT_GRANTED, DenialCode.SCOPE_INSUFFICIENT})

_import = builtins.__import__
_import_module = importlib.import_module
_pure_import = importlib.__import__
_reload = importlib.reload
_bootstrap: Any = sys.modules["_frozen_importlib"]  # what importlib calls _bootstrap
_gcd_import = _bootstrap._gcd_import
_find_spec = importlib.util.find_spec
_look_up = _bootstrap._find_spec
_resolve_name, _calc_package = _bootstrap._resolve_name, _bootstrap._calc___package__
_modules = sys.modules


class ImportRule:
    """Decides imports for one policy; remembers what it allowed, so that a repeat costs a set look-up."""

    def __init__(
        self,
        ask: Callable[..., int],
        peek: Callable[..., Decision],
    ) -> None:
        self._ask, self._peek = ask, peek
        self._allowed: set[str] = set()
        #: by thread: where in the guest's code the last import stands that enforcing would have refused, and its name
        self.let_through: dict[int, tuple[int, int, str]] = {}

    def statement(self, name: object, globals_: Mapping[str, Any] | None, names: object, level: object) -> None:
        """Decide `import name` or `from name import names` in guest code. Raises PolicyError."""
        if not isinstance(name, str) or not isinstance(level, int):
            return  # the import itself raises
        full = paths.text(name) or ""
        if level > 0:
            try:
                if not (package := _calc_package(globals_)):
                    return  # there is no package to be relative to, and no module that could be meant
                full = _resolve_name(full, package, level)
            except Exception:
                return
        if isinstance(names, list) and not names and full in ON_BEHALF:
            return
        wanted = [one for one in names if isinstance(one, str)] if isinstance(names, (tuple, list)) else []
        self.module(full, wanted)
        if not names and _made_by_guest(full) and "." in full:
            self.module(full.partition(".")[0])  # the statement binds this, and loads it

    def module(self, full: str, names: Sequence[str] = ()) -> None:
        """Decide a module by its full name, and what is taken from it where that may be a submodule."""
        if full in ALWAYS or (full not in self._allowed and _made_by_guest(full)):
            return
        # `importlib.util.find_spec` takes __path__, which each package has before a submodule could be meant
        below = [f"{full}.{name}" for name in names if name not in ("*", "__path__")]
        if full not in self._allowed:
            # `from xml import etree` needs no more than `import xml.etree`
            if below and not self._granted(full) and all(self._granted(one) for one in below):
                self._allowed.update(below)
                return
            if self._decide(full):
                self._note_let_through(full)
                return  # enforcing would have refused the package, and asked about nothing below it
        for one in below:
            if one not in self._allowed:
                if self._granted(one):
                    self._allowed.add(one)
                elif self._decide(one):  # a rule of its own says no: the module around it is granted
                    self._note_let_through(one)

    def _note_let_through(self, full: str) -> None:
        if (frame := frames.guest()) is not None:
            self.let_through[get_ident()] = id(frame), frame.f_lasti, full

    def reads(self, path: str) -> bool:
        """Tell whether a file is of the module whose import, still under way, enforcing would have refused.

        Of it, or of a package around it or a module below. What it imports itself has events of its own.
        """
        frame, noted = frames.guest(), self.let_through.get(get_ident())
        if frame is None or noted is None or noted[:2] != (id(frame), frame.f_lasti):
            return False
        read, named = f"{module_at(path)}.", f"{noted[2]}."
        return read != "." and (read.startswith(named) or named.startswith(read))

    def native(self, name: str, filename: object) -> Sequence[Operation]:
        """Return the operation of loading a native module, for any importer.

        A loader takes any file under any name: what is loaded is the module whose file it is. A file of none is called
        by its path, which a rule can grant, unless rules grant it under the name (a project in a directory of its own),
        or deny that.
        """
        path = paths.reached(filename) or paths.text(filename) or ""
        facts = {"path": path, "how": "import"}
        if module := module_at(path):
            name = module
        elif path:
            said = self._peek(Capability.IMPORT_NATIVE, name, **facts)
            name = path if said.code in _NO_RULE else name
        return ((Capability.IMPORT_NATIVE, name, facts),)

    def hides(self, full: str) -> bool:
        """Tell whether a module that the cell has loaded is none that this policy lets the guest find."""
        if full not in _modules or full in ALWAYS or full in self._allowed or _made_by_guest(full):
            return False
        said = self._peek(Capability.IMPORT_MODULE, full)
        return said.verdict is Verdict.DENY and not (said.code in _NO_RULE and self._of_workspace(full))

    def _granted(self, full: str) -> bool:
        return self._peek(Capability.IMPORT_MODULE, full).verdict is Verdict.ALLOW

    def _decide(self, full: str) -> bool:
        """Ask about a module; return whether monitor mode let through what enforcing would have refused."""
        if self._peek(Capability.IMPORT_MODULE, full).code in _NO_RULE and (
            self._of_workspace(full) or (GATE.hooks is not None and _found_by_guest(full))
        ):
            return False
        self._ask(Capability.IMPORT_MODULE, full)
        self._decide_warm_native(full)
        if not self._granted(full):
            return True  # the next import of it is recorded as well
        self._allowed.add(full)
        return False

    def _of_workspace(self, full: str) -> bool:
        """Tell whether a module is a file of the guest's workspace: code that it could as well read and `exec`."""
        head = full.partition(".")[0]
        if head in sys.stdlib_module_names:
            return False
        try:
            spec = importlib.util.find_spec(head) if head not in _modules else _modules[head].__spec__
            if spec is None:
                return False
            places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
            found = [paths.reached(place) or "" for place in places]
        except Exception:  # finders may be the guest's: the import itself raises
            return False
        return bool(found) and all(
            path.startswith(f"{HOME}/") and self._peek(Capability.FS_READ, path).verdict is Verdict.ALLOW
            for path in found
        )

    def _decide_warm_native(self, full: str) -> None:
        """A native module that is loaded already raises no event, so its grant is asked for here."""
        filename = getattr(_modules.get(full), "__file__", None)
        if isinstance(filename, str) and filename.endswith(_NATIVE_SUFFIX):
            self._ask(Capability.IMPORT_NATIVE, full, path=filename, how="import")


def module_at(path: str) -> str:
    """Return the module that a file of the interpreter's, or of its packages, is; "" for any other file.

    Of a directory, the package that it would be.
    """
    place = max((one for one in frames.LIBRARY if path.startswith(one)), key=len, default="")
    folder, _, file = path[len(place) :].removeprefix("lib-dynload/").rpartition("/")
    folder = folder.removesuffix("__pycache__").rstrip("/")
    name = file.partition(".")[0]
    found = f"{folder.replace('/', '.')}.{name}".lstrip(".") if place and name else ""
    return found.removesuffix(".__init__")


def _made_by_guest(full: str) -> bool:
    """Tell whether a loaded module is the guest's own: no finder's, or the work of a loader of the guest's.

    Cells only: the modules of a thread's process are the host's, and so may be their loaders.
    """
    module = _modules.get(full)
    if module is None or full in _CLASSES or GATE.hooks is None:
        return False
    try:
        spec = getattr(module, "__spec__", None)
        return spec is None or _loads_for_guest(spec.loader)
    except Exception:  # no module of the host's raises when it is asked
        return True


def _loads_for_guest(loader: object) -> bool:
    """Tell whether a loader is the guest's own code, and none of importlib's that read files."""
    kind = loader if isinstance(loader, type) else type(loader)
    return not issubclass(kind, _LOADERS) and (_is_guests(kind, "exec_module") or _is_guests(kind, "load_module"))


def _is_guests(kind: type, name: str) -> bool:
    code = getattr(getattr(kind, name, None), "__code__", None)
    return isinstance(code, CodeType) and not code.co_filename.startswith(frames.LIBRARY)


def _found_by_guest(full: str) -> bool:
    """Tell whether nothing of the host's is loaded for a name: a finder and a loader of the guest's make the module."""
    above = full.rpartition(".")[0]
    path = None
    if above:
        if not (_made_by_guest(above) or _found_by_guest(above)):
            return False
        _import(above)  # as the import itself does first, and raises
        if (path := getattr(_modules.get(above), "__path__", None)) is None:
            return True  # no package: the import raises
    elif not any(_is_guests(one if isinstance(one, type) else type(one), "find_spec") for one in sys.meta_path):
        return False
    try:
        spec = _look_up(full, path)
    except Exception:  # the import itself raises
        return False
    return above != "" if spec is None else _loads_for_guest(spec.loader)


class ShadowedImports:
    """The rule in force, and a shadow policy's beside it: that one tells first, and refuses nothing."""

    def __init__(self, own: ImportRule, shadow: ImportRule) -> None:
        self._own, self._shadow = own, shadow

    @property
    def let_through(self) -> Collection[int]:
        """The threads that import what either policy would have refused."""
        return self._own.let_through or self._shadow.let_through

    def reads(self, path: str) -> bool:
        """Tell whether a file is of a module that either would have refused; see `ImportRule.reads`."""
        return self._own.reads(path) or self._shadow.reads(path)

    def statement(self, name: object, globals_: Mapping[str, Any] | None, names: object, level: object) -> None:
        """Decide an import statement; see `ImportRule.statement`."""
        self._shadow.statement(name, globals_, names, level)
        self._own.statement(name, globals_, names, level)

    def module(self, full: str, names: Sequence[str] = ()) -> None:
        """Decide a module; see `ImportRule.module`."""
        self._shadow.module(full, names)
        self._own.module(full, names)

    def hides(self, full: str) -> bool:
        """Tell whether a loaded module is not to be found; see `ImportRule.hides`."""
        return self._own.hides(full)

    def native(self, name: str, filename: object) -> Sequence[Operation]:
        """Return the operation of loading a native module; see `ImportRule.native`."""
        return self._own.native(name, filename)


def _guest_caller(name: object) -> bool:
    """Tell whether the caller of a wrapper is guest code, or library code that guest code has named the module to."""
    if (caller := frames.above(2)) is None:
        return True
    return frames.is_guest(caller) or (isinstance(name, str) and frames.carries(caller, name))


def _check_import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> None:
    hooks = GATE.hooks
    if hooks is not None:
        if _guest_caller(name):
            hooks.imports.statement(name, globals, fromlist, level)
        elif (caller := frames.above(1)) is not None and (meant := frames.run_by_runpy(caller)) is not None:
            _refuse_first(hooks, caller, name, paths.text(meant) or "")


def _refuse_first(hooks: CellHooks, caller: FrameType, package: str, meant: str) -> None:
    """Refuse a module that guest code has `runpy` run before the packages above it load native code: one step.

    What is not refused is asked about when it is looked for, and only then.
    """
    if (
        meant.rpartition(".")[0] == package
        and frames.carries(caller, meant, looking=True)
        and hooks.peek(Capability.IMPORT_MODULE, meant).verdict is Verdict.DENY
    ):
        hooks.imports.module(meant)


def _check_pure_import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> None:
    hooks = GATE.hooks
    if hooks is not None and _guest_caller(name):
        hooks.imports.statement(name, globals, fromlist, level)


def _check_import_module(name: str, package: str | None = None) -> None:
    hooks = GATE.hooks
    if hooks is not None and _guest_caller(name) and isinstance(name, str):
        full = paths.text(name) or ""  # no object of a class of the guest's: it goes into a record
        if name.startswith("."):
            try:
                full = importlib.util.resolve_name(name, package)
            except Exception:
                full = ""
        if full:
            hooks.imports.module(full)


def _check_reload(module: ModuleType) -> None:
    """Guest code that loads a module again has named it, and the finders would make an empty one of what is hidden."""
    hooks = GATE.hooks
    if hooks is not None and _guest_caller(None):
        spec = getattr(module, "__spec__", None)
        name = getattr(spec, "name", None) or getattr(module, "__name__", None)
        if isinstance(name, str):
            hooks.imports.module(paths.text(name) or "")


def _check_gcd_import(name: str, package: str | None = None, level: int = 0) -> None:
    hooks = GATE.hooks
    if hooks is not None and _guest_caller(name):
        hooks.imports.statement(name, {"__package__": package}, (), level)


def _find_granted_spec(name: str, package: str | None = None) -> machinery.ModuleSpec | None:
    """Find no module that is not granted, also where the cell has it: a spec tells where it lies on the host.

    Of library code that looks for what guest code has named to it, `runpy` and its like, the rule is asked: it means to
    import it.
    """
    hooks, caller = GATE.hooks, frames.above(1)
    if hooks is not None and isinstance(name, str) and name[:1] != ".":
        if caller is not None and frames.carries(caller, name, looking=True):
            hooks.imports.module(paths.text(name) or "")
        elif (caller is None or frames.is_guest(caller)) and hooks.imports.hides(paths.text(name) or ""):
            return None
    return _find_spec(name, package)


def checked_import(rule: Callable[[], ImportRule | ShadowedImports]) -> Callable[..., Any]:
    """Return an `__import__` for one guest's own builtins: thread isolation, where the process's are the host's."""

    def check(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> None:
        if (caller := frames.above(1)) is None or frames.is_guest(caller):
            rule().statement(name, globals, fromlist, level)

    return checked(check, _import)  # type: ignore[no-any-return]


_installed = _thread.allocate_lock()


def install() -> None:
    """Put the checks before `__import__` and importlib's own entries, inert until the gate opens. Cells only."""
    if not _installed.acquire(blocking=False):
        return
    builtins.__import__ = checked(_check_import, _import)
    vars(importlib).update(
        __import__=checked(_check_pure_import, _pure_import, module="importlib"),
        import_module=checked(_check_import_module, _import_module),
        reload=checked(_check_reload, _reload),
    )
    importlib.util.find_spec = untraced(_find_granted_spec, _find_spec, module="importlib.util")
    _bootstrap._gcd_import = checked(_check_gcd_import, _gcd_import, module="importlib._bootstrap")
