"""What one escape technique is: guest code, how success would show from outside, what stops it, and a control.

A file below `techniques/<group>/` is one technique. Its `attack(world)` runs in the guest, together with the file's
other functions and imports (see `inside.World`); `TECHNIQUE` stays with the judge. The attack is honest about itself:
it tries to do harm, and reports with `world.got(...)` or `world.loot(...)` what an outside observer could not see.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyisolate.capability import Capability
from tests.escape.grants import workspace

if TYPE_CHECKING:
    from pyisolate import Policy, Sandbox
    from tests.escape.ground import Ground, Targets
    from tests.escape.run import Run

Change = Callable[["Policy", "Targets"], "Policy"]
Effect = Callable[["Ground", "Run"], str]
#: What the host does with a living sandbox, and what it got: read as the guest's own words.
Reader = Callable[["Sandbox", "Targets"], str]

#: What can stop a technique. The table in docs/escapes.md is keyed on these words.
LAYERS = (
    "broker",
    "landlock",
    "root view",
    "file permissions",
    "seccomp",
    "bpf-lsm",
    "notification",
    "namespaces",
    "credentials",
    "descriptors",
    "environment",
    "limits",
    "memory",
    "wire",
    "telemetry",
    "supervisor",
    "egress proxy",
)


@dataclass(frozen=True)
class Granted:
    """The same code gets through under a policy that grants it: so it is the policy that stops it otherwise."""

    change: Change
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bare:
    """The same code gets through in a plain process: so it is the sandbox that stops it.

    `root`: as root, in namespaces of its own for what it might break. `answer`: the kernel gets as far as this errno,
    for calls that nobody wants to succeed; in the sandbox it must be another.
    """

    root: bool = False
    answer: str = ""
    keep_network: bool = False


@dataclass(frozen=True)
class Alone:
    """There is no control, and why."""

    why: str


@dataclass(frozen=True)
class Careless:
    """The same code gets through where the host reads the workspace as any directory: so it is `sandbox.files`."""

    reader: Reader


Control = Granted | Bare | Alone | Careless


@dataclass(frozen=True)
class InThread:
    """What happens in thread isolation: `stopped`, `escapes` (documented, and it must stay true) or `not run`."""

    outcome: str
    why: str = ""
    #: stopped, but without an event; `why` says so
    silent: bool = False


STOPPED = InThread("stopped")


def escapes(why: str) -> InThread:
    """Say why thread isolation does not stop it."""
    return InThread("escapes", why)


def not_run(why: str) -> InThread:
    """Say why it means nothing, or cannot be bounded, in thread isolation."""
    return InThread("not run", why)


def silent(why: str) -> InThread:
    """Say why thread isolation stops it without an event."""
    return InThread("stopped", why, silent=True)


@dataclass(frozen=True)
class Technique:
    """One technique; `group`, `name`, `title` and `guest` come from its file."""

    source: str
    stops: tuple[str, ...]
    control: Control
    #: capabilities, one of which must be on an event; `by` says who must have refused: broker, kernel or either
    event: tuple[str, ...] = ()
    by: str = "either"
    #: why no event can exist; must be given when `event` is empty
    no_event: str = ""
    #: why the enforcers of a host without BPF-LSM record nothing, though BPF-LSM does
    unseen: str = ""
    #: why no program of BPF-LSM is asked, though others record it
    unseen_bpf: str = ""
    #: the system call that the event must name
    syscall: str = ""
    policy: Change | None = None
    options: dict[str, Any] = field(default_factory=dict)
    effect: Effect | None = None
    #: what the host does to its files after a sandbox of the policy has run, before the attack's own starts
    host: Callable[[Targets], None] | None = None
    #: what the host does with the sandbox and its files, over and over while the attack runs, and once after it
    reader: Reader | None = None
    #: what a sandbox of the policy that ended before is made to leave, given the secret
    before: Callable[[Sandbox, str], None] | None = None
    #: guest code of a second request, after the attack has returned
    then: str = ""
    #: what may end it, beside a refusal; names of exceptions
    ends: tuple[str, ...] = ()
    #: it must end so, and in no other way
    must_end: tuple[str, ...] = ()
    #: capabilities of other events that may come or not
    also: tuple[str, ...] = ()
    #: why process isolation does not stop it: a documented gap, which fails when it is closed in silence
    gap: str = ""
    #: the same, where BPF-LSM decides and there is no root view
    gap_bpf: str = ""
    thread: InThread = STOPPED
    timeout_s: float = 10.0
    #: how long a call of the sibling that the listener decides may take meanwhile, in seconds; 0: nobody watches
    sibling_s: float = 0.0
    group: str = ""
    name: str = ""
    title: str = ""
    guest: str = ""

    def __post_init__(self) -> None:
        unknown = [layer for layer in self.stops if layer not in LAYERS]
        assert self.stops, "name the layers that stop it"
        assert not unknown, f"unknown layers: {unknown}"
        assert bool(self.event) != bool(self.no_event), "name the event, or say why none can exist"
        assert self.by in ("broker", "kernel", "either")
        assert self.reader or not isinstance(self.control, Careless), "another reader stands in for one"

    def why_unseen(self, *, bpf: bool) -> str:
        """Say why nothing records the refusal, where BPF-LSM decides or where it does not."""
        return self.unseen_bpf or self.gap_bpf if bpf else self.unseen

    @property
    def key(self) -> str:
        """`group/name`, unique."""
        return f"{self.group}/{self.name}"


def against_the_host(source: str, *, reader: Reader, careless: Reader, also: tuple[str, ...] = ()) -> Technique:
    """Return a technique whose guest lays out its workspace for the host, which reads or changes it."""
    return Technique(
        source=source,
        policy=workspace,
        reader=reader,
        no_event=OWN_FILE,
        also=(*also, Capability.FS_LOOKUP.value),  # it may look through a link that it put there
        stops=("supervisor",),
        control=Careless(careless),
        thread=NO_WORKSPACE,
    )


def against_its_attendant(source: str, *, reader: Reader, policy: Change, sibling_s: float = 0.0) -> Technique:
    """Return a technique whose guest misleads the host about a program that the host has started in it."""
    return Technique(
        source=source,
        policy=policy,
        reader=reader,
        sibling_s=sibling_s,
        no_event="what is no report ends the sandbox: a broken protocol is no denial",
        also=(Capability.LIMIT_WALL.value, Capability.FS_LOOKUP.value),  # of the program, where it runs on
        stops=("wire", "supervisor"),
        ends=("TimeoutError",),  # the attack has no more time than the program
        control=Alone("a report in its place is what ends each program: tests/host/test_program_reports.py"),
        thread=not_run(NO_WIRE),
    )


def load(only: str = "") -> list[Technique]:
    """Return every technique whose key contains one of the texts that `only` lists by comma, in order."""
    from tests.escape import techniques

    found = []
    for group in sorted(pkgutil.iter_modules(techniques.__path__), key=lambda module: module.name):
        if not group.ispkg:
            continue
        package = importlib.import_module(f"{techniques.__name__}.{group.name}")
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            if any(text in f"{group.name}/{module.name}" for text in only.split(",")):
                found.append(_read(importlib.import_module(f"{package.__name__}.{module.name}")))
    return found


def _read(module: Any) -> Technique:
    group, name = module.__name__.split(".")[-2:]
    assert module.__doc__, f"{module.__name__}: the docstring is the technique's title"
    return replace(
        module.TECHNIQUE,
        group=group,
        name=name,
        title=module.__doc__.strip().split("\n\n")[0].replace("\n", " "),
        guest=_guest_source(inspect.getsource(module)),
    )


def _guest_source(text: str) -> str:
    """Return what runs in the guest: the module without its docstring, `TECHNIQUE`, and what only the judge needs."""
    tree = ast.parse(text)
    kept = [node for node in tree.body if not _is_the_judges(node)]
    return "\n".join(ast.unparse(node) for node in kept)


def _is_the_judges(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").startswith(("tests", "__future__"))
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "TECHNIQUE" for target in node.targets)
    # what looks from outside is named so
    return isinstance(node, ast.FunctionDef) and node.name.startswith("outside")


# Reasons that many techniques share.
ABSENT = "a raw call meets ENOENT in the root view (in a thread EACCES of Landlock), and neither leaves a record"
READ_ONLY = "a raw call meets EROFS in the root view (or EACCES of Landlock), and neither leaves a record"
METADATA = "Landlock does not handle metadata, and a thread has no root view"
NO_WIRE = "a sandbox thread has no wire"
OWN_MEMORY = "memory is shared: guest code runs on a thread of the host that no filter confines"
OWN_PROCESS = "the process is the host's own, and no namespace keeps the thread apart"
LANDLOCK_SILENT = "Landlock refuses it, and leaves no record"
HOST_TREE_BPF = (
    "where BPF-LSM decides the host's tree is there, so that a reload may grant more;"
    " a guest can find that a name exists"
)
NO_ROOT_VIEW = "a thread has no root view, whose mounts are noexec"
NO_WORKSPACE = not_run("a thread has no workspace")
NO_PROXY = not_run("no thread is led to the egress proxy: such a policy is an EnforcementError")
OWN_FILE = "all happens to files of the guest's own, which it may make; nothing is refused"
