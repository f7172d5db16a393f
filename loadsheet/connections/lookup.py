"""Connections by Airflow's ids and in Airflow's forms, found without Airflow.

First `AIRFLOW_CONN_<ID>` (a URI or JSON), then `connections/connections.yml` with `${VAR}` filled
in. Both look into the environment first and into the project's `.env` after it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from loadsheet.connections.parse import (
    MissingVariable,
    fields_from_json,
    fields_from_mapping,
    fields_from_uri,
    fill,
)
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.names import closest
from loadsheet.redact import register_secrets, secrets_in

_log = logging.getLogger(__name__)

SECRETS_BACKENDS = ("AIRFLOW__SECRETS__BACKEND", "AIRFLOW__WORKERS__SECRETS_BACKEND")
"""Airflow's own settings, as variables."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A server and how to log in. The password and the extras, which may hold secrets, are in no
    `repr`."""

    conn_id: str
    conn_type: str = ""
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    schema: str = ""
    """For PostgreSQL: the database."""
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """From now on, no message of this process shows the secrets."""
        register_secrets(
            self.password,
            *secrets_in(self.extra),
            *([self.login] if "endpoint_url" in self.extra else []),
        )


class Connections(Protocol):
    """Whoever knows connections: the command line's project, or Airflow's hooks."""

    def __call__(self, conn_id: str) -> Connection:
        """The connection called `conn_id`. Raises ConnectionMissing."""


def project_connections(project: Path, environ: Mapping[str, str] = os.environ) -> Connections:
    """The connections of the project in the folder `project`. A connection is looked up when it is
    asked for, so a variable that is missing is only missed by those who need it.

    The result raises ConnectionMissing, naming the connection, the variable and where to set it,
    and InputError for text that is no connection. Neither ever shows a value.
    """
    return _ProjectConnections(project, environ)


def declared_connections(
    project: Path, environ: Mapping[str, str] = os.environ
) -> tuple[Collection[str], Callable[[str], bool], bool]:
    """The ids in the project's connections.yml; whether an id is there, in the environment or in
    `.env`; and whether a secrets backend of Airflow's, which the environment or `.env` names, may
    have others.

    Raises SpecError when connections.yml cannot be read, InputError for a `.env` that is not text.
    """
    connections = _ProjectConnections(project, environ)
    known = [str(name) for name in connections.entries]
    has_backend = any(connections.variables.get(name, "").strip() for name in SECRETS_BACKENDS)
    return (
        known,
        lambda conn_id: conn_id in known or connections.in_environment(conn_id) != "",
        has_backend,
    )


def connection_types(project: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `conn_type` of every connection the project defines, by id; nothing else is read of them.

    A variable's id is in small letters: Airflow takes any case for it. Raises InputError as
    `project_connections`.
    """
    known = _ProjectConnections(project, environ)
    types = {str(conn_id): _type_of(entry) for conn_id, entry in known.entries.items()}
    for variable, text in known.variables.items():
        if variable.startswith("AIRFLOW_CONN_"):
            conn_id = variable.removeprefix("AIRFLOW_CONN_")
            read = fields_from_json if text.strip().startswith("{") else fields_from_uri
            same = next((name for name in types if name.upper() == conn_id), conn_id.lower())
            types[same] = read(text.strip(), variable)["conn_type"]
    return types


def _type_of(entry: Any) -> str:
    if isinstance(entry, str):
        return fields_from_uri(entry, "")["conn_type"] if "://" in entry else ""
    return str(entry.get("conn_type", "")) if isinstance(entry, dict) else ""


class _ProjectConnections:
    def __init__(self, project: Path, environ: Mapping[str, str]):
        self.file = project / "connections" / "connections.yml"
        self.dotenv = project / ".env"
        self.environ = environ

    def __call__(self, conn_id: str) -> Connection:
        variable = _variable(conn_id)
        if text := self.in_environment(conn_id):
            _log.debug("connection %s: from %s", conn_id, variable)
            read = fields_from_json if text.startswith("{") else fields_from_uri
            return Connection(conn_id=conn_id, **read(text, variable))
        if conn_id in self.entries:
            return Connection(
                conn_id=conn_id,
                **fields_from_mapping(self._filled(conn_id), f"{self.file}: {conn_id}"),
            )
        raise ConnectionMissing(
            f"connection {conn_id!r} is not defined: set {variable} (a URI or JSON, as for"
            f" Airflow), or add {conn_id!r} to {self.file}{_did_you_mean(conn_id, self.entries)}"
        )

    def in_environment(self, conn_id: str) -> str:
        return self.variables.get(_variable(conn_id), "").strip()

    def _filled(self, conn_id: str) -> Any:
        entry = self.entries[conn_id]
        try:
            return fill({"uri": entry} if isinstance(entry, str) else entry, self.variables)
        except MissingVariable as missing:
            raise ConnectionMissing(
                f"connection {conn_id!r} has no {missing.key}: {missing}. Set {missing.variable} in"
                f" the environment or in {self.dotenv} (asked for by {self.file})"
            ) from None

    @cached_property
    def variables(self) -> Mapping[str, str]:
        if not self.dotenv.is_file():
            return self.environ
        from dotenv import dotenv_values

        try:
            from_file = dotenv_values(self.dotenv)
        except UnicodeDecodeError:
            raise InputError(f"{self.dotenv} is not a text file in UTF-8") from None
        return {
            **{name: value for name, value in from_file.items() if value is not None},
            **self.environ,
        }

    @cached_property
    def entries(self) -> Mapping[str, Any]:
        if not self.file.is_file():
            return {}
        from loadsheet.connections.file import read_connections  # here: PyYAML is 14 ms

        return read_connections(self.file)


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def _did_you_mean(conn_id: str, known: Mapping[str, Any]) -> str:
    meant = closest(conn_id, map(str, known))
    return f" (did you mean {meant!r}?)" if meant else ""
