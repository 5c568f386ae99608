"""Its names by their first public path; the code is in `pyisolate.telemetry.sinks.audit_reader`."""

from .sinks.audit_reader import follow_events as follow_events
from .sinks.audit_reader import read_events as read_events
