"""The DBA of a test's servers: makes the roles of `loadsheet grants`, and runs what it prints again
when there are new tables or the pipeline files have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from loadsheet.errors import LoadsheetError
from loadsheet.plan import grants
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import ident, literal
from tests.sessions import kept

End = Literal["source", "warehouse"]
ADMINISTRATOR = "loadsheet"
"""The superuser of the tests' servers."""
PASSWORD = "granted"
_STATEMENTS: dict[End, Callable[[Pipeline, grants.Roles], list[str]]] = {
    "source": grants.source_grants,
    "warehouse": grants.warehouse_grants,
}
_PREFIX: dict[End, str] = {"source": "extractor", "warehouse": "loader"}
# What belongs to the role needs no grant, and a run makes much of it. Privileges are not looked at:
# a test that revokes one wants it gone.
_THERE_IS = """
SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.to_regrole(pg_catalog.quote_ident(%(role)s))
    IS NOT NULL, pg_catalog.concat_ws(' ',
    (SELECT string_agg(concat_ws('.', oid, relnamespace, relname), ' ' ORDER BY oid)
     FROM pg_catalog.pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
     AND relpersistence <> 't'
     AND relowner IS DISTINCT FROM pg_catalog.to_regrole(pg_catalog.quote_ident(%(role)s))),
    (SELECT string_agg(concat_ws('.', oid, nspname), ' ' ORDER BY oid)
     FROM pg_catalog.pg_namespace WHERE oid >= 2200 AND nspname !~ '^pg_'
     AND nspowner IS DISTINCT FROM pg_catalog.to_regrole(pg_catalog.quote_ident(%(role)s))),
    (SELECT max(oid::text::bigint) FROM pg_catalog.pg_attrdef),
    (SELECT max(oid::text::bigint) FROM pg_catalog.pg_trigger),
    (SELECT max(oid::text::bigint) FROM pg_catalog.pg_rewrite)
)
"""
# Tests make their databases hostile, and set limits on them.
_SESSION = {
    "connect_timeout": 5,
    "client_encoding": "UTF8",
    "options": "-csearch_path=pg_catalog -cstatement_timeout=0 -clock_timeout=20s"
    " -cdefault_transaction_isolation=read\\ committed -cdefault_transaction_read_only=off",
}
# Threads of a run look connections up at the same time.
_ONE_AT_A_TIME = threading.Lock()


@dataclass
class Granted:
    """What has been granted for the pipelines of a project's folder."""

    folder: Path
    _done: dict[tuple[End, str], tuple[dict[Path, bytes], list[str], str]] = field(
        default_factory=dict
    )
    """By server and URI: the files and statements of the last time, and what there was then."""
    _texts: dict[Path, bytes] = field(default_factory=dict)
    _pipelines: list[Pipeline] = field(default_factory=list)

    def login(self, end: End, uri: str, may_differ: bool = True) -> str:
        """The URI of the pipeline's role; grants what is missing. `may_differ` says whether the
        database may have changed since the last call. A URI with a login of the test's own, or by
        which even the administrator gets no session, is returned as it is."""
        if not _is_administrator(uri):
            return uri
        with _ONE_AT_A_TIME:
            self._read_pipelines()
            done = self._done.get((end, uri))
            try:
                if may_differ or done is None or done[0] is not self._texts:
                    self._grant(end, uri)
            except psycopg.errors.LockNotAvailable:
                raise  # the test has to call `Project.grant` before it locks
            except psycopg.OperationalError:
                # The server is away. The pipeline meets the same.
                if done is None:
                    return uri
        url = urlsplit(uri)
        _, _, server = url.netloc.rpartition("@")
        return url._replace(netloc=f"{role_of(end, uri)}:{PASSWORD}@{server}").geturl()

    def _grant(self, end: End, uri: str) -> None:
        role = role_of(end, uri)
        statements = printed(end, uri, self._pipelines, role)
        with kept(uri, **_SESSION) as session:
            is_standby, has_role, there_is = session.execute(_THERE_IS, {"role": role}).fetchone()
            if is_standby:
                return
            _, *before = self._done.get((end, uri), (None,))
            if before != [statements, there_is]:
                create = [] if has_role else [creation(role, PASSWORD)]
                run_each(session, [*create, *statements])
            self._done[end, uri] = self._texts, statements, there_is

    def _read_pipelines(self) -> None:
        """Those that have no problems: `loadsheet grants` prints nothing for others."""
        home = self.folder / "pipelines"
        texts = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
        if texts == self._texts:
            return
        self._texts = texts
        self._pipelines = []
        for file in sorted(home.glob("*/pipeline.yml")):
            with suppress(LoadsheetError):
                self._pipelines.append(load_pipeline(file))


def _is_administrator(uri: str) -> bool:
    try:
        return conninfo_to_dict(uri).get("user") == ADMINISTRATOR
    except psycopg.ProgrammingError:  # what libpq does not know
        return False


def role_of(end: End, uri: str) -> str:
    """The pipeline's role on a database of a test: every project on it has the same. Its name needs
    no quotes."""
    # PostgreSQL cuts names at 63 bytes.
    return f"{_PREFIX[end]}_{_database(uri)[-50:]}".replace("-", "_")


def _database(uri: str) -> str:
    return unquote(urlsplit(uri).path[1:])


def printed(end: End, uri: str, pipelines: Iterable[Pipeline], role: str) -> list[str]:
    """What `loadsheet grants` prints for the pipelines and the database, without its comments."""
    database = _database(uri)
    roles = grants.Roles(
        extractor=role,
        loader=role,
        reader=f"reader_{database[-50:]}",
        source_database=database,
        warehouse_database=database,
    )
    return [
        statement
        for pipeline in pipelines
        for statement in _STATEMENTS[end](pipeline, roles)
        if not statement.startswith("--")
    ]


def run_each(session: psycopg.Connection, statements: list[str]) -> None:
    """Run the statements in an autocommit session, as psql does by default: one that names a table
    or a schema that is not there yet fails alone."""
    missing = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
    try:
        session.execute("\n".join(statements).encode())
    except missing:
        for statement in statements:
            with suppress(*missing):
                session.execute(statement.encode())


def creation(role: str, password: str) -> str:
    """The statement that creates a role that may log in and nothing else."""
    return f"CREATE ROLE {ident(role)} LOGIN PASSWORD {literal(password)};"
