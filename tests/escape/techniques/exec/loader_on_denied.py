"""Have the dynamic loader run a program that is readable but not granted."""

from tests.escape.grants import readable_tool_and_other_program, run_tool
from tests.escape.technique import Granted, Technique, not_run


def attack(world):
    for loader in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"):
        world.execute(loader, loader, world.tool, "ESCAPED:", "loader")


TECHNIQUE = Technique(
    source="ld.so(8); noexec mounts of old kernels; GTFOBins ld.so",
    policy=readable_tool_and_other_program,
    event=("import.native",),
    stops=("landlock", "root view"),
    ends=("SandboxDied",),
    control=Granted(run_tool),
    thread=not_run("it would replace the host itself"),
)
