"""Changes of a policy that techniques and their controls use."""

from __future__ import annotations

import msgspec

from pyisolate import Policy
from tests.escape.ground import Targets


def writable_outbox(policy: Policy, targets: Targets) -> Policy:
    """Grant the outbox whole: where a guest may plant links, files and sockets."""
    return policy.allow_read(targets.outbox).allow_write(targets.outbox)


def read_secret(policy: Policy, targets: Targets) -> Policy:
    """Grant reading the secret."""
    return policy.allow_read(targets.secret)


def write_outside(policy: Policy, targets: Targets) -> Policy:
    """Grant all of the directory outside."""
    return policy.allow_read(targets.outside).allow_write(targets.outside)


def look_outside(policy: Policy, targets: Targets) -> Policy:
    """Grant reading the directory outside, and nothing more."""
    return policy.allow_read(targets.outside)


def fork(policy: Policy, _targets: Targets) -> Policy:
    """Grant child processes."""
    return policy.allow_fork()


def run_tool(policy: Policy, targets: Targets) -> Policy:
    """Grant running the tool."""
    return policy.allow_exec(targets.tool)


def look_at_tool(policy: Policy, targets: Targets) -> Policy:
    """Grant reading the tool, not running it."""
    return policy.allow_read(targets.tool)


def connect_tcp(policy: Policy, targets: Targets) -> Policy:
    """Grant the TCP listener."""
    return policy.allow_connect(f"127.0.0.1:{targets.tcp}")


def connect_tcp6(policy: Policy, targets: Targets) -> Policy:
    """Grant the TCP listener on IPv6."""
    return policy.allow_connect(f"[::1]:{targets.tcp6}")


def send_udp(policy: Policy, targets: Targets) -> Policy:
    """Grant the UDP listener."""
    return policy.allow_connect(f"127.0.0.1:{targets.udp}")


def send_udp6(policy: Policy, targets: Targets) -> Policy:
    """Grant the UDP listener on IPv6."""
    return policy.allow_connect(f"[::1]:{targets.udp6}")


def connect_unix(policy: Policy, targets: Targets) -> Policy:
    """Grant the listener with a path."""
    return policy.allow_connect(f"unix:{targets.stream}")


def another_port(policy: Policy, targets: Targets) -> Policy:
    """Grant a port nobody listens on: sockets exist, and only the address is refused."""
    return policy.allow_connect("127.0.0.1:9")


def native_all(policy: Policy, targets: Targets) -> Policy:
    """Grant native code from anywhere readable."""
    return policy.allow_native("*")


def other_program(policy: Policy, _targets: Targets) -> Policy:
    """Grant a harmless program, so that exec itself is open and only the file is refused."""
    return policy.allow_exec("/bin/true")


def sleep_a_moment(policy: Policy, targets: Targets) -> Policy:
    """Grant a program that does nothing for long, for half a second."""
    return policy.allow_exec("/bin/sleep").with_limits(wall=f"{500 * targets.slowness:.0f}ms")


def outbox_and_other_program(policy: Policy, targets: Targets) -> Policy:
    """Grant a place to plant programs in, and the exec of another."""
    return other_program(writable_outbox(policy, targets), targets)


def readable_tool_and_other_program(policy: Policy, targets: Targets) -> Policy:
    """Grant reading the tool, and running another program."""
    return other_program(look_at_tool(policy, targets), targets)


def workspace(policy: Policy, _targets: Targets) -> Policy:
    """Grant a workspace of one mebibyte."""
    return policy.with_workspace("1MiB")


def workspace_and_other_program(policy: Policy, targets: Targets) -> Policy:
    """Grant a workspace, and the exec of a program that is not in it."""
    return readable_tool_and_other_program(workspace(policy, targets), targets)


def native_directory(policy: Policy, targets: Targets) -> Policy:
    """Grant reading the directory with native code, not loading it."""
    return policy.allow_read(targets.tool.rpartition("/")[0])


def by_name(policy: Policy, targets: Targets) -> Policy:
    """Grant hosts by name: the paths below /granted, plain and inside of TLS, and tunnels to the names below `one`."""
    return (
        policy.allow_import("@stdlib")
        .allow_native("_ssl", "_socket", "_hashlib")
        .allow_read("@certificates")
        .allow_connect(f"127.0.0.1:{targets.web}")  # the addresses of this machine need it beside the names
        .allow_connect(f"127.0.0.1:{targets.tls}")
        .allow_http(f"* api.escape.test:{targets.web}/granted/*")
        .allow_http(f"* friend.escape.test:{targets.web}/granted/*")
        .allow_http(f"* https://open.escape.test:{targets.tls}/granted/*")
        .allow_connect(f"*.one.escape.test:{targets.tls}")
        .allow_connect(f"*.one.escape.test:{targets.web}")
        .with_egress(inspect_tls=True)
    )


def by_name_to_read(policy: Policy, targets: Targets) -> Policy:
    """Grant reading one host by name, and nothing else of it."""
    return (
        policy.allow_import("@stdlib")
        .allow_native("_socket")
        .allow_connect(f"127.0.0.1:{targets.web}")
        .allow_http(f"GET api.escape.test:{targets.web}/granted/*")
    )


def by_name_elsewhere(policy: Policy, targets: Targets) -> Policy:
    """Grant names that lead to the other listeners, whose addresses are not granted."""
    policy = by_name(policy, targets)
    for name in ("api", "rebound", "mapped"):
        policy = policy.allow_http(f"GET {name}.escape.test:{targets.tcp}/*")
    return policy


def with_secret(policy: Policy, targets: Targets) -> Policy:
    """Have the secret put into requests for one host."""
    inject = f"bearer api.escape.test:{targets.web}/granted/*"
    return by_name(policy, targets).with_secret("key", "env:PYISOLATE_ESCAPE_TOKEN", inject)


def without_secret(policy: Policy, _targets: Targets) -> Policy:
    """Have no credential put in."""
    return msgspec.structs.replace(policy, secrets=())


def any_request(policy: Policy, targets: Targets) -> Policy:
    """Grant every request to the hosts of techniques."""
    policy = policy.allow_http(f"* *.escape.test:{targets.web}/*")
    return policy.allow_http(f"* https://*.escape.test:{targets.tls}/*")


def secret_for_a_friend(policy: Policy, targets: Targets) -> Policy:
    """Have the secret put into requests for the other host, too."""
    return policy.with_secret(
        "another", "env:PYISOLATE_ESCAPE_TOKEN", f"bearer friend.escape.test:{targets.web}/granted/*"
    )
