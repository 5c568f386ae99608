"""Where events go: one sink a file.

protocol   what a sink is; configuration        dispatch       the thread that serves sinks
audit      the audit log                         audit_reader   reads it back
webhook    HTTP                                  otel           OpenTelemetry
"""
