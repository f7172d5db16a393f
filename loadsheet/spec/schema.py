"""Shape and types of a pipeline file by its JSON Schema, every violation in words.

The schema's `title`s are the words: each says what is expected as a noun phrase, for `expected
{title}, found ...`.
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
    found,
    hint_for_key,
    hint_for_missing,
    hint_for_value,
    is_of_a_connection,
    meant_value,
    shown,
)

Violation = Any
"""A jsonschema.ValidationError, whose stubs call every field possibly unset."""


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a pipeline file."""
    loaded: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return loaded


def shape_findings(data: Any) -> list[Finding]:
    """Everything in `data` that the schema does not allow; one finding per path, or per unknown or
    missing key."""
    findings: dict[tuple[KeyPath, str], Finding] = {}
    for error in _validator().iter_errors(data):
        path = tuple(error.absolute_path)
        for finding in _WORDS.get(str(error.validator), _unexpected)(error, path):
            detail = finding.message if finding.message.startswith("missing") else ""
            findings.setdefault((finding.path, detail), finding)
    return list(findings.values())


@cache
def _validator() -> Any:
    whole = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
    return whole(_inlined(schema(), schema()["$defs"]))


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """`part` with definitions in the place of references to them: resolving them is a third of a
    check of the shape. None of ours refers to itself."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **part}
    return {
        key: _inlined(value, definitions)
        for key, value in part.items()
        if key not in ("$ref", "$defs")
    }


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    # Python's `$` also matches before a final newline, JSON Schema's does not: "flights\n" is no
    # DAG id.
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError("pattern")


def _unknown_keys(error: Violation, path: KeyPath) -> Iterator[Finding]:
    allowed = list(error.schema["properties"])
    for key in error.instance:
        if key not in allowed:
            hint = hint_for_key(schema(), key, error.schema)
            code = "connection-in-spec" if is_of_a_connection(key) else "unknown-key"
            yield Finding(
                code, path=(*path, key), message=f"unknown key {shown(key)}", hint=hint, at="key"
            )


def _missing_keys(error: Violation, path: KeyPath) -> Iterator[Finding]:
    for key in error.validator_value:
        if key not in error.instance:
            hint = hint_for_missing(key, error.schema["properties"][key])
            yield Finding("missing-key", path=path, message=f"missing key {shown(key)}", hint=hint)


def _not_allowed(error: Violation, path: KeyPath) -> Iterator[Finding]:
    allowed = [value for value in error.validator_value if value is not None]
    value = error.instance
    message = f"{found(value)} is not one of {', '.join(allowed)}"
    if len(allowed) == 1:
        message = f"{found(value)} is not {allowed[0]}, the only value so far"
    meant = meant_value(value, allowed) if isinstance(value, str) else None
    yield Finding(
        "wrong-value", path=path, message=message, hint=f"did you mean {meant!r}?" if meant else ""
    )


def _twice(error: Violation, path: KeyPath) -> Iterator[Finding]:
    seen = set()
    for index, value in enumerate(error.instance):
        if repr(value) in seen:
            yield Finding(
                "duplicate-item",
                path=(*path, index),
                message=f"{shown(value)} is listed twice",
                hint="drop one",
            )
        seen.add(repr(value))


def _unexpected(error: Violation, path: KeyPath) -> Iterator[Finding]:
    value, title = error.instance, error.schema.get("title", "something else")
    if "propertyNames" in error.absolute_schema_path:
        yield Finding(
            "wrong-value",
            path=(*path, value),
            message=f"expected {title}, found {found(value)}",
            at="key",
        )
        return
    hint = hint_for_value(error.schema, value)
    code = "connection-in-spec" if hint == CONNECTION_ID_HINT else "wrong-value"
    yield Finding(code, path=path, message=f"expected {title}, found {found(value)}", hint=hint)


_WORDS: dict[str, Callable[[Violation, KeyPath], Iterator[Finding]]] = {
    "additionalProperties": _unknown_keys,
    "required": _missing_keys,
    "enum": _not_allowed,
    "uniqueItems": _twice,
}
