"""The listener's table says what the broker says: one policy, one meaning."""

from __future__ import annotations

import ipaddress
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyisolate.capability import FLOOR, Capability
from pyisolate.decision import DenialCode, Mode, Verdict
from pyisolate.kernel.seccomp.filter import syscall_numbers
from pyisolate.kernel.seccomp.listener import Listener
from pyisolate.kernel.seccomp.records import evaluate
from pyisolate.kernel.seccomp.table import call_tables, compile_table
from pyisolate.native import notify as native
from pyisolate.policy.asking import CARRIED
from pyisolate.policy.broker import Broker
from pyisolate.policy.compiled import CompiledPolicy, NamePattern, NetAction, NetRule
from pyisolate.records import Evaluation, KernelRecord
from tests.confined import policy, rule


def asked(compiled: CompiledPolicy, capability: Capability, target: str) -> KernelRecord | None:
    return evaluate(compile_table(compiled, serial=1), compiled, "box", capability, target)


_V4 = st.sampled_from(["10.0.0.1", "10.0.0.200", "10.0.1.1", "192.168.7.9", "0.0.0.0"])
_V6 = st.sampled_from(["::", "2001:db8::1", "2001:db8:0:1::5", "fe80::1"])
_PORTS = st.sampled_from([(0, 0), (0, 65535), (80, 80), (80, 90), (443, 443), (1, 65535)])


@st.composite
def net_rules(draw: st.DrawFn) -> NetRule:
    address = ipaddress.ip_address(draw(_V4 | _V6))
    prefix = draw(st.integers(0, address.max_prefixlen))
    network = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
    low, high = draw(_PORTS)
    action, allow = draw(st.sampled_from(NetAction)), draw(st.booleans())
    return NetRule(
        action=action,
        address=network.network_address.packed,
        prefix=prefix,
        port_low=low,
        port_high=high,
        allow=allow,
        text=f"{'' if allow else 'deny '}{action.name}: {network}:{low}-{high}",
    )


def _order(rule: NetRule) -> tuple[int, int, int, int, bool]:
    return (rule.action, len(rule.address), -rule.prefix, rule.port_high - rule.port_low, rule.allow)


EVERY_V6 = NetRule(
    action=NetAction.BIND, address=bytes(16), prefix=0, port_low=0, port_high=0, allow=True, text="BIND: ::/0:0-0"
)


@example([EVERY_V6], "::", 0, Capability.NET_BIND)  # which takes every IPv4 address as well
@given(
    st.lists(net_rules(), max_size=8),
    _V4 | _V6,
    st.sampled_from([0, 1, 80, 85, 443, 50000]),
    st.sampled_from([Capability.NET_CONNECT, Capability.NET_BIND, Capability.NET_LISTEN, Capability.NET_SEND]),
)
def test_broker_and_listener_agree_about_addresses(
    rules: list[NetRule], host: str, port: int, capability: Capability
) -> None:
    compiled = policy(*sorted(rules, key=_order))  # as the compiler orders them: most specific first
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    broker = Broker(compiled).decide(capability, target)
    kernel = asked(compiled, capability, target)
    assert kernel is not None
    assert kernel.evaluation is Evaluation.PROBED
    assert kernel.verdict is broker.verdict
    if kernel.code is DenialCode.EXPLICIT_DENY or broker.code is DenialCode.EXPLICIT_DENY:
        assert (kernel.code, kernel.rule) == (broker.code, broker.rule)


def test_a_listener_answers_by_the_sandbox_s_newest_policy() -> None:
    listener = Listener(lambda record: None)
    listener.start()
    try:
        listener.attach(os.eventfd(0), "box", policy())
        assert listener.evaluate("nobody", Capability.NET_CONNECT, "10.0.0.1:443") is None
        before = listener.evaluate("box", Capability.NET_CONNECT, "10.0.0.1:443")
        listener.update("box", policy(rule("connect", "10.0.0.1:443")))
        after = listener.evaluate("box", Capability.NET_CONNECT, "10.0.0.1:443")
        assert before is not None
        assert after is not None
        assert (before.verdict, after.verdict) == (Verdict.DENY, Verdict.ALLOW)
        listener.detach("box")
        listener.detach("box")
        assert listener.counters("box") == {}
    finally:
        listener.close()


