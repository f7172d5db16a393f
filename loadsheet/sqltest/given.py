"""Inserts the rows that a test gives where a load would, and records such a load in the ledger."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence

import psycopg

from loadsheet import __version__
from loadsheet.errors import InputError
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.sqltest.models import Declared, Row
from loadsheet.sqltest.values import casts, execute_for_row, guessed_types
from loadsheet.warehouse import ledger, tables

_log = logging.getLogger(__name__)

# The columns of a real load: a transform that is incremental asks the ledger for it.
_RECORD = """
INSERT INTO loadsheet.load (
    load_id, load_no, pipeline, table_name, target, run_id, fence, action, format,
    extracted, duplicates, inserted, updated, deleted, replaced, bytes, held_by, manifest, source,
    version, extract_seconds, load_seconds
) VALUES (
    %(load_id)s, %(load_no)s, %(pipeline)s, %(table_name)s, %(target)s, 'test', 0, 'given', 'test',
    %(extracted)s, 0, %(inserted)s, %(updated)s, %(deleted)s, %(replaced)s, 0, '', '', '{}',
    %(version)s, 0, 0
)
"""


def give(
    session: Session,
    pipeline: Pipeline,
    name: str,
    rows: Sequence[Row],
    declared: Declared,
    replaces: bool,
) -> None:
    """Add `rows` to the table `name` (`schema.table`), which is created if it does not exist.

    They replace the rows with the same keys, or all rows if `replaces`. Raises InputError for a
    value that does not fit its column.
    """
    target = relation(name)
    for row in rows:
        if LOAD_ID in row.values:
            raise InputError(
                f"{row.where} {LOAD_ID} is filled by Loadsheet: the rows of each step are a load"
            )
    with session.transaction():
        tables.ensure_schema(session, target.schema)
        ledger.lock_target(session, target)
        # As in a load, under the table's lock: numbers then rise in commit order.
        number = ledger.draw_number(session)
        is_new = tables.kind(session, target) is None
        if is_new:
            types = guessed_types(rows, declared.columns)
            _create(session, target, types, target.schema == pipeline.warehouse.schema)
        # As the server names them; the table may also be one that an earlier step has created.
        types = tables.columns_of(session, target)
        key = _key(pipeline, target, declared, types)
        deleted = 0
        if replaces:
            deleted = session.execute(f"DELETE FROM {target.sql}").rowcount
        updated = 0
        for row in rows:
            updated += _insert(session, target, row, types, key, number)
        ledger_row = {
            "load_no": number,
            "pipeline": pipeline.name,
            "table_name": target.name,
            "target": str(target),
            "extracted": len(rows),
            "inserted": len(rows) - updated,
            "updated": updated,
            "deleted": deleted,
            "replaced": is_new or replaces,
        }
        _log.debug("%s: %d rows given, %d of them updates", target, len(rows), updated)
        session.execute(
            _RECORD, {"load_id": secrets.token_hex(10), "version": __version__, **ledger_row}
        )


def relation(name: str) -> Relation:
    """The table with the `name` that a test file uses, `schema.table`."""
    schema, _, table = name.partition(".")
    return Relation(schema, table)


def _create(session: Session, target: Relation, types: dict[str, str], is_staging: bool) -> None:
    columns = [f"{ident(name)} {kind}" for name, kind in types.items()]
    if is_staging:
        columns.append(f"{LOAD_ID} bigint NOT NULL")
    try:
        with session.transaction():
            session.execute(f"CREATE TABLE {target.sql} ({', '.join(columns)})".encode())
    except psycopg.Error as error:
        raise InputError(
            f"{target}: {error.diag.message_primary}: correct its columns under `tables`"
        ) from None


def _key(
    pipeline: Pipeline, target: Relation, declared: Declared, types: dict[str, str]
) -> tuple[str, ...]:
    """The key that the test file declares, or else the pipeline file."""
    for column in declared.key:
        if column not in types:
            raise InputError(
                f"{target} has no column {column!r} to be its key; it has {', '.join(types)}"
            )
    if declared.key:
        return declared.key
    if target.schema == pipeline.warehouse.schema:
        for table in pipeline.tables:
            if table.name == target.name:
                return table.primary_key
        return ()
    for transform in pipeline.transforms:
        if transform.name == target.name:
            return transform.unique_key
    return ()


def _insert(
    session: Session,
    target: Relation,
    row: Row,
    types: dict[str, str],
    key: tuple[str, ...],
    number: int,
) -> int:
    """Insert the row. Returns how many rows with its key it has replaced."""
    for name in row.values:
        if name not in types:
            raise InputError(
                f"{row.where} {target} has no column {name!r}: give it in the table's first rows"
            )
    replaced = 0
    # A row without its whole key cannot replace another one.
    if key and set(key) <= row.values.keys():
        values, parameters = casts({name: row.values[name] for name in key}, types)
        conditions = [f"{ident(name)} = {value}" for name, value in zip(key, values, strict=True)]
        delete = f"DELETE FROM {target.sql} WHERE {' AND '.join(conditions)}"
        replaced = execute_for_row(session, delete, parameters, row, types).rowcount
    values, parameters = casts(row.values, types)
    names = list(row.values)
    if LOAD_ID in types:
        names.append(LOAD_ID)
        values.append(str(number))
    insert = f"INSERT INTO {target.sql} ({idents(names)}) VALUES ({', '.join(values)})"
    execute_for_row(session, insert, parameters, row, types)
    return int(replaced)
