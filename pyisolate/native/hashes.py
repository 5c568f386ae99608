"""Whether keys spread in a dict or a set: the hashes of all but text and bytes are no secret, and a guest can choose
keys that collide."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ._native import ffi, lib
from .msgpack import MAX_NUMBER_KEYS

#: Types whose hashes no guest knows.
SECRET_HASHES = frozenset({str, bytes})
#: How often is looked for the place of a key on average, and for all keys beside: honest numbers need up to 15, where
#: they are multiples of a power of two.
_LOOKS, _LOOKS_BESIDE = 64, 4096
#: Tables from the smallest to four times the smallest that has room: a set grows by four.
_SMALLEST_BITS, _LARGER = 3, 2


def collide(keys: Sequence[object], *, in_set: bool = False) -> bool:
    """Say whether to fill a dict (a set) with these takes longer than in proportion to their number.

    Each size that its table has on the way is looked at by itself. Raises TypeError for what has no hash.
    """
    if len(keys) <= MAX_NUMBER_KEYS or set(map(type, keys)) <= SECRET_HASHES:
        return False
    hashes = ffi.from_buffer("int64_t[]", array("q", map(hash, keys)))
    last = (len(keys) * 3 // 2).bit_length() + _LARGER
    for bits in range(_SMALLEST_BITS, last + 1):
        count = min(len(keys), (2 << bits) // 3)
        taken = ffi.from_buffer("uint8_t[]", bytearray(1 << bits))
        if lib.hashes_looks(hashes, count, in_set, taken, 1 << bits, _LOOKS * count + _LOOKS_BESIDE) < 0:
            return True
    return False
