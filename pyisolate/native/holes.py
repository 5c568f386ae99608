"""Fill the holes that freed objects have left in a zygote, so that what its cells make lies together.

Sources: malloc(3), mallinfo(3), CPython's Objects/obmalloc.c.
"""

from __future__ import annotations

from ._native import lib


def fill() -> None:
    """Take what is free between what this process has in use, for good: what is made next gets pages of its own.

    In a zygote: who fills a hole there copies the page around it. Nothing in other interpreters than CPython's usual.
    """
    lib.holes_fill()
