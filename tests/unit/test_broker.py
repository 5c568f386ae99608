"""The broker decides as the rules read: checked against a second, slow and obvious implementation."""

from __future__ import annotations

import ipaddress
import string
import sys

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyisolate.capability import CATALOGUE, FLOOR, Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.policy import Policy, compile_policy
from pyisolate.policy.addresses import packed
from pyisolate.policy.broker import Broker
from pyisolate.policy.compiled import CompiledPolicy, FsRight, FsRule, NamePattern, NetAction, NetRule, effective_rights
from pyisolate.policy.suggest import apply, exact

C = Capability
PARTS = st.lists(st.sampled_from(["a", "ab", "b", "a.b", ".h"]), max_size=4)
PATHS = PARTS.map(lambda parts: "/" + "/".join(parts))
FS = {
    C.FS_READ: FsRight.READ,
    C.FS_WRITE: FsRight.WRITE,
    C.FS_CREATE: FsRight.CREATE,
    C.FS_DELETE: FsRight.DELETE,
    C.FS_METADATA: FsRight.METADATA,
    C.FS_EXEC: FsRight.EXEC,
    C.PROCESS_EXEC: FsRight.EXEC,
}


def _policy(**fields: object) -> CompiledPolicy:
    return CompiledPolicy(name="t", version="v", **fields)  # type: ignore[arg-type]


def _rules() -> st.SearchStrategy[tuple[FsRule, ...]]:
    rule = st.builds(
        lambda path, allow, deny: FsRule(path=path, allow=allow, deny=deny, text=f"rule {path}"),
        PATHS,
        st.integers(0, 63),
        st.integers(0, 63),
    )
    return st.lists(rule, max_size=8, unique_by=lambda r: r.path).map(tuple)


def _covers(rule_path: str, path: str) -> bool:
    ours, theirs = [p for p in rule_path.split("/") if p], [p for p in path.split("/") if p]
    return theirs[: len(ours)] == ours


def _naive_fs(rules: tuple[FsRule, ...], bit: int, path: str) -> bool:
    speaking = [r for r in rules if _covers(r.path, path) and (r.allow | r.deny) & bit]
    if not speaking:
        return False
    return not max(speaking, key=lambda r: len([p for p in r.path.split("/") if p])).deny & bit


@pytest.mark.slow
@given(_rules(), PATHS, st.sampled_from(sorted(FS)))
@settings(max_examples=600)
def test_files_by_the_longest_rule_on_component_boundaries(rules, path: str, capability: Capability) -> None:
    decision = Broker(_policy(fs=rules)).decide(capability, path)
    allowed = _naive_fs(rules, FS[capability], path)
    assert (decision.verdict is Verdict.ALLOW) is allowed
    assert (decision.code is None) is allowed


@given(_rules(), PATHS)
@settings(max_examples=300)
def test_one_look_up_in_the_effective_table_gives_the_same_answers(rules, path: str) -> None:
    table = effective_rights(rules)
    near = path
    while near not in table and near != "/":
        near = near[: near.rfind("/")] or "/"
    for bit in (1, 2, 4, 8, 16, 32):
        assert bool(table.get(near, 0) & bit) is _naive_fs(rules, bit, path)


def test_a_sibling_with_the_same_beginning_is_not_covered() -> None:
    broker = Broker(_policy(fs=(FsRule(path="/srv/data", allow=1),)))
    assert broker.decide(C.FS_READ, "/srv/data").verdict is Verdict.ALLOW
    assert broker.decide(C.FS_READ, "/srv/data/x").verdict is Verdict.ALLOW
    assert broker.decide(C.FS_READ, "/srv/database").verdict is Verdict.DENY
    assert broker.decide(C.FS_READ, "/srv").verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/srv/data/../data/x", True),
        ("/srv/data/../secret", False),
        ("/srv//data/./x/", True),
        ("/srv/data/..", False),
        ("/../srv/data", True),
        ("srv/data", False),
        ("", False),
        ("/srv/data/.hidden", True),
        ("/srv/data/...", True),
    ],
)
def test_unnormalised_targets_cannot_step_out_of_a_grant(target: str, allowed: bool) -> None:
    broker = Broker(_policy(fs=(FsRule(path="/srv/data", allow=1),)))
    assert (broker.decide(C.FS_READ, target).verdict is Verdict.ALLOW) is allowed


