"""Rich results in the guest, as Jupyter has them: `display`, `_repr_*_` methods, figures of matplotlib.

A bundle is one thing in several forms by MIME type. It is sent at once, so that a time-out loses none.
"""

from __future__ import annotations

import importlib.machinery
import io
import json
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..native.frames import traced, untraced
from . import wire

#: What an object may say of itself, and the type of what it then gives.
_METHODS = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_pdf_", "application/pdf"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
    ("_repr_javascript_", "application/javascript"),
)
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset})
_PYPLOT = "matplotlib.pyplot"
_MIME_CHARS = 100

Bundle = tuple[dict[str, str | bytes], dict[str, dict[str, Any]]]


class Display:
    """Sends what guest code displays in the request that runs."""

    def __init__(self, send: Callable[[wire.GuestFrame], None]) -> None:
        self._send = send
        self._count = self._bytes = 0
        #: figures that the request has shown by name: not again at its end
        self._shown: list[Any] = []

    def begin(self) -> None:
        """A request starts: it may display as much as any."""
        if self._count:
            self._count = self._bytes = 0
            self._shown.clear()

    def display(self, *objects: Any) -> None:
        """Show objects in their richest forms; they arrive in `Result.outputs`. Raises ValueError for too much."""
        for one in objects:
            self._show("display_data", bundle_of(one))
            if _is_figure(one):
                self._shown.append(one)

    def result(self, value: Any) -> None:
        """Show the value of a request's last expression, where it has more forms than its own."""
        if type(value) in _PLAIN:
            return
        data, metadata = bundle_of(value)
        if data.keys() - {"text/plain"}:
            self._show("execute_result", (data, metadata))
            if _is_figure(value):
                self._shown.append(value)

    def figures(self) -> None:
        """Show and close what pyplot has open; a figure that cannot be drawn is reported on stderr."""
        pyplot = sys.modules.get(_PYPLOT)
        if pyplot is None:
            return
        for number in getattr(pyplot, "get_fignums", tuple)():
            try:
                figure = pyplot.figure(number)
                pyplot.close(figure)
                if not any(figure is shown for shown in self._shown):
                    self._show("display_data", bundle_of(figure))
            except Exception:
                traceback.print_exc()

    def _show(self, kind: wire.ShownKind, bundle: Bundle) -> None:
        data, metadata = bundle
        size = sum(map(len, data.values()))
        if self._count >= wire.MAX_SHOWN or self._bytes + size > wire.MAX_SHOWN_BYTES:
            raise ValueError(f"display: over {wire.MAX_SHOWN} outputs or {wire.MAX_SHOWN_BYTES} bytes in one request")
        self._count, self._bytes = self._count + 1, self._bytes + size
        try:
            text = {mime: form for mime, form in data.items() if isinstance(form, str)}
            rest = {mime: form for mime, form in data.items() if isinstance(form, bytes)}
            self._send(wire.Shown(kind=kind, text=text, data=rest, metadata=metadata))
        except wire.WireError as error:
            raise ValueError(f"display: {error}") from None


def bundle_of(value: Any) -> Bundle:
    """Return an object's forms and what it says of them. A form that fails is reported on stderr and left out."""
    found: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    if isinstance(value, type):
        return {"text/plain": _text(traced(repr, value))}, {}
    if (bundle := _ask(value, "_repr_mimebundle_", include=None, exclude=None)) is not None:
        found, notes = bundle if isinstance(bundle, tuple) and len(bundle) == 2 else (bundle, {})
    for name, mime in _METHODS:
        if mime not in found and (given := _ask(value, name)) is not None:
            if isinstance(given, tuple) and len(given) == 2:
                given, notes[mime] = given
            found[mime] = given
    if _is_figure(value) and "image/png" not in found:
        found["image/png"] = _png(value)
    if "text/plain" not in found:
        found["text/plain"] = traced(repr, value)
    forms = [(str(mime)[:_MIME_CHARS], _form(given)) for mime, given in found.items()]
    return {mime: form for mime, form in forms[: wire.MAX_FORMS] if form is not None}, _metadata(notes)


def _ask(value: Any, name: str, **arguments: Any) -> Any:
    try:
        method = getattr(value, name, None)
        # an object that has every attribute (a mock, a proxy) has none of these
        if not callable(method) or getattr(value, "_pyisolate_canary_", None) is not None:
            return None
        return traced(method, **arguments)
    except Exception:
        traceback.print_exc()
        return None


def _form(given: Any) -> str | bytes | None:
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, str):
        return _text(given)
    try:
        return json.dumps(given)
    except (TypeError, ValueError, RecursionError):
        return None


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _metadata(notes: Any) -> dict[str, dict[str, Any]]:
    """Return what fits: a few plain facts for each form."""
    if not isinstance(notes, dict):
        return {}
    kept = {}
    for mime, facts in list(notes.items())[: wire.MAX_FORMS]:
        if isinstance(facts, dict):
            plain = {
                str(key)[:_MIME_CHARS]: fact
                for key, fact in facts.items()
                if fact is None or type(fact) in (bool, int, float) or (type(fact) is str and len(fact) < 1000)
            }
            kept[str(mime)[:_MIME_CHARS]] = dict(list(plain.items())[: wire.MAX_FORMS])
    return kept


def _is_figure(value: Any) -> bool:
    figure: Any = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    return isinstance(figure, type) and isinstance(value, figure)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


class _PyplotFinder:
    """Gives `matplotlib.pyplot` a `show` that shows: without a screen it only warns."""

    def __init__(self, figures: Callable[[], None]) -> None:
        def show(*_arguments: Any, **_options: Any) -> None:
            """Show all open figures: they arrive in `Result.outputs`."""
            figures()

        self._show = show  # pyplot gives it attributes, which no function of C has
        self.find_spec = untraced(self._find_spec)

    def _find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != _PYPLOT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute, show = spec.loader.exec_module, self._show

        def exec_module(module: ModuleType) -> None:
            traced(execute, module)
            module.show = show  # type: ignore[attr-defined]

        spec.loader.exec_module = untraced(exec_module)  # type: ignore[method-assign]
        return spec


def watch_pyplot(display: Display) -> None:
    """Have `pyplot.show` display, once the guest imports it."""
    sys.meta_path.insert(0, _PyplotFinder(display.figures))
