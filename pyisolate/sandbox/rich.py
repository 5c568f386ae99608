"""What a guest displayed, as Jupyter has it: one thing in several forms by MIME type. All of it is untrusted."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, Literal

import msgspec

#: Forms that a viewer shows without running anything of them.
_INERT = frozenset({"text/plain", "image/png", "image/jpeg", "image/gif", "image/webp", "application/json"})
_SUFFIXES = {
    "text/plain": ".txt",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/latex": ".tex",
    "image/svg+xml": ".svg",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "application/pdf": ".pdf",
    "application/json": ".json",
}
#: Put before HTML that is saved: a browser that opens the file runs no script of it and loads nothing.
_NO_SCRIPTS = (
    '<!-- untrusted: made by sandboxed code --><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
)


class RichOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the guest displayed: `data` by MIME type, text as str, images as bytes, JSON as its text.

    `kind` is `execute_result` for the value of a last expression, else `display_data`. `metadata` has plain facts by
    MIME type. `untrusted` names the forms that can run code where they are shown.
    """

    kind: Literal["display_data", "execute_result"]
    data: dict[str, str | bytes]
    metadata: dict[str, dict[str, Any]] = {}

    @property
    def untrusted(self) -> tuple[str, ...]:
        """MIME types of `data` that can run code of the guest's where they are shown: HTML, SVG, scripts, unknown ones.

        Show them in a sandboxed frame of another origin, or not at all.
        """
        return tuple(mime for mime in self.data if mime not in _INERT)

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        return sum(len(mime) + len(form) for mime, form in self.data.items()) + len(str(self.metadata))

    def to_jupyter(self) -> dict[str, Any]:
        """Return it as a cell's output of a notebook (nbformat 4): bytes as base64, `untrusted` in its metadata."""
        output: dict[str, Any] = {
            "output_type": self.kind,
            "data": {mime: _jupyter_form(mime, form) for mime, form in self.data.items()},
            "metadata": {**self.metadata, "pyisolate": {"untrusted": list(self.untrusted)}},
        }
        return output | {"execution_count": None} if self.kind == "execute_result" else output

    def save(self, directory: str | os.PathLike[str], stem: str) -> list[Path]:
        """Write each form into a directory as a file `stem` with a suffix by its type; return the paths.

        Files of these names are replaced, links are not followed. What is untrusted has it in its name, and HTML gets
        a policy that lets it run no script. Raises OSError.
        """
        saved = []
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for number, (mime, form) in enumerate(self.data.items()):
                name = stem + (".untrusted" if mime in self.untrusted else "") + _SUFFIXES.get(mime, f".{number}.bin")
                _write_new(folder, name, _file_form(mime, form))
                saved.append(Path(directory, name))
        finally:
            os.close(folder)
        return saved


def _jupyter_form(mime: str, form: str | bytes) -> Any:
    if isinstance(form, bytes):
        return base64.b64encode(form).decode()
    if mime == "application/json" or mime.endswith("+json"):
        try:
            return json.loads(form)
        except (ValueError, RecursionError):
            return form
    return form


def _file_form(mime: str, form: str | bytes) -> bytes:
    if mime == "text/html":
        return _NO_SCRIPTS.encode() + (form.encode() if isinstance(form, str) else form)
    if isinstance(form, bytes):
        return form
    if (mime.startswith("image/") and mime != "image/svg+xml") or mime == "application/pdf":
        try:  # Jupyter's own form of bytes
            return base64.b64decode(form, validate=False)
        except ValueError:
            pass
    return form.encode()


def _write_new(folder: int, name: str, data: bytes) -> None:
    try:  # the guest may have put a link there
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
        file.write(data)
