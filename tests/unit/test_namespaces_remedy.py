"""Where namespaces are refused, the one remedy is for the cause that this system shows."""

from __future__ import annotations

import pytest

from pyisolate.kernel.namespaces import remedy

CAUSES = {
    "limit": ({"/proc/sys/user/max_user_namespaces": "0\n"}, "user.max_user_namespaces"),
    "debian": ({"/proc/sys/kernel/unprivileged_userns_clone": "0\n"}, "unprivileged_userns_clone=1"),
    "container": ({"/proc/self/status": "NoNewPrivs:\t0\nSeccomp:\t2\n"}, "docs/deploy/seccomp.json"),
    "ubuntu": ({"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}, "AppArmor profile"),
    "unknown": ({"/proc/self/status": "Seccomp:\t0\n", "/proc/sys/user/max_user_namespaces": "9\n"}, "unshare -Ur"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_remedy_is_for_the_cause(cause: str) -> None:
    files, word = CAUSES[cause]
    said = remedy(lambda path: files.get(path, ""))
    assert word in said
    others = {other for _, other in CAUSES.values()} - {word}
    assert not [other for other in others if other in said]
