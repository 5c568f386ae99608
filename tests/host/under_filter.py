"""Run by test_notify_calls: what people do in Python, under the filter that has no listener."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import sqlite3
import sys

from pyisolate.kernel.seccomp import filter as seccomp
from pyisolate.native.seccomp import install

install(seccomp.cell_program(notify=False), notify=False)

with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(abs, range(100))) == 4950
print("threads")

assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)(3) == 4
print("ctypes")

asyncio.run(asyncio.sleep(0.001))
print("asyncio")

assert sqlite3.connect(":memory:").execute("select 1").fetchall() == [(1,)]
print("sqlite")

import numpy as np  # noqa: E402 - its native code is loaded under the filter

assert (np.random.rand(300, 300) @ np.random.rand(300, 300)).shape == (300, 300)
print("numpy")

import pandas as pd  # noqa: E402

assert pd.DataFrame({"a": range(10)}).describe().shape == (8, 1)
print("pandas")

try:
    os.fork()
except PermissionError:
    print("refused")
sys.stdout.flush()
