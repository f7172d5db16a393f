"""Asks the warehouse how it understands a SELECT: the tree of a temporary view, which is rolled
back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from loadsheet.answers import known
from loadsheet.errors import Refused
from loadsheet.lineage.trace import Trace, trace_column, trace_rows
from loadsheet.outcome import RunRequest
from loadsheet.pinned import PinnedSession
from loadsheet.redact import message
from loadsheet.source import nodes
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.text import Relation
from loadsheet.warehouse import search_path
from loadsheet.warehouse.parameters import bind_parameters

SETTINGS = {"statement_timeout": "10s", "lock_timeout": "2s"}
"""A table that is being swapped is locked for moments; one that is locked for longer is not waited
for."""
_REQUEST = RunRequest(run_id="lineage")
_VIEW = "_loadsheet_lineage"
_TREE = f"""
SELECT ev_action::text FROM pg_catalog.pg_rewrite
WHERE ev_class = 'pg_temp.{_VIEW}'::pg_catalog.regclass
"""
_COLUMNS = """
SELECT c.oid, nspname, relname, attnum, attname,
       pg_catalog.format_type(atttypid, atttypmod)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
WHERE c.oid = ANY (%s::oid[]) ORDER BY c.oid, attnum
"""
# What a function reads is not in the tree. One that is immutable promises to read nothing. One in C
# that is stable reads a dictionary or a setting; one that is volatile and takes something may read
# another server (dblink). Of PostgreSQL's own, only those read a table that write XML of one.
_READING = r"""
SELECT p.oid, p.oid::pg_catalog.regproc::text
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = prolang
WHERE p.oid = ANY (%s::oid[]) AND CASE
    WHEN p.oid < 16384 THEN proname ~ '^(query|table|cursor|schema|database)_to_xml'
    WHEN prokind = 'a' THEN EXISTS (
        SELECT FROM pg_catalog.pg_aggregate g JOIN pg_catalog.pg_proc f ON f.oid = aggtransfn
        JOIN pg_catalog.pg_language fl ON fl.oid = f.prolang
        WHERE aggfnoid = p.oid AND fl.lanname NOT IN ('internal', 'c') AND f.provolatile <> 'i')
    WHEN lanname IN ('internal', 'c') THEN provolatile = 'v' AND pronargs > 0
    ELSE provolatile <> 'i' END
"""


@dataclass(frozen=True)
class Table:
    """A table that a query reads, and its columns by number: name and type."""

    relation: Relation
    columns: Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class Analysis:
    """What the columns of a SELECT, and its rows, depend on."""

    columns: Mapping[str, tuple[str, Trace]]
    """Of each column its type, and what it depends on."""
    rows: Trace
    tables: Mapping[int, Table]
    """What is read, by oid."""
    reading: Mapping[int, str]
    """The functions that may read tables themselves: their names by oid."""

    def unknown(self, trace: Trace) -> list[str]:
        """What of a trace is not known, as ends of sentences."""
        names = sorted({self.reading[oid] for oid in trace.functions & self.reading.keys()})
        return [
            *sorted(trace.unknown),
            *(f"it calls {name}, which may read more" for name in names),
        ]


def analyze(session: PinnedSession, pipeline: Pipeline, transform: Transform) -> Analysis:
    """How the warehouse understands the transform's SELECT. Nothing stays there.

    Raises Refused where it does not take the SELECT, or a table it reads is locked.
    """
    found: list[Analysis] = []
    with suppress(_RolledBack):
        try:
            with session.transaction():
                found.append(_analyze(session, pipeline, transform))
                raise _RolledBack
        except psycopg.errors.UndefinedTable as error:
            raise Refused(f"{message(error)} yet: run the pipeline first") from error
        except (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable) as error:
            raise Refused("a table that it reads is locked by another session") from error
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            raise Refused(f"the warehouse refuses its SELECT: {message(error)}") from error
    return found[0]


class _RolledBack(Exception):
    """Ends the transaction without a commit."""


def _analyze(session: PinnedSession, pipeline: Pipeline, transform: Transform) -> Analysis:
    search_path.use(session, pipeline)
    select = bind_parameters(transform.sql, _REQUEST, since_load=0)
    session.execute(sql.SQL(f"CREATE TEMPORARY VIEW {_VIEW} AS\n") + select)
    row = session.execute(_TREE).fetchone()
    view = session.execute(f"SELECT 'pg_temp.{_VIEW}'::pg_catalog.regclass::oid").fetchone()
    assert row and view
    query = nodes.query_of(row[0])
    own = known(session, _tables(session, view), view[0])
    columns = {}
    for number, (name, type_name) in own.columns.items():
        columns[name] = type_name, trace_column(query, number)
    rows = trace_rows(query)
    traces = [rows, *(trace for _, trace in columns.values())]
    read = {origin.relation for trace in traces for origin in trace.origins}
    functions = set().union(*(trace.functions for trace in traces))
    tables = _tables(session, read | rows.relations)
    for oid in read | rows.relations:
        known(session, tables, oid)
    for trace in traces:
        for origin in trace.origins:
            if origin.column:
                known(session, tables[origin.relation].columns, origin.column)
    reading = dict(session.execute(_READING, (list(functions),)).fetchall())
    return Analysis(columns=columns, rows=rows, tables=tables, reading=reading)


def _tables(session: PinnedSession, oids: Iterable[int]) -> dict[int, Table]:
    relations: dict[int, Relation] = {}
    columns: dict[int, dict[int, tuple[str, str]]] = {}
    for oid, schema, table, number, name, type_name in session.execute(_COLUMNS, (list(oids),)):
        relations[oid] = Relation(schema, table)
        of_table = columns.setdefault(oid, {})
        if number is not None:
            of_table[number] = name, type_name
    return {oid: Table(relation, columns[oid]) for oid, relation in relations.items()}
