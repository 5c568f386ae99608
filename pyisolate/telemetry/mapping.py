"""Its names by their first public path; the code is in `pyisolate.telemetry.formats`."""

from .formats import to_ecs as to_ecs
from .formats import to_ocsf as to_ocsf
