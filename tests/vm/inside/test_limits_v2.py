"""The host tier's tests of control groups, on a machine where v2 has all controllers."""

from tests.host.conftest import tree  # noqa: F401 (asked for by what follows)
from tests.host.test_cgroup import *  # noqa: F403
from tests.host.test_cgroup_delegated import *  # noqa: F403
from tests.host.test_turns import *  # noqa: F403

# There is one hierarchy here: this is about supervisors that v1 shows in different places.
del test_what_a_dead_supervisor_had_below_another_service_is_swept_too  # type: ignore[name-defined]  # noqa: F821
