"""Its names by their first public path; the code is in `pyisolate.telemetry.sinks.audit`."""

from .sinks.audit import AuditLog as AuditLog
