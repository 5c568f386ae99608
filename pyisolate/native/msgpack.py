"""What a msgpack value takes once it is decoded, without decoding it."""

from __future__ import annotations

import errno

from ._native import lib

#: A map has no more keys that are numbers: their hashes are no secret, and may all collide.
MAX_NUMBER_KEYS = int(lib.MSGPACK_NUMBER_KEYS)
_WHY = {
    errno.EPROTO: "it is malformed",
    errno.EBADMSG: "it holds what is not plain data: an extension type, a key that is a container, or a map with more "
    f"than {MAX_NUMBER_KEYS} numbers as keys",
}


class Unfit(ValueError):
    """A value that must not be decoded; `too_large` where only its size or depth is wrong."""

    def __init__(self, why: str, *, too_large: bool = False) -> None:
        self.too_large = too_large
        super().__init__(why)


def measure(data: bytes, *, max_depth: int, limit_bytes: int) -> int:
    """Return how many bytes the one plain value in `data` takes as Python objects. Raises Unfit."""
    found = int(lib.msgpack_measure(data, len(data), max_depth, limit_bytes))
    if found >= 0:
        return found
    if found == -errno.ELOOP:
        raise Unfit(f"it is nested deeper than {max_depth}", too_large=True)
    if found == -errno.E2BIG:
        raise Unfit(f"it would take more than {limit_bytes >> 20} MiB once decoded", too_large=True)
    raise Unfit(_WHY[-found])