def test_listing_holds_at_the_directory_itself_only() -> None:
    broker = Broker(_policy(fs=(FsRule(path="/site", allow=FsRight.LIST), FsRule(path="/site/no", deny=1, text="no"))))
    assert broker.decide(C.FS_READ, "/site", listing=True).verdict is Verdict.ALLOW
    assert broker.decide(C.FS_READ, "/site").verdict is Verdict.DENY
    assert broker.decide(C.FS_READ, "/site/numpy", listing=True).verdict is Verdict.DENY


# -- network ----------------------------------------------------------------------------------------------------------

ADDRESSES = st.sampled_from(
    ["10.0.0.1", "10.0.0.2", "10.1.0.1", "11.0.0.1", "127.0.0.1", "::1", "2001:db8::1", "2001:db9::1"]
)
PORTS = st.sampled_from([1, 80, 443, 444, 65535])
TARGETS = st.sampled_from(
    ["*:*", "*:443", "10.0.0.0/8:443", "10.0.0.0/8:*", "10.0.0.0/16:80-443", "10.0.0.1:*", "10.0.0.1:443",
     "[2001:db8::]/32:443", "[2001:db8::1]:1-443", "[::1]:80", "127.0.0.0/8:444-65535"]
)  # fmt: skip


def _naive_net(rules: tuple[NetRule, ...], address: str, port: int) -> bool:
    target = ipaddress.ip_address(address)
    best = None
    for rule in rules:
        network = ipaddress.ip_network((rule.address, rule.prefix))
        if network.version == target.version and target in network and rule.port_low <= port <= rule.port_high:
            key = (rule.prefix, -(rule.port_high - rule.port_low), not rule.allow)
            best = max(best, (key, rule.allow)) if best else (key, rule.allow)
    return bool(best and best[1])


@given(st.lists(st.tuples(TARGETS, st.booleans()), max_size=6), ADDRESSES, PORTS)
@settings(max_examples=400)
def test_addresses_by_the_most_specific_rule(rules, address: str, port: int) -> None:
    policy = Policy()
    for target, allow in rules:
        policy = policy.allow_connect(target) if allow else policy.deny_connect(target)
    compiled = compile_policy(policy)
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    expected = _naive_net(compiled.net, address, port)
    broker = Broker(compiled)
    assert (broker.decide(C.NET_CONNECT, target).verdict is Verdict.ALLOW) is expected
    assert (broker.decide(C.NET_SEND, target).verdict is Verdict.ALLOW) is expected
    assert broker.decide(C.NET_BIND, target).verdict is Verdict.DENY
    if ":" not in address:
        mapped = broker.decide(C.NET_CONNECT, f"[::ffff:{address}]:{port}")
        assert (mapped.verdict is Verdict.ALLOW) is expected


def test_host_names_are_their_pinned_addresses() -> None:
    answers = {"db.internal": ["10.0.0.5", "2001:db8::5", "::ffff:10.0.0.6"], "gone.internal": []}
    policy = Policy().allow_connect("db.internal:5432").allow_connect("gone.internal:1")
    compiled = compile_policy(policy, resolve=lambda host: answers[host])
    assert compiled.pinned_hosts == {"db.internal": ("10.0.0.5", "2001:db8::5", "10.0.0.6"), "gone.internal": ()}
    broker = Broker(compiled)
    for target in ("db.internal:5432", "DB.internal.:5432", "10.0.0.5:5432", "[2001:db8::5]:5432", "10.0.0.6:5432"):
        assert broker.decide(C.NET_CONNECT, target).verdict is Verdict.ALLOW
    for target in ("db.internal:5433", "10.0.0.7:5432", "other.internal:5432"):
        assert broker.decide(C.NET_CONNECT, target).verdict is Verdict.DENY
    gone = broker.decide(C.NET_CONNECT, "gone.internal:1")
    assert gone.verdict is Verdict.DENY
    assert "did not resolve" in gone.reason
    assert broker.decide(C.NET_CONNECT, "10.0.0.9:5432").presented == "net.connect db.internal:5432"


