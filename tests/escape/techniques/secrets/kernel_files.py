"""Read the kernel's own secrets: memory, symbols, logs, configuration."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for path in (
        "/dev/mem",
        "/dev/kmem",
        "/dev/kmsg",
        "/dev/kvm",
        "/dev/vda",
        "/dev/fuse",
        "/dev/net/tun",
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/config.gz",
        "/proc/self/pagemap",
        "/proc/timer_list",
        "/proc/keys",
        "/proc/self/maps",
        "/proc/cmdline",
        "/sys/kernel/notes",
        "/sys/kernel/btf/vmlinux",
        "/sys/fs/cgroup",
        "/sys/firmware",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
    ):
        descriptor, _ = world.attempt("openat", -100, path.encode(), 0)
        if descriptor >= 0:
            world.got(path)


TECHNIQUE = Technique(
    source="Docker's masked paths; CVE-2022-0492 (cgroup release_agent)",
    event=("fs.read",),
    stops=("root view", "landlock", "file permissions"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
