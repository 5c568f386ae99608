"""Runs the egress proxy: `-m pyisolate.egress CONTROL LISTENER LED`, descriptors of two sockets and of a table."""

import sys

from .serve import main

sys.exit(main(*map(int, sys.argv[1:4])))
