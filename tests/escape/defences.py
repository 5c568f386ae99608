"""Switch one defence off in the supervisor under attack, to see which techniques then turn red.

`PYISOLATE_ESCAPE_WITHOUT=landlock,seccomp` ... A technique that no defence's absence lets through is stopped twice, or
by what cannot be switched off; `python -m tests.escape --without all` prints the lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests import inside

VARIABLE = "PYISOLATE_ESCAPE_WITHOUT"


def _once_proven(supervisor: Any, switch_off: Callable[[], object]) -> None:
    """Switch off after the probes, which see an enforcer that refuses nothing: `spawn` would raise EnforcementError."""
    start = inside.plan(supervisor).start

    def started() -> None:
        start()
        switch_off()

    inside.plan(supervisor).start = started


def _without_landlock(supervisor: Any) -> None:
    landlock = inside.plan(supervisor).landlock
    add_to = landlock.add_to

    def added(draft: Any) -> None:
        add_to(draft)
        if draft.ruleset is not None:
            draft.ruleset.close()
            draft.ruleset = None

    landlock.add_to = added


def _without_root_view(supervisor: Any) -> None:
    """No view, and no word of what Landlock alone cannot enforce: `spawn` would raise EnforcementError."""
    plan = inside.plan(supervisor)
    add_to = plan.landlock.add_to

    def added(draft: Any) -> None:
        before = list(draft.missing)
        add_to(draft)
        draft.missing[:] = before

    plan.builder.add_to, plan.landlock.add_to = lambda _draft: None, added


def _without_identity(_supervisor: Any) -> None:
    """Tables that were made for a policy before are taken, whatever its paths name now."""
    from pyisolate.kernel.prepared import Prepared

    Prepared.current = property(lambda _: True)  # type: ignore[assignment,method-assign]


def _without_seccomp(supervisor: Any) -> None:
    """The filter lets everything pass; its listener stays, idle."""
    from pyisolate.kernel.seccomp import filter as seccomp
    from pyisolate.native.seccomp import ALLOW, FilterSpec, compile_filter

    program = compile_filter(FilterSpec(rules=(), default=ALLOW, foreign=ALLOW))
    seccomp.cell_program = lambda **_: program
    seccomp.thread_program = lambda **_: program


def _without_namespaces(supervisor: Any) -> None:
    """No namespaces but those without which there is no root view and no rootless cell."""
    from pyisolate.native import process

    flags = property(lambda self: process.CLONE_NEWUSER | process.CLONE_NEWNS)
    _once_proven(supervisor, lambda: setattr(inside.plan(supervisor).namespaces.__class__, "clone_flags", flags))


def _without_broker(_supervisor: Any) -> None:
    """The guest's broker lets everything through, as if native code went round it; the kernel's tables stay."""
    import msgspec

    from pyisolate.cell import wire
    from pyisolate.decision import Mode

    init = wire.Init

    def loose(**fields: Any) -> wire.Init:
        fields["policy"] = msgspec.structs.replace(fields["policy"], mode=Mode.MONITOR, group_modes={})
        return init(**fields)

    wire.Init = loose  # type: ignore[assignment,misc]


def _without_wire(supervisor: Any) -> None:
    """The host takes every frame at any time."""
    from pyisolate.cell import wire

    checked = wire.Conversation.accept

    def accept(self: Any, frame: Any) -> None:
        try:
            checked(self, frame)
        except wire.WireError:
            if isinstance(frame, wire.Done | wire.Failed):
                self.phase = wire.Phase.IDLE

    wire.Conversation.accept = accept  # type: ignore[method-assign]


#: The programs of bpf/lsm/*.bpf.c, by file. task_alloc stays: without it nothing below the cell is confined at all.
BPF_FAMILIES = {
    "bpf-file": "file_open file_receive inode_getattr path_notify",
    "bpf-names": """path_mknod path_mkdir path_symlink path_unlink path_rmdir path_truncate path_chmod path_chown
        path_chroot path_link path_rename inode_setattr inode_setxattr inode_removexattr inode_set_acl""",
    "bpf-memory": "mmap_file file_mprotect bprm_check_security",
    "bpf-net": """socket_create socket_post_create socket_connect socket_bind socket_sendmsg socket_listen
        socket_accept socket_setsockopt netlink_send unix_stream_connect unix_may_send""",
    "bpf-process": """task_kill ptrace_access_check ptrace_traceme task_setnice task_setscheduler task_setioprio
        task_setpgid task_movememory task_prlimit""",
    "bpf-floor": "capable inode_init_security_anon file_ioctl file_ioctl_compat",
    "bpf-self": "bpf bpf_map bpf_prog",
}
#: What a family of hooks decides: where its absence may show.
FAMILY_GROUPS = {
    "bpf-file": "files/",
    "bpf-names": "files/",
    "bpf-memory": "exec/,native/",
    "bpf-net": "network/,ipc/",
    "bpf-process": "processes/",
    "bpf-floor": "kernel/,syscalls/",
    "bpf-self": "kernel/bpf",
    "egress-rules": "egress/",
}


def _without_hooks(words: str) -> Callable[[Any], None]:
    hooks = frozenset(words.split())

    def switch_off(_supervisor: Any) -> None:
        from pyisolate.kernel.bpf import loader as bpf_loader
        from pyisolate.kernel.bpf import lsm as bpf_lsm
        from pyisolate.kernel.bpf import plan as bpf_plan

        # proven first, with all of them: otherwise the root view would take their place
        assert bpf_plan._answered("bpf-lsm", bpf_lsm.BpfLsmEnforcer().probe).usable
        fits = bpf_loader.fits
        bpf_loader.fits = lambda program: bpf_loader.hook_of(program) not in hooks and fits(program)
        bpf_loader.NEEDED_HOOKS = frozenset()

    return switch_off


def _without_notification(supervisor: Any) -> None:
    """The listener is told of no policy, so it lets every call go on that the filter asks about."""
    from pyisolate.native import notify

    add = notify.Listener.add

    def switch_off() -> None:
        notify.Listener.add = lambda self, key, fd, _policy: add(self, key, fd, None)  # type: ignore[assignment,method-assign]
        notify.Listener.bind = lambda *_: None  # type: ignore[method-assign]

    _once_proven(supervisor, switch_off)


def _without_egress_rules(supervisor: Any) -> None:
    """The proxy refuses nothing for want of a rule, and puts every credential into every request."""
    import msgspec

    from pyisolate.decision import Mode

    egress = inside.runtime(supervisor).egress
    admit = egress.admit

    def loose(key: str, entrance: Any, compiled: Any, secrets: Any = ()) -> None:
        wide = [
            msgspec.structs.replace(one, rule=msgspec.structs.replace(one.rule, host="*.escape.test"))
            for one in secrets
        ]
        compiled = msgspec.structs.replace(compiled, mode=Mode.MONITOR, group_modes={})
        admit(key, entrance, compiled, tuple(wide))

    egress.admit = loose  # type: ignore[method-assign]


DEFENCES: dict[str, Callable[[Any], None]] = {
    "landlock": _without_landlock,
    "root-view": _without_root_view,
    "identity": _without_identity,
    "seccomp": _without_seccomp,
    "notification": _without_notification,
    "namespaces": _without_namespaces,
    "broker": _without_broker,
    "wire": _without_wire,
    "egress-rules": _without_egress_rules,
} | {name: _without_hooks(words) for name, words in BPF_FAMILIES.items()}
#: Two at once where each stands in for the other.
ON_HOST = (
    "landlock",
    "root-view",
    "landlock+root-view",
    "identity",
    "seccomp",
    "notification",
    "namespaces",
    "seccomp+namespaces",
    "broker",
    "wire",
    "egress-rules",
)
#: What seccomp refuses before a program is asked: beyond what seccomp alone stops, what does each family stop?
ON_VM = (
    *BPF_FAMILIES,
    "seccomp",
    *(f"seccomp+{family}" for family in ("bpf-process", "bpf-net", "bpf-memory", "bpf-floor", "bpf-self")),
)


def groups(name: str, inside_vm: bool) -> str:
    """Return where the absence of these defences may show, as `--only` takes it."""
    if name == "seccomp" and inside_vm:
        name = "+".join(ON_VM)
    return ",".join(dict.fromkeys(FAMILY_GROUPS[part] for part in name.split("+") if part in FAMILY_GROUPS))


def apply(supervisor: Any) -> None:
    """Switch off what the environment names."""
    for name in filter(None, os.environ.get(VARIABLE, "").split(",")):
        DEFENCES[name](supervisor)
