"""Compiling finds exactly the files that a policy's words stand for: no more, and enough to run with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pyisolate.capability import Capability
from pyisolate.decision import DenialCode, Verdict
from pyisolate.errors import EnforcementError, SandboxError
from pyisolate.policy import Policy, compile_policy, elf, packages
from pyisolate.policy.broker import Broker
from pyisolate.policy.compiled import CompiledPolicy, FsRight, effective_rights
from pyisolate.policy.interpreter import InterpreterFiles
from pyisolate.policy.standard_library import variables_of

C = Capability
OWN = InterpreterFiles.discover()
A_LIBRARY = next(path for path in OWN.libraries if "libz" in path or "libc.so" in path)


@pytest.fixture
def site(tmp_path: Path) -> InterpreterFiles:
    """A site directory with a pure package, a native one that needs it, a single module and an unrelated package."""
    root = tmp_path / "site-packages"
    suffix = OWN.native_suffixes[0]
    for name in ("pure", "speedy", "speedy.libs", "other"):
        (root / name).mkdir(parents=True)
    (root / "pure" / "__init__.py").write_text("")
    (root / "other" / "__init__.py").write_text("")
    (root / "speedy" / "__init__.py").write_text("import pure")
    shutil.copy(A_LIBRARY, root / "speedy" / f"_fast{suffix}")
    shutil.copy(A_LIBRARY, root / "speedy.libs" / "libhelp-1234.so.1.0.0")
    (root / "single.py").write_text("")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / f"single.{OWN.cache_tag}.pyc").write_bytes(b"")
    _metadata(root, "Pure.Thing", "pure", [])
    _metadata(root, "speedy", "speedy", ["pure-thing>=1; python_version>'3'", "other; extra == 'all'"])
    return msgspec.structs.replace(OWN, site_dirs=(str(root),))


def _metadata(root: Path, name: str, module: str, requires: list[str]) -> None:
    directory = root / f"{name.replace('-', '_')}-1.0.dist-info"
    directory.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {text}" for text in requires)]
    (directory / "METADATA").write_text("\n".join(lines) + "\n")
    (directory / "top_level.txt").write_text(module + "\n")


def _allows(compiled: CompiledPolicy, path: object, bit: int = FsRight.READ) -> bool:
    table = effective_rights(compiled.fs)
    near = str(path)
    while near not in table:
        if near == "/":
            return False
        near = near[: near.rfind("/")] or "/"
    return bool(table[near] & bit)


def test_where_site_directories_lead_is_granted_by_name(site: InterpreterFiles, tmp_path: Path) -> None:
    """Each path of a `.pth` file, each mapping of an editable install, all portions of a namespace; and no more."""
    (place,) = map(Path, site.site_dirs)
    project = tmp_path / "project"
    for name in ("src/laid", "flat", "space/one", "beside"):
        (project / name).mkdir(parents=True)
    for name in ("src/laid", "flat", "beside"):
        (project / name / "__init__.py").write_text("")
    (place / "space").mkdir()
    (place / "a.pth").write_text(f"# words\nimport sys\n{project / 'src'}\n{project}\n/nonexistent\n")
    (place / "__editable___b_finder.py").write_text(f"MAPPING = {{'mapped.flat': {str(project / 'flat')!r}}}\n1 +\n")
    (place / "__editable___c_finder.py").write_text(f"MAPPING: dict = {{'mapped': {str(project / 'flat')!r}}}\n")
    granted = compile_policy(Policy.preset("compute").allow_import("laid", "space", "mapped.x"), interpreter=site)
    for path in ("src/laid/__init__.py", "space/one", "flat/x.py"):
        assert _allows(granted, project / path), path
    assert _allows(granted, place / "space")
    for path in ("beside", "src", "setup.py", ""):
        assert not _allows(granted, project / path), path
    anything = compile_policy(Policy.preset("compute").allow_import("*"), interpreter=site)
    assert _allows(anything, project / "beside")
    assert not _allows(anything, project / ".env")


def test_of_an_environment_no_pth_file_is_followed(site: InterpreterFiles, tmp_path: Path) -> None:
    """It is not trusted, and its lines name any directory of the host."""
    (place,) = map(Path, site.site_dirs)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "found.py").write_text("")
    (place / "led.py").write_text("")
    (place / "led.pth").write_text(f"{tmp_path / 'elsewhere'}\n")
    (place / "led-1.dist-info").mkdir()
    (place / "led-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: led\nVersion: 1\n")
    (place / "led-1.dist-info" / "RECORD").write_text("led.py,,\nled.pth,,\n")
    read: list[object] = []
    with pytest.MonkeyPatch.context() as watched:
        listed = packages.modules_in
        watched.setattr(packages, "modules_in", lambda directory: read.append(directory) or listed(directory))
        assert packages.locate("led", msgspec.structs.replace(site, trusted_packages=False)) is not None
        assert read == []
        assert packages.locate("led", site) is not None
    assert read == [str(tmp_path / "elsewhere")]


def test_no_variable_of_the_standard_library_makes_sub_interpreters() -> None:
    """3.13 has what makes them in `sys.stdlib_module_names`, and 3.11 does not."""
    names = {"_interpreters", "_interpchannels", "_interpqueues", "json", "_ctypes"}
    assert [name for name in sorted(names) if variables_of(name, names)] == ["_ctypes", "json"]
    assert not any(variables_of(name) for name in names if name.startswith("_interp"))


def test_a_directory_that_can_be_searched_and_not_listed_refuses_no_grant(
    site: InterpreterFiles, tmp_path: Path
) -> None:
    """Root lists it all the same; for other users this is `import *` beside a project of somebody else's."""
    (place,) = map(Path, site.site_dirs)
    closed = tmp_path / "closed"
    (closed / "hidden").mkdir(parents=True)
    (closed / "hidden" / "__init__.py").write_text("")
    (place / "closed.pth").write_text(f"{closed}\n")
    for directory in (closed / "hidden", closed):
        directory.chmod(0o111)
    try:
        granted = compile_policy(Policy.preset("compute").allow_import("*", "hidden"), interpreter=site)
    finally:
        for directory in (closed, closed / "hidden"):
            directory.chmod(0o755)
    assert _allows(granted, closed / "hidden")
    assert packages.modules_in(str(closed / "gone")) == packages.modules_in(str(place / "closed.pth")) == []


