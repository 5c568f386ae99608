"""`select.epoll`, also where gevent has taken it out of `select`: what is patched there would wait for its own loop."""

from __future__ import annotations

import importlib.util
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from select import epoll
else:

    def _epoll() -> type:
        if (found := getattr(select, "epoll", None)) is not None:
            return found
        spec = importlib.util.find_spec("select")
        fresh = importlib.util.module_from_spec(spec)  # the extension's own, as no library has changed it
        spec.loader.exec_module(fresh)
        return fresh.epoll

    epoll = _epoll()

__all__ = ["epoll"]
