"""Runs a zygote on the control socket whose descriptor is given: `python -I -m pyisolate.cell DESCRIPTOR`."""

import gc
import sys

from . import own_builtins

gc.disable()  # until all is imported (`zygote.main`): what is loaded is no garbage

own_builtins.begin()

from .at_fork import AT_FORK  # noqa: E402 - a guest must not break it

AT_FORK.collect()

from .zygote import main  # noqa: E402 - its imports register handlers

sys.exit(main(int(sys.argv[1])))
