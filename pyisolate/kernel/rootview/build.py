"""Builds one root view in the calling process's own mount namespace. Used by `worker.py` only.

The new root is a small tmpfs with exactly the directories that lead to granted paths; granted places are bind mounts on
them. Its mount is stacked on "/" (mounting there does not move this process's root, so host paths keep their meaning)
and worked on by relative names from its descriptor: no staging directory on the host, nothing to clean up there.

Decisions:
- Binds are recursive: a grant covers the tree as the host shows it, mounts inside included, and a user namespace may
  not bind a tree without the mounts that cover parts of it (has_locked_children, fs/namespace.c). They are the mounts
  of the moment: propagation is private.
- Every bind is nosuid and nodev; read-only unless writing is granted; noexec unless EXEC or MAP_EXEC is.
- A denied place below a grant is covered: a directory by an empty tmpfs, a file by an empty file, both of mode 000.
- A cover hides and protects contents, not the name: unlink and rename refuse mountpoints of the caller's own mount
  namespace only (is_local_mountpoint, fs/namei.c), and a cell stands in a detached tree. So a denial of deleting
  below a grant of deleting counts as not enforced. Whatever is renamed takes its cover along.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from ...decision import Mode
from ...native import mount
from ...policy import workspace
from ...policy.compiled import CompiledPolicy, FsRight
from .paths import RUNNING, WRITING, Place, Places, shown

_SAFE = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
_SEALED = _SAFE | mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOEXEC
#: Our own directories hold names only: a page or two would do.
TMPFS = {"size": "1m", "nr_inodes": "32k"}

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_RANDOM_DEVICES = ("/dev/random", "/dev/urandom")
#: It leads to the terminal of one's session, and a cell's session has none: ENXIO, as in any program without one.
_TERMINAL = "/dev/tty"
#: Where open descriptors have names, and how many are shown: shells take those from 63 downwards.
_DESCRIPTORS, _SHOWN_DESCRIPTORS = "/dev/fd", 64
_HOSTS, _NSSWITCH = "/etc/hosts", "/etc/nsswitch.conf"


class Problem(NamedTuple):
    """A rule that the view cannot honour. `fatal` problems fail a strict `prepare`."""

    text: str
    rule: str | None
    missing: str
    hint: str
    fatal: bool = True


class Cover(NamedTuple):
    """What covers a path in the view so far: mount attributes, or None where only our tmpfs or a mask is."""

    attributes: int | None


class RootBuild:
    """One build. `run` returns the tree's descriptor; `notes`, `generated` and `unenforced` tell the rest.

    `parent`: a detached directory that holds the workspace's place, for a policy that has one.
    """

    def __init__(self, policy: CompiledPolicy, parent: int | None = None) -> None:
        self.policy, self._parent = policy, parent
        self.places = Places.of(policy)
        self.notes = [self.places.note(rule, why) for rule, why in self.places.missing if rule.allow]
        self.generated: list[str] = []
        self.unenforced: list[Problem] = []
        #: programs that the host is asked about: none runs before its gate is opened (`gates`)
        self.gates: list[str] = []
        self._covers: dict[str, Cover] = {}
        self._mirrors = False
        self._sealed_last: list[int] = []
        self._running_enforced = Mode.MONITOR not in (policy.mode_of("process"), policy.mode_of("import"))

    def run(self) -> int:
        """Build, and return a descriptor of the detached tree. Leaves the working directory in the tree."""
        base = self._base()  # before anything is stacked on "/": a copy of "/" would take that along
        self._store = mount.new_tmpfs(TMPFS | {"mode": "0755"}, _SAFE | mount.MOUNT_ATTR_NOEXEC)
        mount.move_mount(self._store, "/")
        mount.move_mount(base, "/")
        self._write_store("blank", b"", 0o000)
        os.fchdir(base)
        if self._mirrors:
            self._mirror(self._covers["/"].attributes or 0)
        for place in self.places:
            if place.path != "/":
                self._place(place)
        self._check_missing_denials()
        self._devices()
        if any(place.in_force & FsRight.EXEC for place in self.places):
            self._own_descriptors()
        if self.policy.net:
            self._name_service()
        return self._finished(base)

    def _finished(self, base: int) -> int:
        """Add what stands in any view, make it read-only, and return a descriptor of the detached tree."""
        if self._parent is not None:
            self._workspace(self._parent)
        self._links()
        self._seal()
        self.base = base
        return mount.open_tree(dirfd=base, recursive=True)

    def _seal(self) -> None:
        """Make our own directories read-only: they were written to until here."""
        for descriptor in self._sealed_last:
            mount.mount_setattr(descriptor, _SEALED)

    # -- places -------------------------------------------------------------------------------------------------

    def _base(self) -> int:
        """Return the tree's root, detached: our tmpfs, or a copy of the host's root where that is granted."""
        root = next((place for place in self.places if place.path == "/"), None)
        attributes = self._attributes(root) if root is not None and shown(root.in_force) else None
        self._mirrors = attributes is not None and self._parent is not None
        self._covers["/"] = Cover(attributes)
        if attributes is not None and not self._mirrors:
            base = mount.open_tree("/", recursive=True)
            mount.mount_setattr(base, attributes, propagation=mount.MS_PRIVATE, recursive=True)
            return base
        return self._own_base()

    def _own_base(self) -> int:
        """Return a directory of our own to be the tree's root, detached."""
        # NOATIME: who follows its links without waiting (RESOLVE_CACHED) cannot write when they were read
        attributes = _SAFE | mount.MOUNT_ATTR_NOEXEC | mount.MOUNT_ATTR_NOATIME
        base = mount.new_tmpfs(TMPFS | {"mode": "0755"}, attributes)
        self._sealed_last.append(base)
        return base

    def _mirror(self, attributes: int) -> None:
        """Show what the host's root holds in one of our own, which has room for the workspace's place.

        Where a name leads to the workspace, the directory that holds it is one of our own, too: that takes /dev/shm.
        """
        leads = set(workspace.links(self.policy))
        own = {os.path.dirname(link) for link in leads}
        self._mirror_directory("/", attributes, leads | {workspace.ROOT}, own)

    def _mirror_directory(self, directory: str, attributes: int, left_out: set[str], own: set[str]) -> None:
        for entry in os.scandir(directory):
            if entry.path in left_out:
                continue
            with contextlib.suppress(FileNotFoundError):  # it was taken away by now
                if entry.is_symlink():
                    os.symlink(os.readlink(entry.path), entry.path[1:])
                elif entry.path in own:
                    self._directory(entry.path)
                    self._mirror_directory(entry.path, attributes, left_out, own)
                else:
                    self._bind(entry.path, entry.is_dir(), attributes)

    def _place(self, place: Place) -> None:
        """Make one place what its rights say, where that differs from what covers it already."""
        cover = self._cover(place.path)
        visible = shown(place.in_force)
        if place.lost & FsRight.READ and not place.in_force & (WRITING | FsRight.EXEC):
            if visible:
                self.notes.append(f"{place.text}: {place.path} is hidden altogether, its metadata too")
            visible = False
        if not visible:
            if cover.attributes is not None:
                self._check_name(place)
                self._mask(place)
            elif place.in_force & FsRight.LIST and place.is_directory:
                self._directory(place.path)
            return
        self._check(place)
        attributes = self._attributes(place)
        if place.gated and not place.is_directory:
            self.gates.append(place.path)
            attributes |= mount.MOUNT_ATTR_NOEXEC
        if attributes != cover.attributes or place.gated:
            self._bind(place.path, place.is_directory, attributes)

    def _attributes(self, place: Place) -> int:
        attributes = _SAFE
        if not place.in_force & WRITING:
            attributes |= mount.MOUNT_ATTR_RDONLY
        if self._running_enforced and (not place.in_force & RUNNING or place.lost & FsRight.EXEC):
            attributes |= mount.MOUNT_ATTR_NOEXEC
        return attributes

    def _bind(self, path: str, is_directory: bool, attributes: int, source: int | None = None) -> None:
        """Mount the host's `path` (or `source`, a detached tree) at the same name in the view."""
        if path in (*_DEVICES, *_RANDOM_DEVICES, _TERMINAL) and not is_directory:
            attributes &= ~mount.MOUNT_ATTR_NODEV
        if source is None:
            # The place was resolved a moment ago: a link that appears since must not lead us elsewhere.
            at = mount.openat2(path, os.O_PATH, mount.RESOLVE_NO_SYMLINKS)
            source = mount.open_tree(dirfd=at, recursive=True)
            os.close(at)
        mount.mount_setattr(source, attributes, propagation=mount.MS_PRIVATE, recursive=True)
        if is_directory:
            self._directory(path)
        else:
            self._file(path)
        mount.move_mount(source, path[1:])
        os.close(source)
        self._covers[path] = Cover(attributes)

    def _mask(self, place: Place) -> None:
        """Cover a denied place. Where something below it is granted, or its names may be listed, it can be walked."""
        if not place.is_directory:
            self._bind(place.path, False, _SEALED, mount.open_tree("blank", dirfd=self._store))
            return
        inner = place.path.rstrip("/") + "/"
        walked = any(other.path.startswith(inner) and other.in_force for other in self.places)
        mode = "0755" if place.in_force & FsRight.LIST else "0111" if walked else "0000"
        cover = mount.new_tmpfs(TMPFS | {"mode": mode}, _SAFE | mount.MOUNT_ATTR_NOEXEC)
        mount.move_mount(cover, place.path[1:])
        self._sealed_last.append(cover)
        self._covers[place.path] = Cover(None)

    def _check(self, place: Place) -> None:
        """Note which lost rights neither mount attributes nor Landlock can take away from a visible place."""
        lost, left = place.lost, place.in_force
        failed = FsRight(0)
        if left & WRITING:
            failed |= lost & WRITING
        if left & FsRight.EXEC:
            failed |= lost & FsRight.MAP_EXEC
        failed |= lost & (FsRight.READ | FsRight.METADATA)
        if left & WRITING and not left & FsRight.METADATA:
            failed |= FsRight.METADATA  # a writable mount lets its owner change modes and times
        if failed:
            self._refuse_partial(place, failed)
        else:
            self._check_name(place)

    def _check_name(self, place: Place) -> None:
        if place.lost & FsRight.DELETE:
            self._refuse_partial(place, FsRight.DELETE)

    def _refuse_partial(self, place: Place, failed: FsRight) -> None:
        if place.stated:
            names = ", ".join(right.name.lower() for right in failed if right.name)
            self.unenforced.append(
                Problem(
                    f"build the root view, {place.text}: {names} at {place.path} cannot be taken from the grant above",
                    place.text,
                    "BPF-LSM",
                    "grant narrower paths instead; a denial of everything works below a grant that cannot delete",
                )
            )

    def _check_missing_denials(self) -> None:
        """A denied path that is not there cannot be covered; under a writable grant the guest could create it."""
        for rule, why in self.places.missing:
            if not rule.deny or not rule.text:
                continue
            cover = self._cover(os.path.realpath(rule.path))
            if cover.attributes is None:
                continue
            if cover.attributes & mount.MOUNT_ATTR_RDONLY:
                self.notes.append(f"{rule.text}: {rule.path} cannot be covered ({why}); it stays visible if it appears")
                continue
            self.unenforced.append(
                Problem(
                    f"build the root view, {rule.text}: {rule.path} cannot be covered ({why}); the guest may create it",
                    rule.text,
                    "BPF-LSM",
                    "create the path before the sandbox starts, or do not grant writing above it",
                )
            )

    # -- what is not the host's ---------------------------------------------------------------------------------

    def _devices(self) -> None:
        """Show the devices that programs take for granted; whether they open is Landlock's to say."""
        for path in _DEVICES + (_RANDOM_DEVICES if self.policy.allow_random else ()):
            if path in self._covers or not os.path.exists(path):
                continue
            self._bind(path, False, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOEXEC)

    def _own_descriptors(self) -> None:
        """Show the names of open descriptors: the listener opens them, and programs look at them first (`diff`).

        A FIFO, as most that they stand for. All sandboxes of the policy see the same: so none may open it itself.
        """
        names = [f"{_DESCRIPTORS}/{number}" for number in range(_SHOWN_DESCRIPTORS)]
        for path in (*names, "/dev/stdin", "/dev/stdout", "/dev/stderr"):
            if self._cover(path).attributes is None and not os.path.lexists(path[1:]):
                self._directory(os.path.dirname(path))
                os.mkfifo(path[1:], 0)

    def _name_service(self) -> None:
        """Pin granted host names in /etc/hosts; names resolve by that file alone unless the policy grants more."""
        granted = {place.path for place in self.places if place.in_force & FsRight.READ}
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{address} {host}" for host, known in self.policy.pinned_hosts.items() for address in known]
        text = "\n".join(lines) + "\n"
        if _HOSTS in granted:
            with open(_HOSTS, encoding="utf-8", errors="surrogateescape") as file:
                text += file.read()
        self._generate(_HOSTS, text)
        if os.path.realpath(_NSSWITCH) not in granted:
            self._generate(_NSSWITCH, "passwd: files\ngroup: files\nhosts: files\nservices: files\n")

    def _workspace(self, parent: int) -> None:
        """Show the place of the workspace, read-only: what is mounted on it is each sandbox's own."""
        self._bind(workspace.ROOT, True, _SEALED, parent)
        for link in workspace.links(self.policy):
            if self._cover(link).attributes is None and not os.path.lexists(link[1:]):
                self._directory(os.path.dirname(link))
                os.symlink(workspace.HOME, link[1:])

    def _generate(self, path: str, text: str) -> None:
        name = path.replace("/", "-")
        self._write_store(name, text.encode("utf-8", "surrogateescape"), 0o444)
        if self._cover(path).attributes is not None and not os.path.lexists(path[1:]):
            self.notes.append(f"{path} is not provided: its directory is granted and has no such file to cover")
            return
        self._bind(path, False, _SEALED, mount.open_tree(name, dirfd=self._store))
        self.generated.append(path)

    def _links(self) -> None:
        """Recreate the links that lead to places."""
        for path, text in self.places.shown_links().items():
            if self._cover(path).attributes is None and not os.path.lexists(path[1:]):
                self._directory(path[: path.rfind("/")] or "/")
                os.symlink(text, path[1:])

    # -- names in the view --------------------------------------------------------------------------------------

    def _cover(self, path: str) -> Cover:
        """Return what covers `path` in the view so far."""
        while path not in self._covers:
            path = path[: path.rfind("/")] or "/"
        return self._covers[path]

    def _directory(self, path: str) -> None:
        done = ""
        for part in path[1:].split("/") if path != "/" else ():
            done = f"{done}/{part}" if done else part
            if not os.path.lexists(done):
                os.mkdir(done)
                os.chmod(done, 0o755)  # whatever the umask

    def _file(self, path: str) -> None:
        self._directory(path[: path.rfind("/")] or "/")
        if not os.path.lexists(path[1:]):
            os.close(os.open(path[1:], os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))

    def _write_store(self, name: str, data: bytes, mode: int) -> None:
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._store)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(fd, mode)


def readable_by_cell(places: Places, uid: int) -> list[Problem]:
    """Return the grants that file permissions deny to this process, which runs as the cell and stands in the tree."""
    problems = []
    for place in places:
        if not shown(place.in_force) or not place.allow:
            continue
        mode = os.R_OK if place.in_force & FsRight.READ else 0
        if place.is_directory and mode:
            mode |= os.X_OK
        if place.allow & WRITING:
            mode |= os.W_OK
        if place.allow & FsRight.EXEC and not (place.is_directory or place.gated):
            mode |= os.X_OK
        if os.access(place.path[1:] or ".", mode, effective_ids=True):
            continue
        try:
            found = os.stat(place.path[1:] or ".")
            held = f"mode {stat.S_IMODE(found.st_mode):04o}"
        except OSError as error:
            held = os.strerror(error.errno or 0)
        named = any(rule.origin in ("fs", "process") and rule.path in rule.text for rule in place.rules)
        problems.append(
            Problem(
                f"build the root view, {place.text}: {place.path} is not accessible to the cell's uid {uid} ({held})",
                place.text,
                "file permissions",
                f"give uid {uid} access (chmod, setfacl), or drop the grant",
                fatal=named,
            )
        )
    return problems