def test_codes_tell_none_from_too_little() -> None:
    compiled = policy(rule("connect", "10.0.0.1:443"), rule("connect", "10.0.0.2:443"))
    granted = asked(compiled, Capability.NET_CONNECT, "10.0.0.1:443")
    assert granted is not None
    assert granted.verdict is Verdict.ALLOW
    near = asked(compiled, Capability.NET_CONNECT, "10.0.0.2:80")
    assert near is not None
    assert (near.code, near.presented) == (DenialCode.SCOPE_INSUFFICIENT, "connect: 10.0.0.2:443")
    none = asked(compiled, Capability.NET_BIND, "10.0.0.1:80")
    assert none is not None
    assert (none.code, none.presented) == (DenialCode.NOT_GRANTED, None)
    mapped = asked(compiled, Capability.NET_CONNECT, "[::ffff:10.0.0.1]:443")
    assert mapped is not None
    assert mapped.verdict is Verdict.ALLOW


@pytest.mark.parametrize("target", ["example.org:80", "unix:/run/x", "10.0.0.1", "10.0.0.1:99999"])
def test_what_is_no_address_is_not_answered(target: str) -> None:
    assert asked(policy(), Capability.NET_CONNECT, target) is None
    assert asked(policy(), Capability.FS_READ, "/etc/passwd") is None


@pytest.mark.parametrize("mode", Mode)
def test_the_floor_is_denied_in_every_mode(mode: Mode) -> None:
    anything = policy(mode=mode, allow_fork=True, natives=(NamePattern(name="*"),))
    for capability in FLOOR:
        record = asked(anything, capability, "x")
        assert record is not None
        assert (record.verdict, record.code) == (Verdict.DENY, DenialCode.ALWAYS_DENIED), capability


def test_whole_capabilities_follow_their_grants_and_their_groups_mode() -> None:
    for capability, fields in {
        Capability.PROCESS_FORK: {"allow_fork": True},
        Capability.MEMORY_EXEC: {"allow_jit": True},
        Capability.RANDOM_READ: {"allow_random": True},
    }.items():
        refused = policy(allow_random=False)
        watched = policy(allow_random=False, group_modes=dict.fromkeys(("process", "random"), Mode.MONITOR))
        verdicts = [asked(p, capability, "x").verdict for p in (policy(**fields), refused, watched)]  # type: ignore[union-attr]
        follows = capability is not Capability.MEMORY_EXEC  # it has no group of its own
        assert verdicts == [Verdict.ALLOW, Verdict.DENY, Verdict.WOULD_DENY if follows else Verdict.DENY]


def test_a_listener_that_another_thread_closes_is_freed_after_the_call_that_is_under_way() -> None:
    listener = native.Listener(*call_tables())
    made = _eventfds()
    under_way = listener._handle  # as the call of another thread holds it
    listener.close()
    assert _eventfds() == made
    assert native.lib.notify_spent(under_way, 1) == 0
    del under_way
    assert _eventfds() < made


def test_a_closed_listener_knows_no_sandbox() -> None:
    listener = native.Listener(*call_tables())
    listener.close()
    listener.close()
    listener.forget(1)
    listener.wake()
    said = (listener.alive, listener.announce(1), listener.spent_s(1), listener.quiet(1, 0), listener.stop(1))
    assert said == (False, 0, 0.0, True, False)
    assert (listener.counters(1), listener.refusals(1), listener.pending(1)) == (None, [], 0)
    with pytest.raises(OSError, match="No such process"):
        listener.answer(1, allow=False)


def test_the_listener_asks_about_the_names_of_the_calls_that_policies_speak_of() -> None:
    _capability, traits, _path_argument = call_tables()
    named = {name for number, name in syscall_numbers().items() if traits[number] & native.TRAIT_NAMING}
    assert named == CARRIED & set(syscall_numbers().values())
    assert {"mkdirat", "unlinkat", "renameat2", "linkat", "symlinkat", "fchmodat", "utimensat", "setxattr"} <= named


def _eventfds() -> int:
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum("eventfd" in os.readlink(link) for link in links if os.path.lexists(link))
