"""What libraries and interpreters try by themselves and do without: no refusal of it is an event of the guest's."""

from __future__ import annotations

import os
import re

from ..capability import Capability, NetAction
from ..decision import Mode, Verdict
from ..policy.compiled import CompiledPolicy
from ..policy.searched import Searched
from ..records import KernelRecord

#: Where OpenSSL looks for certificate authorities (ssl.get_default_verify_paths(), Debian and Fedora).
_AUTHORITIES = frozenset(("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem", "/etc/ssl/cert.pem"))
#: What libraries look for by themselves and do without: types of files, certificates, terminals, places for temporary
#: files, the distribution's settings of its interpreter, the directories above a name service's own records, and where
#: SELinux would be (libselinux in coreutils).
_EXPECTED = _AUTHORITIES | frozenset(
    ("/etc/mime.types", "/etc/ssl/certs", "/etc/terminfo", "/usr/lib/terminfo", "/usr/share/terminfo", "/lib/terminfo",
     "/var/tmp", "/usr/tmp", "/run", "/usr/local", "/usr/local/lib", "/sys/fs/selinux", "/selinux")
)  # fmt: skip
#: Descriptions of terminals. Where their directory is refused, nothing asks for what is in it.
_TERMINALS = ("/etc/terminfo/", "/usr/lib/terminfo/", "/usr/share/terminfo/", "/lib/terminfo/")
_SETTINGS = re.compile(r"/etc/python3\.[0-9]+(?:/sitecustomize\.py)?")
#: What native code of libraries and programs reads of its own task, which most policies do not grant, and does without:
#: the C library, libselinux in coreutils, allocators. docs/hooks.md names them.
_OF_TASK = re.compile(
    r"/proc/(?:self|thread-self)/(?:cgroup|fd|loginuid|maps|mountinfo|mounts|stat|status)|/proc/filesystems"
)
#: The same of the machine, by libraries in the guest's own process.
_OF_MACHINE = frozenset(("/proc/cpuinfo", "/proc/meminfo", "/proc/stat"))
#: Name services beside /etc/passwd and its kin, which the C library tries for each name that it does not find there.
_NAME_SERVICE = re.compile(r"/(?:usr/)?lib(?:64|32)?/(?:[^/]+/)?libnss_[a-z0-9_]+\.so\.2")
#: What glibc and systemd's name services look at for the name of a user, a host or a service (strace, glibc 2.36).
_FOR_NAMES = re.compile(
    r"/etc/(?:nsswitch\.conf|resolv\.conf|host\.conf|hosts|gai\.conf|services|protocols|networks|passwd|group|ld\.so\.cache)"
    r"|/(?:var/)?run/nscd(?:/socket)?|/run/systemd/(?:userdb|resolve)(?:/[^/.][^/]*)?|/(?:usr/(?:local/)?lib|etc|run)/userdb(?:/[^/.][^/]*)?"
    r"|/(?:usr/)?lib(?:64|32)?(?:/[a-z0-9_]+-linux-gnu[a-z0-9]*)?(?:/glibc-hwcaps(?:/[a-z0-9_-]+)?)?"
)
#: Where an interpreter, also one that a guest executes, looks for packages.
_SITES = frozenset(("site-packages", "dist-packages"))
#: What one of them brings along. Where it is refused itself nothing asks for this; programs that need it bring a grant.
_BROUGHT_BY_NAME_SERVICE = re.compile(r"/(?:usr/)?lib(?:64|32)?/(?:[^/]+/)?libcap\.so\.2[.0-9]*")


def is_tried(record: KernelRecord, file: str, policy: CompiledPolicy, by_guest: bool) -> bool:
    """Tell whether native code reads what it does without where that is not there: of its task, the machine or users.

    And certificates, where the policy lets it connect to nothing that it could check by them.
    """
    if (record.broker_consulted is not False and not record.resolves) or record.flags & (os.O_ACCMODE | os.O_TRUNC):
        return False
    if _OF_TASK.fullmatch(file) or _NAME_SERVICE.fullmatch(file) or (by_guest and file in _OF_MACHINE):
        return True
    alone = not any(rule.allow and rule.action == NetAction.CONNECT for rule in policy.net)
    if file in _AUTHORITIES and alone:
        return True
    if policy.mode_of("fs") is not Mode.MONITOR:
        return False  # nothing asks for what follows, where what leads there is refused
    brought = _BROUGHT_BY_NAME_SERVICE.fullmatch(file) is not None or (file == "/etc/ssl/certs" and alone)
    return brought or (by_guest and file.startswith(_TERMINALS))


def is_import_let_through(record: KernelRecord, file: str, searched: Searched) -> bool:
    """Tell whether importlib reads a module of which the import is an event already; enforcing, it would read nothing.

    That it does is the guest's own word: so where modules are alone.
    """
    return record.imports and file.startswith(tuple(f"{tree}/" for tree in searched.directories))


def is_for_names(file: str) -> bool:
    """Tell whether the C library, or a name service that it loads, opens or looks for a file to look up a name."""
    return any(one.fullmatch(file) is not None for one in (_FOR_NAMES, _NAME_SERVICE, _BROUGHT_BY_NAME_SERVICE))


def is_described_terminal(record: KernelRecord, file: str) -> bool:
    """Tell whether native code asks whether it may read the description of a terminal, before it does (curses)."""
    return record.broker_consulted is False and record.uses and file.startswith(_TERMINALS)


def is_of_imports(record: KernelRecord, searched: Searched) -> bool:
    """Tell whether programs (BPF-LSM) refused what any import of an absent module tries: see `WatchedFiles.judge`."""
    if record.verdict is Verdict.ALLOW or record.broker_consulted:
        return False
    if record.capability is Capability.FS_LOOKUP:
        return is_beside(record.target, record.target, searched)
    return record.capability is Capability.FS_READ and record.target in searched.directories


def is_beside(path: str, asked: str, searched: Searched) -> bool:
    """Tell whether imports, the standard library or an interpreter's start look for a path by themselves."""
    below = (f"{path}/", f"{asked}/")
    if path in _EXPECTED or path in searched.others:
        return True
    if any(one.startswith(f"{tree}/") for tree in searched.trees for one in below):
        return True
    if os.path.basename(path) in _SITES or _SETTINGS.fullmatch(path) is not None:
        return True
    return any(folder.startswith(below[0]) for folder in searched.directories)  # on the way there (realpath(3))