def test_modules_of_a_directory_are_named_as_imports_find_them(tmp_path: Path) -> None:
    for name in ("plain.py", "two.parts.py", "fast.abi3.so", "packed/__init__.py", "spread/below/one.py", "data/a.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert packages.modules_in(str(tmp_path)) == ["fast", "packed", "plain"]
    assert packages.modules_in(str(tmp_path), namespaces=True, natives=False) == ["packed", "plain", "spread"]


def test_a_finder_of_an_editable_install_may_be_long(site: InterpreterFiles, tmp_path: Path) -> None:
    (place,) = map(Path, site.site_dirs)
    (tmp_path / "last.py").write_text("")
    mapping = {f"module_{number}": "/nonexistent" for number in range(5000)} | {"last": str(tmp_path / "last.py")}
    (place / "__editable___long_finder.py").write_text(f"MAPPING = {mapping}\n")
    assert packages.editables(site).named("last") == [("last", str(tmp_path / "last.py"))]


def test_compute_reads_the_interpreter_and_nothing_beside_it() -> None:
    compiled = compile_policy(Policy.preset("compute"))
    for path in (OWN.stdlib, f"{OWN.stdlib}/json/decoder.py", OWN.binaries[0], "/etc/ld.so.cache", "/dev/null"):
        assert _allows(compiled, path), path
    for path in (*OWN.site_dirs, *(f"{site}/numpy" for site in OWN.site_dirs), "/etc/passwd", "/etc", "/", os.getcwd()):
        assert not _allows(compiled, path), path
    for path in ("/tmp", OWN.stdlib, OWN.executable):
        assert not _allows(compiled, path, FsRight.WRITE)
    assert not compiled.net
    assert not compiled.allow_fork
    assert all(rule.origin in ("system", "import", "random", "workspace") for rule in compiled.fs)


def test_none_compiles_to_nothing() -> None:
    compiled = compile_policy(Policy.preset("none"))
    assert (compiled.fs, compiled.net, compiled.imports, compiled.natives, compiled.transitive) == ((), (), (), (), ())


def _loads_ctypes(policy: Policy, files: InterpreterFiles = OWN) -> bool:
    compiled = compile_policy(policy, interpreter=files)
    (path,) = [path for path in files.extension_files if "/_ctypes." in path]
    by_name = Broker(compiled).decide(C.IMPORT_NATIVE, "_ctypes", path=path).verdict is Verdict.ALLOW
    assert by_name is (_allows(compiled, path) and _allows(compiled, path, FsRight.MAP_EXEC))  # hook and kernel agree
    return by_name


@pytest.mark.skipif("_ctypes" in sys.builtin_module_names, reason="_ctypes is built in")
def test_foreign_functions_come_only_where_a_rule_has_them(site: InterpreterFiles) -> None:
    for name in ("compute", "readonly", "shell", "web-client", "web-names"):
        assert not _loads_ctypes(Policy.preset(name)), name
    base = Policy.preset("compute")
    grants = (
        Policy.preset("data"),
        base.allow_import("*"),
        base.allow_import("@stdlib"),
        base.allow_import("ctypes"),
        Policy().allow_native("_ctypes"),
    )
    assert all(_loads_ctypes(policy) for policy in grants)
    assert not _loads_ctypes(base.allow_import("@stdlib").deny("import.native", "_ctypes"))
    source = Path(site.site_dirs[0], "pure", "calls.py")
    assert not _loads_ctypes(base.allow_native("pure"), site)
    source.write_text("try:\n    from ctypes import util\nexcept ImportError:\n    util = None\n")
    packages.imports_module.cache_clear()
    assert _loads_ctypes(base.allow_native("pure"), site)
    assert not _loads_ctypes(base.allow_import("pure"), site)


def test_a_named_package_is_its_files_and_metadata_and_no_other_package(site: InterpreterFiles) -> None:
    root = site.site_dirs[0]
    compiled = compile_policy(Policy().allow_import("pure"), interpreter=site)
    assert _allows(compiled, f"{root}/pure/__init__.py")
    assert _allows(compiled, f"{root}/Pure.Thing-1.0.dist-info/METADATA")
    assert not _allows(compiled, f"{root}/other/__init__.py")
    assert not _allows(compiled, root)
    broker = Broker(compiled)
    assert broker.decide(C.FS_READ, root, listing=True).verdict is Verdict.ALLOW
    assert broker.decide(C.IMPORT_MODULE, "pure.x").verdict is Verdict.ALLOW
    assert broker.decide(C.IMPORT_MODULE, "other").verdict is Verdict.DENY


def test_a_single_module_is_its_source_and_its_bytecode(site: InterpreterFiles) -> None:
    root = site.site_dirs[0]
    compiled = compile_policy(Policy().allow_import("single"), interpreter=site)
    assert _allows(compiled, f"{root}/single.py")
    assert _allows(compiled, f"{root}/__pycache__/single.{site.cache_tag}.pyc")
    assert not _allows(compiled, f"{root}/__pycache__")


def test_native_code_is_withheld_until_it_is_granted(site: InterpreterFiles) -> None:
    root = site.site_dirs[0]
    library = f"{root}/speedy/_fast{site.native_suffixes[0]}"
    without = compile_policy(Policy().allow_import("speedy"), interpreter=site)
    assert _allows(without, f"{root}/speedy/__init__.py")
    assert not _allows(without, library)
    assert not _allows(without, library, FsRight.MAP_EXEC)
    refused = Broker(without).decide(C.FS_READ, library)
    assert refused.code is DenialCode.NOT_GRANTED, "no rule of the policy says no"
    granted = compile_policy(Policy().allow_native("speedy"), interpreter=site)
    assert _allows(granted, library, FsRight.MAP_EXEC)
    assert _allows(granted, f"{root}/speedy.libs/libhelp-1234.so.1.0.0", FsRight.MAP_EXEC)
    assert _allows(granted, library)
    assert Broker(granted).decide(C.IMPORT_NATIVE, "speedy._fast", path=library).verdict is Verdict.ALLOW


def test_a_native_grant_covers_the_helpers_that_the_package_s_record_names(site: InterpreterFiles) -> None:
    root, suffix = site.site_dirs[0], site.native_suffixes[0]
    for name in ("650f__mypyc", "651f__mypyc"):
        shutil.copy(A_LIBRARY, f"{root}/{name}{suffix}")
    Path(root, "speedy-1.0.dist-info", "RECORD").write_text(f"650f__mypyc{suffix},,\nspeedy/__init__.py,,\n")
    for policy, loads in ((Policy().allow_import("speedy"), False), (Policy().allow_native("speedy"), True)):
        compiled = compile_policy(policy, interpreter=site)
        assert _allows(compiled, f"{root}/650f__mypyc{suffix}", FsRight.MAP_EXEC) is loads
        assert not _allows(compiled, f"{root}/651f__mypyc{suffix}"), "no record names it"
        refused = Broker(compiled).decide(C.IMPORT_NATIVE, "650f__mypyc", path=f"{root}/650f__mypyc{suffix}").refused
        assert refused is not loads


def test_one_native_submodule_can_be_granted_alone(site: InterpreterFiles) -> None:
    root = site.site_dirs[0]
    suffix = site.native_suffixes[0]
    shutil.copy(A_LIBRARY, f"{root}/speedy/_slow{suffix}")
    compiled = compile_policy(Policy().allow_native("speedy._fast"), interpreter=site)
    assert _allows(compiled, f"{root}/speedy/_fast{suffix}", FsRight.MAP_EXEC)
    assert not _allows(compiled, f"{root}/speedy/_slow{suffix}", FsRight.MAP_EXEC)
    assert not _allows(compiled, f"{root}/speedy/_slow{suffix}")


def test_required_distributions_come_along_for_the_package_only(site: InterpreterFiles) -> None:
    root = site.site_dirs[0]
    compiled = compile_policy(Policy().allow_native("speedy"), interpreter=site)
    assert _allows(compiled, f"{root}/pure/__init__.py")
    assert not _allows(compiled, f"{root}/other/__init__.py"), "extras are not required"
    broker = Broker(compiled)
    assert broker.decide(C.IMPORT_MODULE, "pure").verdict is Verdict.DENY
    assert broker.decide(C.IMPORT_MODULE, "pure", importer="speedy").verdict is Verdict.ALLOW
    assert any("requires pure" in pattern.text for pattern in compiled.transitive)


def test_a_module_that_is_not_installed_grants_no_file(site: InterpreterFiles) -> None:
    compiled = compile_policy(Policy().allow_import("absent"), interpreter=site)
    assert not any("absent" in rule.path for rule in compiled.fs)


def test_site_packages_inside_the_standard_library_stay_closed(tmp_path: Path) -> None:
    stdlib = tmp_path / "lib"
    (stdlib / "site-packages" / "pure").mkdir(parents=True)
    (stdlib / "site-packages" / "pure" / "__init__.py").write_text("")
    inside = str(stdlib / "site-packages")
    layout = msgspec.structs.replace(OWN, stdlib=str(stdlib), excluded=(inside,), site_dirs=(inside,))
    compute = compile_policy(Policy.preset("compute"), interpreter=layout)
    assert _allows(compute, stdlib / "json.py")
    assert not _allows(compute, inside)
    assert not _allows(compute, f"{inside}/pure/__init__.py")
    refused = Broker(compute).decide(C.FS_READ, f"{inside}/pure/__init__.py")
    assert (refused.code, refused.rule) == (DenialCode.NOT_GRANTED, None)
    package = compile_policy(Policy.preset("compute").allow_import("pure"), interpreter=layout)
    assert _allows(package, f"{inside}/pure/__init__.py")
    assert not _allows(package, f"{inside}/else.py")
    stated = compile_policy(Policy.preset("compute").allow_read(inside), interpreter=layout)
    assert _allows(stated, f"{inside}/else.py")
    above = compile_policy(Policy.preset("compute").allow_read(str(tmp_path)), interpreter=layout)
    assert _allows(above, f"{inside}/else.py"), "a stated grant above is not cut by an implied edge"


def test_rules_follow_links_and_a_denial_behind_one_holds(tmp_path: Path) -> None:
    (tmp_path / "real" / "private").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    compiled = compile_policy(Policy().allow_read(tmp_path / "link").deny(str(tmp_path / "link" / "private")))
    real = os.path.realpath(tmp_path / "real")
    for base in (str(tmp_path / "link"), real):
        assert _allows(compiled, f"{base}/x")
        assert not _allows(compiled, f"{base}/private/x")


def test_a_granted_program_brings_its_libraries_and_loader() -> None:
    program = os.path.realpath("/bin/sh")
    compiled = compile_policy(Policy().allow_exec("/bin/sh"))
    for path in ("/bin/sh", program):
        assert _allows(compiled, path, FsRight.EXEC)
        assert _allows(compiled, path, FsRight.MAP_EXEC)
    found = elf.read_elf(program)
    assert found is not None
    assert found.interpreter is not None
    assert _allows(compiled, found.interpreter, FsRight.EXEC)
    for library in elf.closure([program]):
        assert _allows(compiled, library)
        assert _allows(compiled, library, FsRight.MAP_EXEC)
    assert not _allows(compiled, "/bin/cat", FsRight.EXEC)
    assert compiled.allow_fork
    denied = compile_policy(Policy().allow_exec("/bin").deny_exec(program))
    assert not _allows(denied, program, FsRight.EXEC)


def test_a_file_grant_of_exec_is_a_program_grant() -> None:
    policy = Policy.from_dict({"fs": [{"path": "/opt/tools", "allow": ["exec"]}]})
    compiled = compile_policy(policy)
    assert compiled.allow_fork
    assert Broker(compiled).decide(C.PROCESS_EXEC, "/opt/tools/x").verdict is Verdict.ALLOW


def test_writing_comes_with_metadata_and_reading_does_not() -> None:
    broker = Broker(compile_policy(Policy().allow_write("/out").allow_read("/in")))
    assert broker.decide(C.FS_METADATA, "/out/x").verdict is Verdict.ALLOW
    assert broker.decide(C.FS_METADATA, "/in/x").verdict is Verdict.DENY
    assert broker.decide(C.FS_METADATA, "/in/x", look=True).verdict is Verdict.ALLOW
    assert broker.decide(C.FS_METADATA, "/else", look=True).verdict is Verdict.DENY


def test_random_devices_follow_the_random_key() -> None:
    assert _allows(compile_policy(Policy()), "/dev/urandom")
    assert not _allows(compile_policy(Policy().deny_random()), "/dev/urandom")
    assert not _allows(compile_policy(Policy().allow_read("/dev").deny_random()), "/dev/urandom")


def test_a_denied_host_that_does_not_resolve_fails_closed() -> None:
    with pytest.raises(EnforcementError) as caught:
        compile_policy(Policy().allow_connect("*:443").deny_connect("evil.example:443"), resolve=lambda host: [])
    assert caught.value.rule


def test_meaning_does_not_depend_on_order_or_repetition() -> None:
    first = compile_policy(Policy().allow_read("/a").allow_import("json").allow_connect("1.1.1.1:1"))
    second = compile_policy(Policy().allow_connect("1.1.1.1:1").allow_import("json").allow_read("/a").allow_read("/a"))
    assert first == second


def test_every_rule_has_its_own_path_and_is_normal() -> None:
    compiled = compile_policy(Policy.preset("data").allow_read("/srv").allow_exec("/bin/sh"))
    paths = [rule.path for rule in compiled.fs]
    assert len(set(paths)) == len(paths)
    assert paths == sorted(paths)
    assert all(path == os.path.normpath(path) for path in paths)


def test_another_interpreter_is_asked_and_one_that_is_none_is_named() -> None:
    again = InterpreterFiles.discover(os.path.realpath(sys.executable))
    assert again.stdlib == OWN.stdlib
    with pytest.raises(SandboxError, match="does not answer"):
        InterpreterFiles.discover("/bin/false")


def test_the_library_closure_agrees_with_the_loader() -> None:
    program = os.path.realpath(sys.executable)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    wanted = {os.path.realpath(word) for word in listed.split() if word.startswith("/")}
    assert wanted <= {os.path.realpath(path) for path in elf.closure([program])}


@pytest.mark.parametrize("junk", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + b"\xff" * 200, b"#!/bin/sh\n"])
def test_damaged_binaries_need_nothing(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "x").write_bytes(junk)
    assert elf.closure([str(tmp_path / "x")]) == ()
    assert elf.read_cache(str(tmp_path / "x")) == {}


