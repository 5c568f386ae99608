"""What the host pickles for a guest, where the two run different versions of the interpreter."""

from __future__ import annotations

import pickle  # host to guest only: this side is confined
import sys
from collections.abc import Callable
from typing import Any

#: The function of cloudpickle that makes a function, or a class's methods, of the bytecode that came along.
_MAKES_CODE = b"_make_function"


def reader_of(host_tag: str) -> Callable[[bytes], Any]:
    """Return what reads the pickles of a host with this cache tag; bytecode is for one version of the interpreter."""
    own = sys.implementation.cache_tag
    if host_tag in ("", own):
        return pickle.loads

    def read(payload: bytes) -> Any:
        if _MAKES_CODE in payload:
            raise TypeError(
                f"a function of the host's ({host_tag}) cannot run here ({own}): its bytecode is for that version. "
                "Hint: define it by exec, or call it by the name of its module"
            )
        return pickle.loads(payload)

    return read
