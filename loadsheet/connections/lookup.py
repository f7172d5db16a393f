"""Connections by Airflow's ids and in Airflow's forms, found without Airflow.

`AIRFLOW_CONN_<ID>` (a URI or JSON) comes first, then `connections/connections.yml` with `${VAR}`
filled in. Variables are looked up in the environment, then in the project's `.env`. What is in
neither may be in Airflow's secrets backend (`airflow_side`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from loadsheet.connections import airflow_side
from loadsheet.connections.parse import (
    fields_from_json,
    fields_from_mapping,
    fields_from_uri,
    fill,
    missing_variables,
)
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.names import closest
from loadsheet.redact import register_secrets, secrets_in
from loadsheet.wording import listed

_log = logging.getLogger(__name__)

_VARIABLE_PREFIX = "AIRFLOW_CONN_"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A server and how to log in. `repr` leaves out the password and the extras, which may hold
    secrets."""

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
        register_secrets(self.password, *secrets_in(self.extra))
        # An S3 server: its login is an access key.
        if "endpoint_url" in self.extra or self.conn_type == "aws":
            register_secrets(self.login)


class Connections(Protocol):
    """Finds connections: those of the command line's project, or Airflow's."""

    def __call__(self, conn_id: str) -> Connection:
        """The connection with the id `conn_id`. Raises ConnectionMissing."""


def project_connections(project: Path, environ: Mapping[str, str] = os.environ) -> Connections:
    """The connections of the project in the folder `project`.

    Each is looked up when it is needed, so a missing variable is an error only for the connection
    that uses it. The result raises ConnectionMissing, which names the connection, the variable and
    where to set it, and InputError for text that is not a connection. Neither shows a value.
    """
    return _ProjectConnections(project, environ)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a project says about its connections."""

    ids: Collection[str]
    """In connections.yml, in `.env` and in the environment; those of variables in lower case."""
    is_declared: Callable[[str], bool]
    """Whether an id is among them. Airflow finds the id of a variable in any case."""
    may_be_elsewhere: bool
    """Others may be in Airflow: it has a secrets backend, or the project declares none itself."""


def declared_connections(project: Path, environ: Mapping[str, str] = os.environ) -> Declared:
    """The connections that the project declares.

    Raises SpecError if connections.yml cannot be read, InputError for a `.env` that is not text.
    """
    connections = _ProjectConnections(project, environ)
    ids = [str(conn_id) for conn_id in connections.entries]
    in_file = set(ids)
    for name, text in connections.variables.items():
        if name.startswith(_VARIABLE_PREFIX) and text.strip():
            ids.append(name.removeprefix(_VARIABLE_PREFIX).lower())

    def is_declared(conn_id: str) -> bool:
        return conn_id in in_file or connections.in_environment(conn_id) != ""

    # Variables of the environment alone may be those of another project.
    is_own = (project / "connections").is_dir()
    is_own = is_own or any(name.startswith(_VARIABLE_PREFIX) for name in connections.from_dotenv)
    has_backend = airflow_side.has_backend(connections.variables)
    return Declared(ids=ids, is_declared=is_declared, may_be_elsewhere=has_backend or not is_own)


def definitions_of(
    project: Path, conn_id: str, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Where the project defines a connection, the place that is used first. Raises as
    `declared_connections`."""
    connections = _ProjectConnections(project, environ)
    variable = _variable(conn_id)
    found = []
    if environ.get(variable, "").strip():
        found.append(f"{variable} in the environment")
    if (connections.from_dotenv.get(variable) or "").strip():
        found.append(f"{variable} in {connections.dotenv}")
    same = [str(other) for other in connections.entries if str(other).upper() == conn_id.upper()]
    found += [f"{other!r} in {connections.file}" for other in same if other == conn_id or found]
    return found


