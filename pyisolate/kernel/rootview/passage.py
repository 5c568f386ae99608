"""The host's own tree for a guest in monitor mode, with its workspace and a way through to the interpreter.

In monitor mode a guest sees the host's files as its user may. An interpreter below a directory of mode 0700 would be
out of sight, and each import would fail. In a copy of the host's tree an empty directory takes the place of each such
directory, and shows what is needed below it: the interpreter, and the places that the policy grants. For a workspace,
the root is a directory of our own that shows all that the host's has.
"""

from __future__ import annotations

import os
import sys

from ...native import mount
from ...policy import workspace
from ...policy.compiled import CompiledPolicy
from ..interpreter_access import first_closed
from .build import TMPFS, Cover, RootBuild
from .paths import shown


class PassageBuild(RootBuild):
    """One build for a cell that runs as `uid` and `gid`."""

    def __init__(self, policy: CompiledPolicy, uid: int, gid: int, parent: int | None = None) -> None:
        super().__init__(policy, parent)
        self._uid, self._gid = uid, gid

    def run(self) -> int:
        """Build, and return a descriptor of the detached tree. Leaves the working directory in the tree."""
        if self._parent is None:
            base = mount.open_tree("/", recursive=True)
            mount.mount_setattr(base, 0, propagation=mount.MS_PRIVATE, recursive=True)
        else:
            base = self._own_base()
        mount.move_mount(base, "/")
        os.fchdir(base)
        self._covers["/"] = Cover(0)
        if self._parent is not None:
            self._mirror(0)
            # what is mirrored is the host's tree, and covers nothing of it; what leads to the workspace is left out
            self._covers = {"/": Cover(0)} | dict.fromkeys(workspace.links(self.policy), Cover(None))
        for path in self._needed():
            self._show(path)
        return self._finished(base)

    def _needed(self) -> list[str]:
        """Return what must be in sight, outermost first."""
        own = {os.path.realpath(path) for path in (sys.prefix, sys.base_prefix)}
        granted = {place.path for place in self.places if shown(place.in_force)}
        return sorted(own | granted - {"/"}, key=lambda path: path.split("/"))

    def _show(self, path: str) -> None:
        """Bind a path that the cell's user cannot reach, unless something above it is bound already."""
        parent = os.path.dirname(path)
        closed = first_closed(parent, self._uid, self._gid)
        if closed is None or self._bound_above(path):
            return
        if closed not in self._covers:
            cover = mount.new_tmpfs(TMPFS | {"mode": "0711"}, mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV)
            mount.move_mount(cover, closed[1:])
            self._sealed_last.append(cover)
            self._covers[closed] = Cover(None)
        self._bind(path, os.path.isdir(path), 0)

    def _bound_above(self, path: str) -> bool:
        """True where the nearest mount of ours above a path is a bind: the path is in sight with it."""
        while path != "/":
            if path in self._covers:
                return self._covers[path].attributes is not None
            path = os.path.dirname(path)
        return False
