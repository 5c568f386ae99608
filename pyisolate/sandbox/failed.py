"""What the host keeps of an exception that a guest did not catch: so much text, without the passwords of URLs."""

from __future__ import annotations

import msgspec

from ..cell import wire
from ..errors import without_controls
from ..telemetry.sanitize import hide_in_text, without_source


def as_kept(answer: wire.Failed) -> wire.Failed:
    """Return the answer as errors, events and logs of the host may show it; targets of events are hidden alike.

    It is cut here, too: what a cell's own code leaves out, a frame that the guest wrote itself may hold.
    """
    return msgspec.structs.replace(
        answer,
        type_name=hide_in_text(answer.type_name[: wire.MAX_TYPE_NAME_CHARS]),
        message=hide_in_text(answer.message[: wire.MAX_MESSAGE_CHARS]),
        traceback=hide_in_text(answer.traceback[-wire.MAX_TRACEBACK_CHARS :]),
    )


def keep_traceback(error: BaseException, answer: wire.Failed) -> None:
    """Put the guest's traceback on an error, or a KeyboardInterrupt, and its frames where logs print them."""
    vars(error)["traceback"] = answer.traceback
    error.add_note(without_controls(without_source(answer.traceback)))
