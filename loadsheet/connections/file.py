"""Reads `connections/connections.yml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from loadsheet.connections.parse import (
    BOTH_EXTRAS,
    EXTRA_FIELDS,
    IGNORED_FIELDS,
    PORT,
    TEXT_FIELDS,
    is_port,
)
from loadsheet.errors import SpecError
from loadsheet.problem import Problem

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # a PyYAML built without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_NULL = "tag:yaml.org,2002:null"
_TEXT = "tag:yaml.org,2002:str"
_WHOLE = "tag:yaml.org,2002:int"
_MERGE = "tag:yaml.org,2002:merge"
_FIELDS = (*TEXT_FIELDS, "port", *EXTRA_FIELDS, *IGNORED_FIELDS, "uri")
_NAMED = f"{', '.join(TEXT_FIELDS)}, port and extra"


def read_connections(file: Path) -> Mapping[str, Any]:
    """The connections in `file` by id.

    Raises SpecError, with the place and never with a value, if the file cannot be read, is not a
    mapping, or has a duplicate key, of which YAML would silently take the last.
    """
    try:
        # Twice: the values, and the nodes with the positions and the text of each value.
        text = file.read_bytes()
        content = yaml.load(text, _Loader) or {}
        root = yaml.compose(text, _Loader)
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        # Not the error's own text: it quotes the line, which may hold a secret.
        mark = error.problem_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _unreadable(file, f"not valid YAML: {error.problem}", place, "yaml-syntax") from None
    except yaml.YAMLError:
        raise _unreadable(
            file,
            "not valid YAML: it holds characters that YAML does not allow",
            code="yaml-syntax",
        ) from None
    if not isinstance(content, dict):
        raise _unreadable(
            file, "expected a mapping from connection ids to connections", code="wrong-value"
        )
    _refuse_duplicate_keys(file, root)
    problems = list(_problems(file, root)) if root else []
    if problems:
        raise SpecError(problems)
    return {conn_id: _as_written(str(conn_id), entry, root) for conn_id, entry in content.items()}


def _refuse_duplicate_keys(file: Path, root: Any) -> None:
    """For the ids, and for the fields of each connection."""
    # The list grows while it is walked: the connections come after the file's own mapping.
    mappings = [root] if root else []
    for mapping in mappings:
        seen = set()
        for key, value in mapping.value:
            if key.value in seen:
                place = (key.start_mark.line + 1, key.start_mark.column + 1)
                message = f"duplicate key {key.value!r}: remove one of the two"
                raise _unreadable(file, message, place, "duplicate-key")
            seen.add(key.value)
            if mapping is root and isinstance(value, yaml.MappingNode):
                mappings.append(value)


def _problems(file: Path, root: Any) -> Iterator[Problem]:
    """The problems of ids and fields, each with its place."""

    def problem(node: Any, path: str, message: str, code: str = "wrong-value") -> Problem:
        mark = node.start_mark
        place = {"line": mark.line + 1, "column": mark.column + 1}
        return Problem(file=str(file), path=path, message=message, code=code, **place)

    for key, entry in root.value:
        conn_id = str(key.value)
        if key.tag == _MERGE:
            continue
        if key.tag != _TEXT:
            yield problem(key, conn_id, "a connection's id must be text: put it in quotes")
        if isinstance(entry, yaml.ScalarNode) and entry.tag == _TEXT:
            continue  # a URI
        if not isinstance(entry, yaml.MappingNode):
            message = "expected the connection's fields, such as `host: localhost`, or a URI"
            yield problem(entry, conn_id, message)
            continue
        names = [name.value for name, _ in entry.value]
        for name, value in entry.value:
            path = f"{conn_id}.{name.value}"
            if name.tag != _MERGE and name.value not in _FIELDS:
                message = f"unknown field {str(name.value)!r}; the fields are {_NAMED}"
                yield problem(name, path, message, "unknown-key")
            elif name.tag != _MERGE:
                expected = _expected(name.value, value)
                if expected:
                    yield problem(value, path, f"expected {expected}")
        if set(EXTRA_FIELDS) <= set(names):
            yield problem(entry, conn_id, BOTH_EXTRAS)


def _expected(field: str, value: Any) -> str:
    """What the value of a field should be; empty where it is that. A `${VAR}` may become it."""
    is_scalar = isinstance(value, yaml.ScalarNode)
    if is_scalar and (value.tag == _NULL or "${" in value.value):
        return ""
    if field == "port":
        is_number = is_scalar and value.tag in (_TEXT, _WHOLE) and is_port(value.value)
        return "" if is_number else PORT
    if field in EXTRA_FIELDS:
        is_extra = isinstance(value, yaml.MappingNode) or (is_scalar and value.tag == _TEXT)
        return "" if is_extra else "a mapping, or its JSON as text"
    if field == "uri":
        return "" if is_scalar and value.tag == _TEXT else "a URI as text"
    return "" if is_scalar else "text"


def _as_written(conn_id: str, entry: Any, root: Any) -> Any:
    """The connection with its texts as they are in the file: YAML reads the passwords 0123 and yes
    as 83 and True."""
    if not isinstance(entry, dict):
        return entry
    texts = {}
    for key, mapping in root.value:
        if key.value != conn_id:
            continue
        for field, value in mapping.value:
            is_text = isinstance(value, yaml.ScalarNode) and value.tag != _NULL
            if is_text and field.value in TEXT_FIELDS:
                texts[field.value] = value.value
    return entry | texts


def _unreadable(
    file: Path, message: str, place: tuple[int, int] = (1, 1), code: str = "unreadable-file"
) -> SpecError:
    line, column = place
    problem = Problem(file=str(file), line=line, column=column, path="", message=message, code=code)
    return SpecError([problem])
