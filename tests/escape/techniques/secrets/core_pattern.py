"""Have the kernel run a program of one's own as root: core_pattern, modprobe, uevent_helper, release_agent."""

from tests.escape.technique import Bare, Technique, silent


def attack(world):
    for path in (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/release_agent",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
        "/proc/self/oom_score_adj",
        "/proc/self/loginuid",
        "/proc/self/attr/current",
    ):
        descriptor, _ = world.attempt("openat", -100, path.encode(), 1)
        if descriptor >= 0:
            world.got(path)


TECHNIQUE = Technique(
    source="CVE-2022-0492; container breakouts by core_pattern (Project Zero)",
    event=("fs.write",),
    stops=("root view", "landlock", "file permissions"),
    control=Bare(),
    thread=silent("the listener watches no files of a sandbox thread, and Landlock tells only that it refused"),
)
