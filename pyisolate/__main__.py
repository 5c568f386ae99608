"""`python -m pyisolate`: the same as the command `pyisolate`."""

import contextlib
import os
import sys

if __name__ == "__main__":
    # `-m` puts the working directory before all others: a guest that may write there would give this process modules
    with contextlib.suppress(OSError):  # the directory may be gone
        if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
            del sys.path[0]
    from .cli.main import main

    main()
