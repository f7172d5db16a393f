"""What to do about a violation of the schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loadsheet.spec.words import meant_key

CONNECTION_ID_HINT = "define the connection in connections/connections.yml or AIRFLOW_CONN_<ID>, and write its id here"
_NO_SECRETS = (
    "this belongs to the connection: connections/connections.yml or AIRFLOW_CONN_<ID>; a spec holds only its id"
)
_TABLES = "write each table as a key, `bookings:`, not as a list entry, `- bookings`"
_CONNECTION_KEY = re.compile(
    r"host|port|url|uri|dsn|user(name)?|login|pass(word|wd)?|token|db|dbname|database|(access|secret)(_.*)?|endpoint(_.*)?"
)

Schema = Mapping[str, Any]


def hint_for_key(root: Schema, key: str, here: Schema) -> str:
    """What the unknown `key` probably meant or where it belongs, and which keys the mapping `here` allows."""
    allowed = here["properties"]
    choice = f"allowed here: {', '.join(allowed)}"
    if is_of_a_connection(key):
        return _NO_SECRETS
    if homes := [name for name, child in allowed.items() if key in _resolved(root, child).get("properties", {})]:
        return f"it belongs under {' or '.join(homes)}; {choice}"
    if meant := meant_key(key, allowed):
        return f"did you mean {meant!r}? {choice}"
    return f"it belongs at the top level; {choice}" if key in root["properties"] else choice


def is_of_a_connection(key: str) -> bool:
    """Whether `key` says where a server is or how to log in, which a spec must not know."""
    return _CONNECTION_KEY.fullmatch(key.lower()) is not None


def hint_for_missing(key: str, subschema: Schema) -> str:
    """The line to add, by the schema's own example."""
    return f"add `{key}: {_flow(subschema['examples'][0])}`"


def hint_for_value(subschema: Schema, value: Any) -> str:
    """How to write the value so that it is what the schema expects."""
    title, types = str(subschema.get("title", "")), subschema.get("type", ())
    if "connection" in title and isinstance(value, str) and ("://" in value or "@" in value):
        return CONNECTION_ID_HINT
    if "duration" in title:
        return _duration_hint(value)
    if "per table" in title:
        return _TABLES
    if "array" in types and "string" not in types and isinstance(value, str):
        return f"write a list: [{value}]"
    if "string" in types and isinstance(value, int | float) and not isinstance(value, bool):
        return f'quote it: "{value}"'
    if "string" not in types and isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value):
        return "write it without quotes"
    return f"for example {_flow(subschema['examples'][-1])}" if subschema.keys() >= {"examples", "type"} else ""


def _duration_hint(value: Any) -> str:
    if isinstance(value, int) and value > 0 and value is not True:
        return f"with its unit: {value}s, {value}m, {value}h or {value}d"
    match = re.fullmatch(r"\s*0*([1-9]\d*)\s*([smhd])[a-z]*\s*", value.lower()) if isinstance(value, str) else None
    return f"did you mean {match[1]}{match[2]}?" if match else "one number and one unit: s, m, h or d"


def _flow(example: Any) -> str:
    """A value as people write it on one line of YAML."""
    if isinstance(example, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list):
        return f"[{', '.join(map(_flow, example))}]"
    if example is None:
        return "null"
    plain = isinstance(example, str) and re.fullmatch(r"[A-Za-z][\w-]*|\d+[smhd]", example)
    return str(example) if plain or not isinstance(example, str) else f'"{example}"'


def _resolved(root: Schema, node: Schema) -> Schema:
    name = str(node.get("$ref", "")).rpartition("/")[2]
    return {**root["$defs"].get(name, {}), **node}