# -- enough to run with -----------------------------------------------------------------------------------------------

_RECORD = """
import sys
seen = set()
def hook(event, args):
    if event == "open" and isinstance(args[0], str) and args[2] & 3 == 0: seen.add(args[0])
    if event == "import" and args[1]: seen.add(args[1])
sys.addaudithook(hook)
{code}
for line in open("/proc/self/maps"):
    part = line.split(maxsplit=5)
    if len(part) == 6 and part[5].startswith("/") and "x" in part[1]: print("map", part[5].strip())
for path in seen: print("open", path)
"""


@pytest.mark.parametrize(
    ("preset", "code"),
    [
        ("compute", "import json, csv, decimal, sqlite3, ssl, asyncio, zoneinfo; zoneinfo.ZoneInfo('Europe/Berlin')"),
        ("data", "import numpy; numpy.linalg.inv(numpy.eye(3))"),
        (
            "data",
            "import pandas; pandas.DataFrame({'a': [1]}).describe(); pandas.Timestamp('2024-01-01', tz='Asia/Tokyo')",
        ),
    ],
)
def test_presets_cover_what_real_imports_open_and_map(preset: str, code: str) -> None:
    if "numpy" in code or "pandas" in code:
        pytest.importorskip(code.split()[1].rstrip(";"))
    ran = subprocess.run(
        [sys.executable, "-I", "-B", "-c", _RECORD.format(code=code)],
        # without what a measurement of coverage would open there
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    broker = Broker(compile_policy(Policy.preset(preset)))
    refused = []
    for line in ran.stdout.splitlines():
        kind, path = line.split(" ", 1)
        path = os.path.realpath(path)
        if path.startswith("/proc/") or not os.path.exists(path) or path.endswith((".pth", "pyvenv.cfg")):
            continue
        if "/cloudpickle/" in path:  # pyarrow imports it, and a cell has it loaded
            continue
        decision = broker.decide(C.FS_READ if kind == "open" else C.IMPORT_NATIVE, path)
        if decision.verdict is not Verdict.ALLOW and path != os.path.realpath(sys.executable):
            refused.append(line)
    assert not refused


def test_a_library_that_the_cache_knows_by_another_name_is_found_beside_the_c_library() -> None:
    cache = elf.read_cache()
    directories = {os.path.dirname(path) for path in cache.get("libc.so.6", [])}
    program = elf.read_elf(os.path.realpath("/bin/sh"))
    others = [
        name
        for directory in directories
        for name in os.listdir(directory)
        if ".so." in name and name not in cache and (found := elf.read_elf(f"{directory}/{name}"))
        if program is not None and found.machine == program.machine
    ]
    if program is None or not others:
        pytest.skip("no such library here")
    assert elf._Reader().find(others[0], program, (), cache)


def test_of_the_interpreter_only_its_program_can_be_executed() -> None:
    policy = Policy.from_dict({"version": 1, "fs": [{"path": "@interpreter", "allow": ["read", "exec"]}]})
    broker, files = Broker(compile_policy(policy)), InterpreterFiles.discover()
    verdicts = {
        path: broker.decide(Capability.PROCESS_EXEC, os.path.realpath(path)).verdict
        for path in (files.executable, f"{files.stdlib}/os.py", *files.loader_data)
    }
    assert verdicts.pop(files.executable) is Verdict.ALLOW
    assert set(verdicts.values()) == {Verdict.DENY}
