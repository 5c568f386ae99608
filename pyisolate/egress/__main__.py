"""Runs the egress proxy: `python -I -m pyisolate.egress CONTROL LISTENER`, the descriptors of two sockets."""

import sys

from .serve import main

sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
