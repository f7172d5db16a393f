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
    """The connections in `file` by id. Raises SpecError, with the place and never with a value,
    when it cannot be read, is no mapping, or says something twice, of which YAML would quietly take
    the last."""
    try:
        text = file.read_bytes()
        content = yaml.load(text, _Loader) or {}
        root = yaml.compose(text, _Loader)
    except OSError as error:
        raise _unreadable(file, f"cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        # Not the error's own text: it quotes the line, which may hold a secret.
        mark = error.problem_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise _unreadable(file, f"not valid YAML: {error.problem}", place) from None
    except yaml.YAMLError:
        raise _unreadable(
            file, "not valid YAML: it holds characters that YAML does not allow"
        ) from None
    if not isinstance(content, dict):
        raise _unreadable(file, "expected a mapping from connection ids to connections")
    _refuse_twice(file, root)
    return {conn_id: _as_written(str(conn_id), entry, root) for conn_id, entry in content.items()}


def _refuse_twice(file: Path, root: Any) -> None:
    """The ids, and the fields of each."""
    entries = root.value if root else []
    for pairs in (
        entries,
        *(entry.value for _, entry in entries if isinstance(entry, yaml.MappingNode)),
    ):
        seen = set()
        for key, _ in pairs:
            if key.value in seen:
                place = (key.start_mark.line + 1, key.start_mark.column + 1)
                raise _unreadable(
                    file, f"{key.value!r} is there a second time: remove one of the two", place
                )
            seen.add(key.value)


def _as_written(conn_id: str, entry: Any, root: Any) -> Any:
    """A password such as 0123 or yes is that text; YAML makes 83 and True of it."""
    if not isinstance(entry, dict):
        return entry
    fields = [pair for key, fields in root.value if key.value == conn_id for pair in fields.value]
    scalars = ((key.value, value) for key, value in fields if isinstance(value, yaml.ScalarNode))
    return entry | {
        name: value.value for name, value in scalars if name in TEXT_FIELDS and value.tag != _NULL
    }


def _unreadable(file: Path, message: str, place: tuple[int, int] = (1, 1)) -> SpecError:
    line, column = place
    return SpecError(
        [
            Problem(
                file=str(file),
                line=line,
                column=column,
                path="",
                message=message,
                code="unreadable-file",
            )
        ]
    )
