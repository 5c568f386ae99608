"""What a notebook shows of a guest: forms that cannot act in the page that shows them, and refusals as a table.

The page of a notebook may start programs on the machine, so a script of the guest's in it would be out of the sandbox.
Inert forms pass as they are; HTML and SVG go where no script runs and nothing is loaded; the rest is left out.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from typing import Any

from ..sandbox.rich import RichOutput
from ..telemetry.event import DenialEvent

#: Rows of one table of refusals.
MOST_ROWS = 50
#: Levels of JSON that the page gets: parsers end at some depth, the client's too.
MOST_LEVELS = 64
#: Forms of text that a page would make HTML of.
_SHOWN_AS_TEXT = ("text/markdown", "text/latex")
_FRAME = (
    '<iframe sandbox referrerpolicy="no-referrer" style="width:100%;height:{height}px;border:0;resize:vertical" '
    'srcdoc="{page}"></iframe>'
)
_PAGE = (
    '<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    "<style>body{font:13px sans-serif;background:#fff;color:#000}td,th{padding:2px 8px;text-align:right}</style>"
)
#: What a terminal obeys, but for colours: escape sequences, control characters, directions of writing.
_OBEYED = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return text with what moves a terminal's cursor, or more, written out; colours stay."""
    return _OBEYED.sub(lambda found: f"\\x{ord(found.group()):02x}", text)


def bundle(output: RichOutput) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return data and metadata, as Jupyter has them, of what the guest displayed."""
    untrusted = set(output.untrusted)
    jupyter = output.to_jupyter()
    data = {mime: form for mime, form in jupyter["data"].items() if mime not in untrusted and _is_flat(form)}
    metadata = {mime: facts for mime, facts in output.metadata.items() if mime in data}
    given = {mime: _text(output.data[mime]) for mime in untrusted}
    if "text/html" in given:
        data["text/html"] = _framed(given["text/html"])
    elif "image/svg+xml" in given and not any(mime.startswith("image/") for mime in data):
        picture = base64.b64encode(given["image/svg+xml"].encode()).decode()  # an image runs no script of its own
        data["text/html"] = f'<img alt="SVG" src="data:image/svg+xml;base64,{picture}">'
    for mime in _SHOWN_AS_TEXT:
        if mime in given:
            data["text/plain"] = given[mime]
    data.setdefault("text/plain", f"[not shown: {', '.join(sorted(output.data))}]")
    data["text/plain"] = plain(str(data["text/plain"]))
    return data, metadata


def denials(events: Sequence[DenialEvent]) -> dict[str, str]:
    """Return refusals as a table, in HTML and in text."""
    head = ("refused", "target", "code", "broker", "kernel", "times", "at", "a rule that would allow it")
    rows = [_row(event) for event in events[:MOST_ROWS]]
    more = f"{len(events) - MOST_ROWS} more" if len(events) > MOST_ROWS else ""
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{cells}</table>{more}"
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return {"text/html": table, "text/plain": plain("\n".join(line.rstrip() for line in [*lines, more]).rstrip())}


def _is_flat(form: Any) -> bool:
    """Tell whether JSON is nested less deeply than readers of it may fail at; text is."""
    level = [form]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level if isinstance(outer, list | dict)
                 for inner in (outer.values() if isinstance(outer, dict) else outer)]  # fmt: skip
        if not level:
            return True
    return False


def _row(event: DenialEvent) -> tuple[str, ...]:
    rule = "no policy can grant it" if event.suggestion is None else json.dumps(event.suggestion)
    return (
        event.capability.value,
        event.target,
        event.code.value,
        event.broker_decision.value,
        event.kernel_decision.value,
        str(event.count),
        event.origin or "",
        rule,
    )


def _framed(page: str) -> str:
    """Return a frame of another origin that shows a page, as high as its rows may need (pixels)."""
    height = min(600, 60 + 26 * (page.count("<tr") or 8))
    return _FRAME.format(height=height, page=html.escape(_PAGE + page))


def _text(form: str | bytes) -> str:
    return form if isinstance(form, str) else form.decode("utf-8", "replace")