def test_a_host_without_a_port_is_asked_for_any_port() -> None:
    broker = Broker(compile_policy(Policy().allow_connect("*:443")))
    assert broker.decide(C.NET_CONNECT, "example.org").verdict is Verdict.ALLOW
    assert broker.decide(C.NET_CONNECT, "example.org:80").verdict is Verdict.DENY
    assert Broker(_policy()).decide(C.NET_CONNECT, "example.org").verdict is Verdict.DENY


def test_binding_to_port_0_covers_the_port_that_the_kernel_picks() -> None:
    broker = Broker(compile_policy(Policy().allow_bind("127.0.0.1:0")))
    assert broker.decide(C.NET_BIND, "127.0.0.1:0").verdict is Verdict.ALLOW
    assert broker.decide(C.NET_LISTEN, "127.0.0.1:40123").verdict is Verdict.ALLOW
    assert broker.decide(C.NET_BIND, "127.0.0.1:40123").verdict is Verdict.DENY
    assert broker.decide(C.NET_BIND, "0.0.0.0:0").verdict is Verdict.DENY


def test_a_bind_of_any_ipv6_address_takes_ipv4_with_it_and_needs_both() -> None:
    """As the listener has it (address.c: notify_judge_local), and what is suggested is enough."""
    alone = Policy().allow_bind("[::]:80")
    for capability in (C.NET_BIND, C.NET_LISTEN):
        decision = Broker(compile_policy(alone)).decide(capability, "[::]:80")
        assert decision.verdict is Verdict.DENY
        assert "every IPv4 address" in decision.reason
        assert Broker(compile_policy(alone)).decide(capability, "[::]:80", v6only=True).verdict is Verdict.ALLOW
        suggested = exact(capability, "[::]:80")
        assert suggested is not None
        assert Broker(compile_policy(apply(Policy(), suggested))).decide(capability, "[::]:80").verdict is Verdict.ALLOW
    denied = Broker(compile_policy(alone.deny_bind("0.0.0.0/0:*"))).decide(C.NET_BIND, "[::]:80")
    assert denied.code is DenialCode.EXPLICIT_DENY
    one = Broker(compile_policy(Policy().allow_bind("[::1]:80")))
    assert one.decide(C.NET_BIND, "[::1]:80").verdict is Verdict.ALLOW


def test_a_connection_to_any_address_is_one_to_loopback() -> None:
    for written in ("127.0.0.1:80", "0.0.0.0:80"):
        broker = Broker(compile_policy(Policy().allow_connect(written)))
        assert broker.decide(C.NET_CONNECT, "0.0.0.0:80").verdict is Verdict.ALLOW
        assert broker.decide(C.NET_SEND, "127.0.0.1:80").verdict is Verdict.ALLOW
        assert broker.decide(C.NET_CONNECT, "[::]:80").verdict is Verdict.DENY
        assert broker.decide(C.NET_BIND, "0.0.0.0:80").verdict is Verdict.DENY
        assert broker.reaches("0.0.0.0", 80)[1] is None
    denying = Broker(
        compile_policy(Policy().allow_connect("*:80").deny_connect("127.0.0.0/8:*").deny_connect("[::]:*"))
    )
    for target in ("0.0.0.0:80", "[::]:80", "[::1]:80"):
        assert denying.decide(C.NET_CONNECT, target).verdict is Verdict.DENY
    assert denying.reaches("0.0.0.0", 80)[1] is not None
    assert exact(C.NET_CONNECT, "0.0.0.0:80") == {"net": [{"connect": "127.0.0.1:80"}]}
    assert exact(C.NET_SEND, "[::]:80") == {"net": [{"connect": "[::1]:80"}]}
    assert exact(C.NET_BIND, "0.0.0.0:80") == {"net": [{"bind": "0.0.0.0:80"}]}


def test_unix_sockets_by_exact_path() -> None:
    broker = Broker(compile_policy(Policy().allow_connect("unix:/run/x.sock")))
    assert broker.decide(C.NET_CONNECT, "unix:/run/x.sock").verdict is Verdict.ALLOW
    assert broker.decide(C.IPC_UNIX, "/run/x.sock").verdict is Verdict.ALLOW
    for target in ("unix:/run/x.sock/y", "unix:/run/y.sock", "unix:@abstract", "unix:/run"):
        assert broker.decide(C.NET_CONNECT, target).verdict is Verdict.DENY
    assert broker.decide(C.NET_SOCKET, "AF_UNIX/SOCK_STREAM").verdict is Verdict.ALLOW
    assert broker.decide(C.NET_SOCKET, "AF_INET/SOCK_STREAM").verdict is Verdict.DENY
    raw = broker.decide(C.NET_SOCKET, "AF_UNIX/SOCK_RAW")
    assert raw.verdict is broker.decide(C.NET_SOCKET, "AF_UNIX/SOCK_DGRAM").verdict, "Linux makes that of it: unix(7)"


