"""Checks the shape and types of a pipeline file by its JSON Schema.

Each `title` in the schema is a noun phrase for what is expected: messages read `expected {title},
found ...`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from loadsheet.problem import Finding, KeyPath
from loadsheet.spec.files import SCHEMA_FILE
from loadsheet.spec.suggest import (
    CONNECTION_ID_HINT,
    describe_value,
    hint_for_key,
    hint_for_missing,
    hint_for_value,
    is_of_a_connection,
    meant_value,
    quote_value,
    with_space,
)

Violation = Any
"""A jsonschema.ValidationError, whose stubs call every field possibly unset."""


@cache
def pipeline_schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return loaded


def shape_findings(data: Any) -> list[Finding]:
    """Everything in `data` that the schema does not allow; one finding per path, or per unknown or
    missing key."""
    findings: dict[tuple[KeyPath, str], Finding] = {}
    for error in _validator().iter_errors(data):
        path = tuple(error.absolute_path)
        explain = _EXPLAIN.get(str(error.validator), _unexpected)
        for finding in explain(error, path):
            # Several keys may be missing at one path; anything else is reported once per path.
            missing_key = finding.message if finding.code == "missing-key" else ""
            findings.setdefault((finding.path, missing_key), finding)
    return list(findings.values())


@cache
def _validator() -> Any:
    extend: Any = validators.extend
    validator = extend(Draft202012Validator, {"pattern": _pattern})
    return validator(_inlined(pipeline_schema(), pipeline_schema()["$defs"]))


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """`part` with definitions in place of references to them: resolving references takes a third
    of the time of a shape check. No definition of ours refers to itself."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **part}
    inlined = {}
    for key, value in part.items():
        if key not in ("$ref", "$defs"):
            inlined[key] = _inlined(value, definitions)
    return inlined


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    # Python's `$` also matches before a final newline, JSON Schema's does not: "flights\n" is not a
    # DAG id.
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError("pattern")


def _unknown_keys(error: Violation, path: KeyPath) -> Iterator[Finding]:
    properties = error.schema["properties"]
    # The key right above, where it takes a mapping and has nothing: what should be below it is next
    # to it, perhaps several keys.
    above = ""
    for key, value in error.instance.items():
        if key in properties:
            takes_keys = "object" in properties[key].get("type", ())
            above = key if value is None and takes_keys else ""
            continue
        code = "connection-in-spec" if is_of_a_connection(key) else "unknown-key"
        message = f"unknown key {quote_value(key)}"
        hint = hint_for_key(pipeline_schema(), key, error.schema)
        if above:
            hint = f"if it belongs to `{above}`, indent it by two more spaces; {hint}"
        yield Finding(code, path=(*path, key), message=message, hint=hint, at="key")


def _missing_keys(error: Violation, path: KeyPath) -> Iterator[Finding]:
    for key in error.validator_value:
        if key not in error.instance:
            message = f"missing key {quote_value(key)}"
            hint = hint_for_missing(key, error.schema["properties"][key])
            yield Finding("missing-key", path=path, message=message, hint=hint)


def _not_allowed(error: Violation, path: KeyPath) -> Iterator[Finding]:
    value = error.instance
    # null cancels an inherited value; as a suggestion it would only confuse.
    allowed = [option for option in error.validator_value if option is not None]
    meant = meant_value(value, allowed) if isinstance(value, str) else None
    message = f"{describe_value(value)} is not one of {', '.join(allowed)}"
    hint = f"did you mean {meant!r}?" if meant else ""
    yield Finding("wrong-value", path=path, message=message, hint=hint)


def _duplicates(error: Violation, path: KeyPath) -> Iterator[Finding]:
    seen = set()
    for index, value in enumerate(error.instance):
        # By repr, because 1 and True are equal, and items may be lists.
        if repr(value) in seen:
            message = f"{quote_value(value)} is listed twice"
            hint = "remove one of the two"
            yield Finding("duplicate-item", path=(*path, index), message=message, hint=hint)
        seen.add(repr(value))


def _unexpected(error: Violation, path: KeyPath) -> Iterator[Finding]:
    value = error.instance
    title = error.schema.get("title", "something else")
    message = f"expected {title}, found {describe_value(value)}"
    # Then the path is that of the mapping, and the instance is its wrong key.
    if "propertyNames" in error.absolute_schema_path:
        yield Finding("wrong-value", path=(*path, value), message=message, at="key")
        return
    hint = hint_for_value(error.schema, value)
    if len(path) == 2 and path[-1] in error.schema.get("properties", ()):
        hint = f"`{path[-1]}` is a key of an entry of `{path[0]}`: indent it by two more spaces"
    spaced = with_space(str(path[-1])) if path else ""
    if spaced:
        hint = f"put a space after the first ':', `{spaced}`"
    code = "connection-in-spec" if hint == CONNECTION_ID_HINT else "wrong-value"
    yield Finding(code, path=path, message=message, hint=hint)


# By the schema's keyword that is violated; others are explained by `_unexpected`.
_EXPLAIN: dict[str, Callable[[Violation, KeyPath], Iterator[Finding]]] = {
    "additionalProperties": _unknown_keys,
    "required": _missing_keys,
    "enum": _not_allowed,
    "uniqueItems": _duplicates,
}
