"""Where a cell finds modules: in its working directory, and in an environment's packages, where its policy names one,
in the place of those that the zygote was started with."""

from __future__ import annotations

import os
import sys

from ..hooks import frames
from ..policy.compiled import CompiledPolicy, SiteFiles

_PACKAGE = __package__.partition(".")[0]


def find_modules(policy: CompiledPolicy, directory: str, *, searched: bool) -> None:
    """Find modules as a policy says; first in the working directory, as `python -c` does, where that is `searched`."""
    if policy.site is not None:
        _use_packages(policy.site)
    if searched:
        sys.path.insert(0, directory)


def _use_packages(site: SiteFiles) -> None:
    """Find modules in the standard library and in `site`, and nowhere else; forget those that are there as well.

    What this package itself has loaded (msgspec, cloudpickle) it keeps; a guest imports its environment's own.
    """
    stdlib = os.path.dirname(os.path.abspath(os.__file__))
    archive = f"{os.path.dirname(stdlib)}/python{sys.version_info[0]}{sys.version_info[1]}.zip"
    own = {archive, stdlib, f"{stdlib}/lib-dynload"}
    sys.path[:] = [*(path for path in sys.path if path in own), site.path]
    # Those of editable installs and of `.pth` files lead to the host's packages.
    sys.meta_path[:] = [one for one in sys.meta_path if _module_of(one).startswith((_PACKAGE, "_frozen_importlib"))]
    doomed = set(site.modules) - {_PACKAGE} - sys.stdlib_module_names
    for name in [name for name in sys.modules if name.partition(".")[0] in doomed]:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    frames.count_as_library(site.path)


def _module_of(finder: object) -> str:
    return str(getattr(finder, "__module__", None) or type(finder).__module__)
