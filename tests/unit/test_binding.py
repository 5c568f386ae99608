"""What one sandbox has at its enforcers."""

from __future__ import annotations

import os
from typing import cast

import pytest

from pyisolate.kernel.binding import KernelBinding
from pyisolate.kernel.report import Reporter


def test_a_file_for_a_sandbox_that_has_ended_is_closed() -> None:
    binding = KernelBinding("ended", (), cast(Reporter, None))
    binding.close()
    read_end, write_end = os.pipe()
    assert not binding.give(1, 1, write_end, empty=False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_end)
    assert os.read(read_end, 1) == b""
    os.close(read_end)
