"""Reads `connections/connections.yml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from loadsheet.connections.parse import TEXT_FIELDS
from loadsheet.errors import SpecError
from loadsheet.problem import Problem

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # a PyYAML built without libyaml
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_NULL = "tag:yaml.org,2002:null"


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