def connection_types(project: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The `conn_type` of every connection that the project defines, by id.

    The id of a variable is in lower case: Airflow finds it in any case. Raises InputError as
    `project_connections`.
    """
    connections = _ProjectConnections(project, environ)
    types: dict[str, str] = {}
    for conn_id, entry in connections.entries.items():
        conn_type = ""
        if isinstance(entry, dict):
            conn_type = str(entry.get("conn_type", ""))
        elif isinstance(entry, str) and "://" in entry:
            conn_type = str(fields_from_uri(entry, "")["conn_type"])
        types[str(conn_id)] = conn_type
    # Reversed, so that of two ids that differ only in case, the first one wins.
    ids = {conn_id.upper(): conn_id for conn_id in reversed(types)}
    for variable, text in connections.variables.items():
        if variable.startswith(_VARIABLE_PREFIX):
            name = variable.removeprefix(_VARIABLE_PREFIX)
            conn_id = ids.get(name, name.lower())
            types[conn_id] = _fields_from_text(text.strip(), variable)["conn_type"]
    return types


def _fields_from_text(text: str, where: str) -> dict[str, Any]:
    if text.startswith("{"):
        return fields_from_json(text, where)
    return fields_from_uri(text, where)


class _ProjectConnections:
    def __init__(self, project: Path, environ: Mapping[str, str]):
        self.file = project / "connections" / "connections.yml"
        self.dotenv = project / ".env"
        self.environ = environ

    def __call__(self, conn_id: str) -> Connection:
        if airflow_side.is_asked_first():
            return self._from_airflow(conn_id)
        variable = _variable(conn_id)
        if text := self.in_environment(conn_id):
            _log.debug("connection %s: from %s", conn_id, variable)
            return Connection(conn_id=conn_id, **_fields_from_text(text, variable))
        if conn_id in self.entries:
            _log.debug("connection %s: from %s", conn_id, self.file)
            entry = self.entries[conn_id]
            if isinstance(entry, str):
                entry = {"uri": entry}
            # Only now: a missing variable is an error only for a connection that is used.
            missing = missing_variables(entry, self.variables)
            if missing:
                keys = listed([each.key for each in missing])
                reasons = "; ".join(map(str, missing))
                names = listed([each.variable for each in missing])
                raise ConnectionMissing(
                    f"connection {conn_id!r} has no {keys}: {reasons}. Set {names} in the"
                    f" environment or in {self.dotenv} ({self.file} uses"
                    f" {'it' if len(missing) == 1 else 'them'})"
                )
            filled = fill(entry, self.variables)
            fields = fields_from_mapping(filled, f"{self.file}: {conn_id}")
            return Connection(conn_id=conn_id, **fields)
        meant = closest(conn_id, map(str, self.entries))
        hint = f" (did you mean {meant!r}?)" if meant else ""
        if airflow_side.has_backend(self.variables):
            if airflow_side.is_installed():
                return self._from_airflow(conn_id)
            hint += (
                "; Airflow's secrets backend may have it, but Airflow is not installed here: run"
                " the command where it is"
            )
        raise ConnectionMissing(
            f"connection {conn_id!r} is not defined: set {variable} in the environment or"
            f" in .env (a URI or JSON, as for Airflow), or add {conn_id!r} to {self.file}{hint}"
        )

    def _from_airflow(self, conn_id: str) -> Connection:
        _log.debug("connection %s: from Airflow", conn_id)
        found: Connection = airflow_side.connection(conn_id, self.variables)
        return found

    def in_environment(self, conn_id: str) -> str:
        """The text of the connection's variable; empty if it is not set."""
        return self.variables.get(_variable(conn_id), "").strip()

    @cached_property
    def variables(self) -> Mapping[str, str]:
        """The environment, and below it what `.env` sets."""
        if not self.from_dotenv:
            return self.environ
        # The environment wins, as in Docker Compose.
        return {**self.from_dotenv, **self.environ}

    @cached_property
    def from_dotenv(self) -> Mapping[str, str]:
        """The variables that `.env` sets."""
        if not self.dotenv.is_file():
            return {}
        from dotenv import dotenv_values, parser

        try:
            # dotenv_values only logs a line that it cannot read, and the name is then missing.
            with self.dotenv.open(encoding="utf-8") as lines:
                for binding in parser.parse_stream(lines):
                    if binding.error:
                        raise InputError(
                            f"{self.dotenv}:{binding.original.line}: expected NAME=value;"
                            " is a quote not closed?"
                        )
            found = dotenv_values(self.dotenv)
        except UnicodeDecodeError:
            raise InputError(f"{self.dotenv} is not a text file in UTF-8") from None
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def entries(self) -> Mapping[str, Any]:
        """The connections in connections.yml, by id, as they are written."""
        if not self.file.is_file():
            return {}
        # PyYAML takes 14 ms to import.
        from loadsheet.connections.file import read_connections

        return read_connections(self.file)


def _variable(conn_id: str) -> str:
    # as Airflow does
    return f"{_VARIABLE_PREFIX}{conn_id.upper()}"
