"""Refuse the forbidden names; warn of modules that ask to be cut."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = re.compile(r"(^|_)(utils?|common|helpers?|managers?)(_|$)", re.IGNORECASE)
CLASS = re.compile(r"^\s*class\s+\w*(Utils?|Common|Helpers?|Manager)\b", re.MULTILINE)
LONG = {".py": 500, ".c": 500}
LONG_BPF = 300


def tracked() -> list[Path]:
    """Return the files of the work tree that git tracks or would track; all files where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(path.relative_to(ROOT)) for top in ("pyisolate", "bpf", "tests") for path in (ROOT / top).rglob("*")
        ]
    return [Path(name) for name in names if (ROOT / name).is_file()]


def main() -> int:
    """Print findings; return 1 when a forbidden name is there."""
    refused = []
    for path in tracked():
        if any(FORBIDDEN.search(part.split(".")[0]) for part in path.parts):
            refused.append(f"{path}: a forbidden name (utils, common, helpers, manager). Hint: name the thing it holds")
        if path.suffix not in LONG:
            continue
        text = (ROOT / path).read_text(errors="replace")
        if path.suffix == ".py" and (found := CLASS.search(text)):
            refused.append(f"{path}: a forbidden class name: {found.group(0).strip()}")
        limit = LONG_BPF if path.name.endswith(".bpf.c") else LONG[path.suffix]
        if (lines := text.count("\n")) > limit:
            print(f"lint: warning: {path} has {lines} lines (over {limit}): cut it along a word of the glossary")
    for line in refused:
        print(f"lint: {line}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
