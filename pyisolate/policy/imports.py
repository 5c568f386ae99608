"""Import rules -> name patterns for the broker and read and executable-mapping rules for the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterable

from . import elf, packages
from .compiled import FsRight, NamePattern
from .fs_table import FsTable
from .interpreter import InterpreterFiles
from .rules import ImportRule
from .standard_library import FOREIGN, FOREIGN_MODULE, FOREIGN_NATIVE, NO_FFI, STDLIB, VARIABLES, variables_of

_LOAD = FsRight.READ | FsRight.MAP_EXEC


class ImportCompiler:
    """Compiles the `import` key. Whatever is granted, the standard library comes along for its own use:

    modules import one another, so its files are readable and its extension modules loadable as soon as any module
    is granted; which of its modules the *guest* may import by name is what the rules say. Its native code that calls
    foreign functions is loadable where a rule names it (`ctypes`, `@stdlib`, `*`), or grants with its native code a
    package that imports it.
    """

    def __init__(self, table: FsTable, interpreter: InterpreterFiles) -> None:
        self._table, self._interpreter = table, interpreter
        self._modules: dict[str, NamePattern] = {}
        self._natives: dict[str, NamePattern] = {}
        self._transitive: dict[str, NamePattern] = {}
        #: native files of packages granted without native code, and of those granted with it
        self._withheld: set[str] = set()
        self._loadable: set[str] = set()
        self._any_native = False

    def modules(self) -> tuple[NamePattern, ...]:
        """Return what the guest may import."""
        return tuple(self._modules[name] for name in sorted(self._modules))

    def natives(self) -> tuple[NamePattern, ...]:
        """Return the modules whose native code may be loaded, by whomever."""
        return tuple(self._natives[name] for name in sorted(self._natives))

    def transitive(self) -> tuple[NamePattern, ...]:
        """Return what granted modules may import besides."""
        return tuple(self._transitive[name] for name in sorted(self._transitive))

    def compile(self, rules: Iterable[ImportRule]) -> None:
        """Add all rules; grants first, because a deny at the same name wins."""
        rules = list(rules)
        for rule in rules:
            if rule.allow:
                self._grant(rule)
        self._withhold_own()
        for path in set() if self._any_native else self._withheld - self._loadable:
            self._table.edge(path)
        for rule in rules:
            if not rule.allow:
                self._refuse(rule)

    # -- grants -------------------------------------------------------------------------------------------------------

    def _grant(self, rule: ImportRule) -> None:
        native = rule.kind == "native"
        if rule.name.startswith("/"):
            self._library(rule)
            return
        pattern = NamePattern(name=rule.name, text=rule.text)
        self._modules.setdefault(rule.name, pattern)
        if native:
            self._natives[rule.name] = pattern
        top = rule.name.partition(".")[0]
        self._standard_library(NO_FFI, rule.text)
        if rule.name in ("*", STDLIB):
            self._standard_library(STDLIB, rule.text)
        elif top in FOREIGN:
            self._foreign_functions(rule.text)
        if rule.name == "*":
            self._any(rule, native)
        elif rule.name not in VARIABLES and top not in self._interpreter.stdlib_names:
            self._package(top, rule, native)

    def _library(self, rule: ImportRule) -> None:
        self._table.add(rule.name, _LOAD, text=rule.text, origin="import")
        for path in elf.closure([rule.name]):
            self._table.add(path, _LOAD, text=rule.text, origin="import", implied=True)

    def _any(self, rule: ImportRule, native: bool) -> None:
        for path in self._interpreter.site_dirs:
            self._table.add(path, FsRight.READ | FsRight.LIST, text=rule.text, origin="import", implied=True)
            if not native:
                self._withheld.update(packages.shared_libraries(path))
        editable = packages.editables(self._interpreter)
        # not all of a project's directory, which holds more than modules
        for name in {name for place in editable.directories for name in packages.modules_in(place)}:
            self._package(name, rule, native)
        for name in {name.partition(".")[0] for name, _ in editable.modules}:
            self._package(name, rule, native)
        self._transitive["*"] = NamePattern(name="*", text=rule.text)
        if native:
            self._any_native = True
            self._table.add("/", FsRight.MAP_EXEC, text=rule.text, origin="import", implied=True)
            files = [path for site in self._interpreter.site_dirs for path in packages.shared_libraries(site)]
            for path in self._foreign(files, self._interpreter.site_dirs):
                self._table.add(path, FsRight.READ, text=rule.text, origin="import", implied=True)

    def _foreign(self, files: list[str], inside: tuple[str, ...]) -> tuple[str, ...]:
        """Return the libraries that packages' files need of others; of packages that are not trusted, less."""
        interpreter = self._interpreter
        if not interpreter.trusted_packages:
            inside = (*inside, *interpreter.site_dirs)
        return packages.foreign_libraries(
            tuple(files),
            inside,
            of_system=not interpreter.trusted_packages,
            stamps=tuple(packages.stamp(path) for path in interpreter.site_dirs),
        )

    def _standard_library(self, variable: str, text: str) -> None:
        if variable in self._transitive:
            return
        implied = NamePattern(name=variable, text=text)
        self._transitive[variable] = implied
        self._natives.setdefault(variable, implied)
        files = self._interpreter
        self._table.add(files.stdlib, FsRight.READ, text=text, origin="import", implied=True)
        for path in files.excluded:
            self._table.edge(path)
        if files.lib_dynload:
            self._table.add(files.lib_dynload, _LOAD, text=text, origin="import", implied=True)
        for path in files.libraries:
            self._table.add(path, _LOAD, text=text, origin="import", implied=True)
        for path in files.loader_data:
            self._table.add(path, FsRight.READ, text=text, origin="import", implied=True)

    def _foreign_functions(self, text: str) -> None:
        for name in FOREIGN:
            self._transitive.setdefault(name, NamePattern(name=name, text=text))
        self._natives.setdefault(FOREIGN_NATIVE, NamePattern(name=FOREIGN_NATIVE, text=text))

    def _withhold_own(self) -> None:
        """Withhold the interpreter's extension modules that no rule has: what calls foreign functions, and tests."""
        interpreter = self._interpreter
        for path in interpreter.extension_files if self._transitive else ():
            name = os.path.basename(path).partition(".")[0]
            if not self._natives.keys() & {name, "*", *variables_of(name, interpreter.stdlib_names)}:
                self._table.edge(path)

    def _package(self, top: str, rule: ImportRule, native: bool) -> None:
        package = packages.locate(top, self._interpreter)
        if package is None:
            return
        below = rule.name.partition(".")[2].replace(".", "/") if native else ""
        self._files(package, rule.text, native, below)
        for name in package.requires:
            required = packages.locate(name, self._interpreter)
            if required is None:
                continue
            note = NamePattern(name=name, text=f"{rule.text} (requires {name})")
            self._transitive.setdefault(name, note)
            if native and not below:
                self._natives.setdefault(name, note)
            self._files(required, note.text, native and not below, "")
        if native and not self._natives.keys() & {FOREIGN_NATIVE, STDLIB}:
            found = [package, *(packages.locate(name, self._interpreter) for name in package.requires)]
            if any(one is not None and packages.imports_module(FOREIGN_MODULE, one) for one in found):
                self._foreign_functions(f"{rule.text} (imports {FOREIGN_MODULE})")

    def _files(self, package: packages.Package, text: str, native: bool, below: str) -> None:
        add = self._table.add
        for path in package.paths:
            add(path, FsRight.READ, text=text, origin="import", implied=True)
        for parent in package.parents:  # importlib lists it to find the module
            add(parent, FsRight.LIST, text=text, origin="import", implied=True)
        everything = packages.native_files(package)
        if not native:
            self._withheld.update(everything)
            return
        files = packages.native_files(package, below) if below else everything
        if below:
            self._withheld.update(everything)
        for path in files if below else package.natives:
            add(path, _LOAD, text=text, origin="import", implied=True)
        self._loadable.update(files)
        for path in self._foreign(files, package.paths):
            add(path, _LOAD, text=text, origin="import", implied=True)

    # -- denials ------------------------------------------------------------------------------------------------------

    def _refuse(self, rule: ImportRule) -> None:
        if rule.name.startswith("/"):
            self._table.add(rule.name, 0, FsRight.MAP_EXEC, text=rule.text, origin="import")
            return
        pattern = NamePattern(name=rule.name, allow=False, text=rule.text)
        if rule.kind == "native":
            self._natives[rule.name] = pattern
            paths = [path for path in self._paths_of(rule.name) if path.endswith(".so") or ".so." in path]
        else:
            self._modules[rule.name] = pattern
            paths = self._paths_of(rule.name)
        for path in paths:
            self._table.add(path, 0, _LOAD, text=rule.text, origin="import")

    def _paths_of(self, name: str) -> list[str]:
        """Return the files and directories of a module, wherever it is installed; none for built-in ones."""
        if name in ("*", *VARIABLES):
            return []
        interpreter = self._interpreter
        roots = [interpreter.stdlib, *interpreter.site_dirs]
        roots += [interpreter.lib_dynload] if interpreter.lib_dynload else []
        editable = packages.editables(interpreter)
        roots += editable.directories
        paths = [path for _, path in editable.named(name)]
        for root in roots:
            paths += packages.module_paths(name, root, interpreter)
        found = list(paths)
        for path in paths:
            if os.path.isdir(path):
                found += packages.shared_libraries(path)
        return found
