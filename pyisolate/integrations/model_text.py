"""What a model reads of a sandbox: refusals and outcomes as text of bounded length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from ..capability import Capability
from ..cell.values import text_of
from ..errors import PolicyError, SandboxError
from ..sandbox.beneath import FileEntry
from ..sandbox.files import SandboxFiles
from ..sandbox.result import Result
from ..sandbox.rich import RichOutput
from ..telemetry.event import DenialEvent

#: Characters of one stream, file or value that go back to the model.
MOST_TEXT = 60_000
#: Files that a list names.
_MOST_NAMES = 1000
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def for_model(events: Iterable[DenialEvent]) -> list[DenialEvent]:
    """Return the refusals that a model may read of: which files a host has, and does not grant, is not its business."""
    return [event for event in events if event.capability is not Capability.FS_LOOKUP]


def in_words(event: DenialEvent) -> str:
    """Return a refusal as a model reads it: what, why by code, and which rule an operator might add."""
    rule = (
        "no policy can grant it" if event.suggestion is None else f"a rule that would: {json.dumps(event.suggestion)}"
    )
    return f"refused: {event.capability.value} on {event.target} ({event.code.value}); {rule}"


def cut(text: str) -> str:
    """Return text, at most `MOST_TEXT` characters of it, and how many are left out."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}\n[{len(text) - MOST_TEXT} characters more]"


def outcome_text(outcome: Result | SandboxError, denials: Iterable[DenialEvent], *, ended: bool) -> str:
    """Return what code wrote, gave, raised and was refused. `ended`: its sandbox has, and the next one is new."""
    lines = [cut(outcome.stdout), cut(outcome.stderr)]
    if isinstance(outcome, SandboxError):
        if not isinstance(outcome, PolicyError):
            lines.append(cut(getattr(outcome, "traceback", "") or outcome.summary))
    elif outcome.value is not None:
        lines.append(cut(text_of(outcome.value)))
    lines += [in_words(event) for event in for_model(denials)]
    if ended:
        lines.append("the sandbox has ended: variables and files are gone, the next call starts a new one")
    return "\n".join(line.rstrip("\n") for line in lines if line) or "done, no output"


def file_text(files: SandboxFiles, path: str) -> str:
    """Return what is in a text file of a workspace. Raises what `SandboxFiles.read` raises."""
    return cut(files.read(path, max_bytes=MOST_TEXT).decode("utf-8", "backslashreplace"))


def file_list(files: SandboxFiles, path: str) -> tuple[str, list[FileEntry]]:
    """Return the files below a directory of a workspace, a line each, and their entries."""
    entries = files.list(path, recursive=True)[:_MOST_NAMES]
    lines = [f"{one.kind:<9} {one.size:>9}  {one.path}" for one in entries]
    return cut("\n".join(lines) or "no files"), entries


def images(outputs: Iterable[RichOutput]) -> Iterator[tuple[str, bytes]]:
    """Iterate over MIME type and bytes of what was displayed, one form each."""
    for output in outputs:
        for mime in _IMAGES:
            data = output.data.get(mime)
            if isinstance(data, bytes):
                yield mime, data
                break
