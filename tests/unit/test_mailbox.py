"""What waits for the host is counted by the memory that it takes."""

from __future__ import annotations

import tracemalloc

import pytest

from pyisolate.sandbox.mailbox import Mailbox


@pytest.mark.parametrize("size", [2, 10_000])
def test_the_memory_of_messages_of_any_size_is_what_it_says(size: int) -> None:
    mailbox = Mailbox()
    tracemalloc.start()
    try:
        for _ in range(200_000 // size + 20):
            mailbox.put(bytes(size))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 * held <= mailbox.waiting_bytes <= 1.3 * held
    while mailbox.waiting_bytes:
        mailbox.take(0, lambda: None)
