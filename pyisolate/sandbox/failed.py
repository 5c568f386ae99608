"""What the host keeps of an exception that a guest did not catch: text, without the passwords of URLs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ..telemetry.sanitize import hide_in_lines, without_source

if TYPE_CHECKING:
    from ..cell.wire import Failed
    from ..errors import SandboxError


def without_user_information(answer: Failed) -> Failed:
    """Return the answer as errors, events and logs of the host may show it; targets of events are hidden alike."""
    return msgspec.structs.replace(
        answer,
        type_name=hide_in_lines(answer.type_name),
        message=hide_in_lines(answer.message),
        traceback=hide_in_lines(answer.traceback),
    )


def keep_traceback(error: SandboxError, answer: Failed) -> None:
    """Put the guest's traceback on an error, and its frames where logs print them."""
    error.traceback = answer.traceback
    error.add_note(without_source(answer.traceback))
