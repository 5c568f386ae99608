"""The host tier's tests of control groups, on a machine where v2 has all controllers."""

from tests.host.test_cgroup import *  # noqa: F403
from tests.host.test_cgroup_delegated import *  # noqa: F403
