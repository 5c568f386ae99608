"""The import allow-list: what guest code names is asked about, what granted libraries import is not."""

from __future__ import annotations

from pathlib import Path

from tests.guest_hooks_harness import run

TRY = """
def attempt(statement, **more):
    space = {"__name__": "guest", "__builtins__": __builtins__, **more}
    try:
        exec(compile(statement, "<guest code>", "exec"), space)
    except RefusedImport as error:
        return error.denial_event.target
    except Exception as error:
        return type(error).__name__
    return "done"
"""


def attempts(statements: dict[str, str], *allow: str, deny: tuple[str, ...] = (), **more: object) -> dict[str, str]:
    lines = "\n".join(f"results[{name!r}] = attempt({code!r})" for name, code in statements.items())
    grants = [(("import.module", name)) for name in allow] + [("import.native", "*"), ("fs.read", "*")]
    ran = run(
        TRY + "\nresults = {}\n" + lines + "\nfinish(**results)\n",
        allow=grants,
        deny=[("import.module", name) for name in deny],
        imports=False,
        **more,  # type: ignore[arg-type]
    )
    return ran.answer


def test_a_warm_module_is_no_free_pass() -> None:
    answer = attempts(
        {
            "statement": "import os",
            "from": "from os import path",
            "call": "__import__('os')",
            "importlib": "import importlib; importlib.import_module('os')",
            "pure": "import importlib; importlib.__import__('os')",
            "inner": "import importlib; importlib._bootstrap._gcd_import('os')",
            "string": "exec('import os')",
            "pickle": "import pickle; pickle.loads(b'cos\\nsystem\\n.')",
            "control": "import importlib, pickle",
        },
        "importlib",
        "pickle",
    )
    assert answer == {
        "statement": "os",
        "from": "os",
        "call": "os",
        "importlib": "os",
        "pure": "os",
        "inner": "os",
        "string": "os",
        "pickle": "os",
        "control": "done",
    }


def test_a_cold_module_needs_its_grant() -> None:
    statements = {"cold": "import colorsys", "dotted": "import wsgiref.util", "from": "from wsgiref import util"}
    assert attempts(statements) == {"cold": "colorsys", "dotted": "wsgiref.util", "from": "wsgiref"}
    assert set(attempts(statements, "colorsys", "wsgiref*").values()) == {"done"}


def test_what_a_granted_library_imports_passes() -> None:
    answer = attempts({"library": "import wsgiref.simple_server", "guest": "import http.server"}, "wsgiref*")
    assert answer == {"library": "done", "guest": "http.server"}


def test_a_submodule_grant_is_enough_for_both_spellings() -> None:
    answer = attempts(
        {
            "dotted": "import xml.etree",
            "from": "from xml import etree",
            "sibling": "from xml import sax",
            "sibling dotted": "import xml.sax",
        },
        "xml.etree",
    )
    assert answer == {"dotted": "done", "from": "done", "sibling": "xml", "sibling dotted": "xml.sax"}


def test_a_denied_submodule_of_a_granted_package_is_refused() -> None:
    answer = attempts(
        {
            "package": "import xml",
            "from": "from xml import sax",
            "dotted": "import xml.sax",
            "star": "from xml import *",
        },
        "xml*",
        deny=("xml.sax",),
    )
    assert answer == {"package": "done", "from": "xml.sax", "dotted": "xml.sax", "star": "done"}


def test_what_needs_no_grant_is_next_to_nothing() -> None:
    answer = attempts(
        {
            "main": "import __main__",
            "builtins": "import builtins",
            "future": "from __future__ import annotations",
            "sys": "import sys",
        }
    )
    assert answer == {"main": "done", "builtins": "done", "future": "done", "sys": "sys"}


def test_imports_that_c_code_makes_for_its_caller_are_not_the_guests() -> None:
    answer = attempts(
        {
            "strptime": "import time; time.strptime('2024', '%Y')",
            "codec": "'x'.encode('idna'); 'x'.encode('cp1250')",
            "pickle": "import pickle; pickle.loads(pickle.dumps({'a': 1.5}))",
            "explicit": "__import__('os', None, None, [])",
        },
        "time",
        "pickle",
    )
    assert answer == {"strptime": "done", "codec": "done", "pickle": "done", "explicit": "os"}