@pytest.mark.parametrize(
    "kind",
    ["AF_PACKET/SOCK_RAW", "AF_NETLINK/SOCK_RAW", "AF_VSOCK/SOCK_STREAM", "AF_ALG/SOCK_SEQPACKET", "AF_INET/SOCK_RAW",
     "44/SOCK_DGRAM", "AF_INET/SOCK_STREAM/IPPROTO_SCTP", "AF_INET6/SOCK_DGRAM/IPPROTO_ICMPV6",
     "AF_INET/SOCK_SEQPACKET"],
)  # fmt: skip
def test_sockets_past_every_rule_are_the_floor(kind: str) -> None:
    broker = Broker(compile_policy(Policy().allow_connect("*:*").with_mode("monitor")))
    decision = broker.decide(C.NET_SOCKET, kind)
    assert decision.verdict is Verdict.DENY
    assert decision.code is DenialCode.ALWAYS_DENIED
    assert broker.decide(C.NET_SOCKET, "AF_INET/SOCK_STREAM").verdict is Verdict.ALLOW


# -- imports ----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        "*",
        "@stdlib",
        "@stdlib-no-ffi",
        "ctypes",
        "json",
        "json.decoder",
        "numpy",
        "numpy.linalg",
        "numpyx",
        "os",
        "xml.etree",
    ]
)
ASKED = st.sampled_from(
    ["json", "json.decoder", "json.decoder.x", "numpy", "numpy.linalg", "numpy.core", "numpyx", "os", "os.path", "xml",
     "xml.etree", "xml.etree.ElementTree", "xml.sax", "requests", "ctypes", "ctypes.util", "_ctypes"]
)  # fmt: skip


