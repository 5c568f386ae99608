"""Where uv is: beside the interpreter that runs the tests (the extra `test`), or on the search path."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def search_path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def find_uv() -> str | None:
    return shutil.which("uv", path=search_path())
