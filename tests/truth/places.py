"""What scenarios meet: directories with grants and denials beside each other, and the policies that say so."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyisolate

_FOLDERS = ("no/sub", "ro/sub", "ro/den", "rw/sub", "two/sub", "make", "drop")
_FILES = {
    "no/secret.txt": "secret\n",
    "no/data.json": "{}\n",
    "no/sub/deep.txt": "deep\n",
    "ro/a.txt": "one\ntwo\n",
    "ro/b.csv": "x,y\n1,2\n",
    "ro/sub/c.txt": "c\n",
    "ro/den/s.txt": "denied\n",
    "ro/script.sh": "#!/bin/sh\ncat <no>/secret.txt\n",
    "rw/f.txt": "f\n",
    "rw/sub/g.txt": "g\n",
    "rw/script.sh": "#!/bin/sh\necho ran\n",
    "two/h.txt": "h\n",
}
_LINKS = {
    "no/link": "secret.txt",
    "ro/out": "../no/secret.txt",
    "ro/outdir": "../no",
    "ro/in": "a.txt",
    "rw/out": "../no/secret.txt",
    "rw/toro": "../ro/a.txt",
    "no/into": "../ro/a.txt",
}


@dataclass(frozen=True)
class Places:
    """The directories below one root, and the addresses, that scenarios name by `<...>`."""

    root: Path
    port: int
    closed: int

    def names(self) -> dict[str, str]:
        """Return the names: `no` nothing granted, `ro` readable (but `ro/den`), `rw` and `two` granted in full."""
        folders = {name: str(self.root / name) for name in ("no", "ro", "rw", "two", "make", "drop")}
        programs = {"true": os.path.realpath("/bin/true"), "sh": os.path.realpath("/bin/sh")}
        return {**folders, **programs, "root": str(self.root), "port": str(self.port), "closed": str(self.closed)}

    def restore(self) -> None:
        """Put all files back as they were; what is there remains the same file: a grant names it."""
        for folder, folders, files in os.walk(self.root, topdown=False):
            for inside in (Path(folder, name) for name in (*files, *folders)):
                name = str(inside.relative_to(self.root))
                if inside.is_symlink() or not inside.is_dir():
                    if (os.readlink(inside) != _LINKS.get(name)) if inside.is_symlink() else name not in _FILES:
                        inside.unlink()
                elif inside.is_dir() and not any(f"{known}/".startswith(f"{name}/") for known in _FOLDERS):
                    inside.rmdir()
        for name in _FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for folder in (self.root, *(path for path in self.root.rglob("*") if path.is_dir())):
            if folder.stat().st_mode & 0o777 != 0o777:  # a change makes tables be made anew
                folder.chmod(0o777)
        for name, text in _FILES.items():
            (self.root / name).write_text(text.replace("<no>", str(self.root / "no")))
            (self.root / name).chmod(0o777 if name.endswith(".sh") else 0o666)
        for name, target in _LINKS.items():
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(target)

    def policy(self, name: str) -> pyisolate.Policy:
        """Return one of the policies that scenarios name."""
        return _policy(name, self)


def _policy(name: str, places: Places) -> pyisolate.Policy:
    at = {key: str(places.root / key) for key in ("ro", "rw", "two", "make", "drop")}
    preset = pyisolate.Policy.preset("shell" if name.startswith("shell") else "compute").with_name(name)
    reads = preset.allow_import("ctypes").allow_native("_ctypes").allow_read(at["ro"])
    both = reads.deny("fs.read", f"{at['ro']}/den").allow_read(at["rw"]).allow_write(at["rw"])
    match name.removeprefix("shell-"):
        case "plain" | "shell":
            return both
        case "absent":  # a file that is granted, not there, in a directory that can only be read
            return reads.allow_write(f"{at['ro']}/absent.txt")
        case "present":
            return reads.allow_write(f"{at['ro']}/a.txt")
        case "make":
            rights = ["read", "create"]
            return pyisolate.Policy.from_dict(_with(reads, {"fs": [{"path": at["make"], "allow": rights}]}))
        case "drop":
            return preset.allow_write(at["drop"])
        case "two":
            return both.allow_read(at["two"]).allow_write(at["two"])
        case "net":
            connects = both.allow_connect(f"127.0.0.1:{places.port}")
            return pyisolate.Policy.from_dict(_with(connects, {"net": [{"bind": f"127.0.0.1:{places.closed}"}]}))
        case "fork":
            return both.allow_exec("/usr/bin/true")
    raise ValueError(name)


def _with(policy: pyisolate.Policy, more: dict[str, list[dict[str, object]]]) -> dict[str, object]:
    document = policy.to_dict()
    for section, rules in more.items():
        document[section] = [*document.get(section, []), *rules]
    return document


@contextlib.contextmanager
def make_places() -> Iterator[Places]:
    """Make files and a listening socket, outside of /tmp; everything is removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="pyisolate-truth-", dir="/var/tmp"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        other = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        places = Places(root, listening.getsockname()[1], other.getsockname()[1])
        places.restore()
        yield places