def _naive_name(patterns: dict[str, bool], name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in patterns:
            return patterns[prefix]
    if parts[0] in {"json", "os", "xml"} and "@stdlib-no-ffi" in patterns:
        chosen = patterns["@stdlib-no-ffi"]
    elif parts[0] in sys.stdlib_module_names and "@stdlib" in patterns:
        chosen = patterns["@stdlib"]
    else:
        chosen = patterns.get("*")  # type: ignore[assignment]
    if chosen is not None:
        return chosen
    return any(allow and other.startswith(name + ".") for other, allow in patterns.items())


@given(st.dictionaries(NAMES, st.booleans(), max_size=5), ASKED)
@settings(max_examples=400)
@example({"xml.etree": True}, "xml")
@example({"xml.etree": True}, "xml.sax")
def test_modules_by_the_longest_name(patterns: dict[str, bool], name: str) -> None:
    table = tuple(NamePattern(name=n, allow=a, text=n) for n, a in patterns.items())
    decision = Broker(_policy(imports=table)).decide(C.IMPORT_MODULE, name)
    assert (decision.verdict is Verdict.ALLOW) is _naive_name(patterns, name)


def test_granted_modules_may_import_what_the_guest_may_not() -> None:
    policy = _policy(
        imports=(NamePattern(name="pandas"), NamePattern(name="ctypes", allow=False, text="no ctypes")),
        transitive=(NamePattern(name="@stdlib"), NamePattern(name="numpy")),
    )
    broker = Broker(policy)
    for name in ("numpy", "re"):
        assert broker.decide(C.IMPORT_MODULE, name).verdict is Verdict.DENY
        assert broker.decide(C.IMPORT_MODULE, name, importer="__main__").verdict is Verdict.DENY
        assert broker.decide(C.IMPORT_MODULE, name, importer="pandas.core.frame").verdict is Verdict.ALLOW
    assert broker.decide(C.IMPORT_MODULE, "secret", importer="pandas").verdict is Verdict.DENY
    assert broker.decide(C.IMPORT_MODULE, "ctypes", importer="numpy").verdict is Verdict.DENY


def test_native_code_needs_name_and_file() -> None:
    policy = _policy(
        natives=(NamePattern(name="numpy", text="numpy"),),
        fs=(
            FsRule(path="/site/numpy", allow=FsRight.MAP_EXEC | 1, text="numpy"),
            FsRule(path="/lib/libz.so.1", allow=65),
        ),
    )
    broker = Broker(policy)
    ask = broker.decide
    assert ask(C.IMPORT_NATIVE, "numpy.core", path="/site/numpy/core.so").verdict is Verdict.ALLOW
    assert ask(C.IMPORT_NATIVE, "numpy.core", path="/tmp/evil.so").verdict is Verdict.DENY
    assert ask(C.IMPORT_NATIVE, "evil", path="/site/numpy/core.so").verdict is Verdict.DENY
    assert ask(C.IMPORT_NATIVE, "/site/numpy/core.so").verdict is Verdict.ALLOW
    assert ask(C.IMPORT_NATIVE, "/tmp/evil.so").verdict is Verdict.DENY
    assert ask(C.IMPORT_NATIVE, "libz.so.1").verdict is Verdict.ALLOW
    assert ask(C.IMPORT_NATIVE, "libevil.so.1").verdict is Verdict.DENY
    assert ask(C.MEMORY_EXEC, "").verdict is Verdict.DENY
    anything = Broker(compile_policy(Policy().allow_native("*")))
    assert anything.decide(C.IMPORT_NATIVE, "/tmp/evil.so").verdict is Verdict.ALLOW
    assert anything.decide(C.MEMORY_EXEC, "").verdict is Verdict.ALLOW
    generated = Broker(compile_policy(Policy().allow_jit()))
    assert generated.decide(C.MEMORY_EXEC, "").rule == "memory: {jit: true}"
    assert generated.decide(C.IMPORT_NATIVE, "/tmp/evil.so").verdict is Verdict.DENY


# -- codes, floor, modes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", sorted(FLOOR))
def test_the_floor_is_never_granted_nor_monitored(capability: Capability) -> None:
    policy = Policy().allow_read("/").allow_native("*").allow_import("*").allow_connect("*:*").with_mode("monitor")
    decision = Broker(compile_policy(policy)).decide(capability, "anything")
    assert decision.verdict is Verdict.DENY
    assert decision.code is DenialCode.ALWAYS_DENIED


@pytest.mark.slow
@given(st.sampled_from(list(Capability)), st.text(max_size=30) | PATHS, st.sampled_from(list(Mode)))
@settings(max_examples=400)
def test_every_question_has_an_answer(capability: Capability, target: str, mode: Mode) -> None:
    compiled = compile_policy(
        Policy().allow_read("/a").allow_connect("10.0.0.0/8:1").allow_import("json").with_mode(mode)
    )
    decision = Broker(compiled).decide(capability, target, unknown_fact=1)
    assert decision.capability is capability
    assert decision.target == target
    if decision.verdict is Verdict.ALLOW:
        assert decision.code is None
    else:
        assert decision.code is not None
        assert decision.reason
        assert all(c in string.printable or ord(c) > 127 or c in target for c in decision.reason)
        if decision.code is DenialCode.ALWAYS_DENIED or mode is Mode.ENFORCE:
            assert decision.verdict is Verdict.DENY
        else:
            assert decision.verdict is Verdict.WOULD_DENY


def test_the_codes_tell_nothing_granted_from_not_far_enough_from_refused() -> None:
    policy = Policy.preset("compute").allow_import("numpy")
    assert Broker(compile_policy(policy)).decide(C.FS_READ, "/etc/shadow").code is DenialCode.NOT_GRANTED
    broker = Broker(
        compile_policy(policy.allow_read("/srv/data").allow_read("/opt").deny("fs.read", "/srv/data/private"))
    )
    far = broker.decide(C.FS_READ, "/srv/other")
    assert (far.code, far.presented, far.rule) == (DenialCode.SCOPE_INSUFFICIENT, "fs.read /srv/data", None)
    apart = broker.decide(C.FS_READ, "/etc/hostname")
    assert (apart.code, apart.presented) == (DenialCode.SCOPE_INSUFFICIENT, None)  # no grant has to do with it
    many = policy
    for name in ("one", "two", "three", "four", "five"):
        many = many.allow_read(f"/srv/{name}")
    among = Broker(compile_policy(many))  # as a preset names programs of /usr/bin
    assert among.decide(C.FS_READ, "/srv/other").presented is None, "one of many is no nearer than another"
    assert among.decide(C.FS_WRITE, "/srv/two/x").presented is None
    refused = broker.decide(C.FS_READ, "/srv/data/private/key")
    assert (refused.code, refused.presented) == (DenialCode.EXPLICIT_DENY, "fs.read /srv/data")
    assert refused.rule == "fs: {path: /srv/data/private, deny: [read]}"
    assert broker.decide(C.FS_WRITE, "/srv/data/x").code is DenialCode.NOT_GRANTED
    assert broker.decide(C.PROCESS_EXEC, "/bin/sh").code is DenialCode.NOT_GRANTED


def test_groups_have_their_own_mode() -> None:
    broker = Broker(compile_policy(Policy().with_mode("monitor", "fs", "import")))
    assert broker.decide(C.FS_READ, "/etc/shadow").verdict is Verdict.WOULD_DENY
    assert broker.decide(C.IMPORT_MODULE, "os").verdict is Verdict.WOULD_DENY
    assert broker.decide(C.NET_CONNECT, "1.1.1.1:1").verdict is Verdict.DENY
    assert broker.decide(C.PROCESS_EXEC, "/bin/sh").verdict is Verdict.DENY


def test_every_capability_has_a_group() -> None:
    assert set(CATALOGUE) == set(Capability)
    assert CATALOGUE[C.IPC_UNIX].group == "net"
    assert CATALOGUE[C.MEMORY_EXEC].group == "import"


def test_random_and_fork_and_signals() -> None:
    broker = Broker(compile_policy(Policy().deny_random(seed=3)))
    assert broker.decide(C.RANDOM_READ, "/dev/urandom").code is DenialCode.EXPLICIT_DENY
    assert broker.decide(C.PROCESS_FORK, "fork").verdict is Verdict.DENY
    assert Broker(compile_policy(Policy())).decide(C.RANDOM_READ, "/dev/urandom").verdict is Verdict.ALLOW
    assert Broker(compile_policy(Policy().allow_exec("/bin/true"))).decide(C.PROCESS_FORK, "").verdict is Verdict.ALLOW
    no_fork = Policy().allow_exec("/bin/true").deny_fork()
    refused = Broker(compile_policy(no_fork)).decide(C.PROCESS_FORK, "")
    assert (refused.code, refused.rule) == (DenialCode.EXPLICIT_DENY, "process: {fork: false}")
    assert broker.decide(C.PROCESS_FORK, "fork").code is DenialCode.NOT_GRANTED
    assert broker.decide(C.PROCESS_SIGNAL, "1").code is DenialCode.ALWAYS_DENIED
    assert broker.decide(C.PROCESS_SIGNAL, "1", inside=True).verdict is Verdict.ALLOW


def test_the_policy_decides_the_same_after_the_wire() -> None:
    compiled = compile_policy(Policy.preset("web-client").allow_read("/srv"))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(compiled), type=CompiledPolicy)
    assert again == compiled
    assert Broker(again).decide(C.FS_READ, "/srv/x").verdict is Verdict.ALLOW


def test_net_rules_are_stored_in_matching_order() -> None:
    compiled = compile_policy(
        Policy().allow_connect("*:443").deny_connect("10.0.0.0/8:*").allow_connect("10.0.0.5:443")
    )
    old = [rule for rule in compiled.net if rule.action == NetAction.CONNECT and len(rule.address) == 4]
    assert [rule.prefix for rule in old] == [32, 8, 0]


@pytest.mark.parametrize("address", ["10.0.0.5", "::1", "2001:db8::1", "fe80::1%eth0", "::ffff:1.2.3.4", "::1.2.3.4"])
@given(at=st.integers(0, 16), put=st.sampled_from([*"0123456789abf:.% x", "\0", "\u0663", "\udc80", ""]))
@settings(max_examples=40)
def test_addresses_are_read_as_ipaddress_reads_them(address: str, at: int, put: str) -> None:
    for text in (address, address[:at] + put + address[at:], address[:at] + put + address[at + 1 :]):
        try:
            found = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            assert packed(text) is None
        else:
            assert packed(text) == (getattr(found, "ipv4_mapped", None) or found).packed
