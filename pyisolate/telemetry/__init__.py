"""Denial telemetry: what each layer saw becomes one event, and the event goes everywhere it should.

event      the records and the `DenialEvent`            (light: the guest's side imports these three alone)
sanitize   text that is safe to print
merge      broker record + kernel record -> event
untrusted  records that a guest reports: checked and capped
join       which two records belong to one operation
sandbox    all of that for one sandbox
recorder   event -> store -> counters -> audit log -> sinks -> alerts
store      one sandbox's events; counters, metrics, exposition: Prometheus; audit, webhook, otel: sinks; alerts: rules
mapping    the same event in OCSF and ECS; schema: its JSON Schema
"""
