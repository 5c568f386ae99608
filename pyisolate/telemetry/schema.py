"""The JSON Schema of a `DenialEvent`, generated from the struct and shipped as `denial_event.schema.json`.

`python -m pyisolate.telemetry.schema > pyisolate/telemetry/denial_event.schema.json` brings the file up to date.
"""

from __future__ import annotations

import inspect
import json
import sys
from importlib import resources
from typing import Any

import msgspec

from .event import SCHEMA, DenialEvent

_ID = "urn:pyisolate:schema:denial:1"
_FILE = "denial_event.schema.json"


def generate_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of an event as `to_dict` and `to_json` write it: all fields, no others."""
    (root,), components = msgspec.json.schema_components([DenialEvent], ref_template="#/$defs/{name}")
    name = root["$ref"].rsplit("/", 1)[1]
    event = dict(components.pop(name))
    event["description"] = inspect.cleandoc(event["description"])
    properties = dict(event["properties"])
    properties["schema"] = {"const": SCHEMA}
    properties["count"] = {"type": "integer", "minimum": 1}
    properties["suggestion"] = {
        "anyOf": [{"type": "object"}, {"type": "null"}],
        "description": "The smallest policy fragment that would allow it; null where none can.",
    }
    event |= {"properties": properties, "required": list(properties), "additionalProperties": False}
    components["Actor"] = {**components["Actor"], "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": _ID, **event, "$defs": components}


def load_schema() -> dict[str, Any]:
    """Return the shipped schema."""
    text = resources.files(__package__).joinpath(_FILE).read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def render_schema() -> str:
    """Return the text of the shipped file."""
    return json.dumps(generate_schema(), indent=2, sort_keys=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_schema())