def test_relative_imports_are_asked_by_their_full_name(tmp_path: Path) -> None:
    package = tmp_path / "guestpkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("value = 1\n")
    (package / "outer.py").write_text("from . import inner\nfrom .inner import value\n")
    (package / "bad.py").write_text("from . import inner\nimport os\n")
    statement = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    answer = attempts(
        {"good": statement + "import guestpkg.outer", "bad": statement + "import guestpkg.bad"}, "guestpkg*", "sys"
    )
    assert answer == {"good": "done", "bad": "os"}
    assert attempts({"none": statement + "import guestpkg.outer"}, "sys") == {"none": "guestpkg.outer"}
    narrow = attempts({"part": statement + "import guestpkg.outer"}, "sys", "guestpkg.outer", "guestpkg")
    assert narrow == {"part": "guestpkg.inner"}


def test_an_import_that_is_relative_to_nothing_is_the_interpreters_error_and_no_refusal() -> None:
    answer = attempts({"alone": "from . import x", "beyond": "from .. import x", "control": "import os"})
    assert answer == {"alone": "ImportError", "beyond": "ImportError", "control": "os"}


def test_native_modules_are_asked_about_wherever_they_are_loaded() -> None:
    source = """
        import importlib.util
        def load():
            spec = importlib.util.find_spec("_xxsubinterpreters") or importlib.util.find_spec("_testbuffer")
            return importlib.util.module_from_spec(spec)
        spec = next(spec for name in ("_asyncio", "_zoneinfo", "_crypt", "_interpqueues", "_testbuffer", "_lsprof")
                    if (spec := importlib.util.find_spec(name)) and str(spec.origin).endswith(".so"))
        finish(name=spec.name, cold=outcome(importlib.util.module_from_spec, spec))
        """
    refused = run(source, imports=False, allow=[("import.module", "*"), ("fs.read", "*")])
    assert refused.answer["cold"] == "refused"
    assert refused.denied == [("import.native", refused.answer["name"])]
    allowed = run(source, imports=False, allow=[("import.module", "*"), ("fs.read", "*"), ("import.native", "*")])
    assert (allowed.answer["cold"], allowed.records) == ("done", [])


def test_a_warm_native_module_needs_its_native_grant() -> None:
    source = """
        finish(result=outcome(lambda: __import__("_ctypes")), file=sys.modules["_ctypes"].__file__)
        """
    refused = run(source, imports=False, allow=[("import.module", "*"), ("fs.read", "*")])
    assert refused.answer["file"].endswith(".so")
    assert refused.answer["result"] == "refused"
    assert refused.denied == [("import.native", "_ctypes")]
    allowed = run(source, imports=False, allow=[("import.module", "*"), ("fs.read", "*"), ("import.native", "*")])
    assert allowed.answer["result"] == "done"


def test_monitor_mode_records_every_import_and_lets_it_through() -> None:
    ran = run(
        """
        def load():
            import os
            return os.sep
        finish(text=[load(), load()])
        """,
        imports=False,
        verdict="would_deny",
    )
    assert ran.answer["text"] == ["/", "/"]
    assert sum(one[3] for one in ran.records if one[1] == "os") == 2


def test_monitor_mode_records_of_a_statement_what_enforcing_would_have_refused_and_no_more() -> None:
    statement = "from json import loads, decoder"
    asked = {}
    for verdict in ("would_deny", "deny"):
        ran = run(
            f"""
            def load():
                {statement}
            finish(done=outcome(load))
            """,
            imports=False,
            verdict=verdict,
        )
        asked[verdict] = [one[1] for one in ran.records]
    assert asked["would_deny"] == asked["deny"] == ["json"]


def test_a_reload_that_takes_a_module_away_is_felt_at_the_next_import() -> None:
    ran = run(
        """
        def load():
            import json
        before = outcome(load)
        H.replace(Rules([]), compiled)
        finish(before=before, after=outcome(load))
        """
    )
    assert (ran.answer["before"], ran.answer["after"]) == ("done", "refused")


def test_a_warning_about_a_module_names_the_line_that_imports_it() -> None:
    """CPython leaves importlib's frames out when it looks for that line; ours are among them."""
    ran = run(
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    exec(compile('import sre_parse', '<guest code>', 'exec'), {'__name__': 'guest'})\n"
        "finish(files=[one.filename for one in seen])\n",
        allow=[("import.module", "*"), ("import.native", "*"), ("fs.read", "*")],
        imports=False,
    )
    assert ran.answer["files"] == ["<guest code>"]
