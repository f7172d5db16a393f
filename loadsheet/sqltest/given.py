"""Rows that a test gives, put where a load would have put them, with the ledger's row of such a
load."""

from __future__ import annotations

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
from loadsheet.sqltest.values import casts, execute, guessed_types
from loadsheet.warehouse import ledger, tables


def give(
    session: Session,
    pipeline: Pipeline,
    name: str,
    rows: Sequence[Row],
    declared: Declared,
    replaces: bool,
) -> None:
    """Add `rows` to the table `name` (`schema.table`), which is made where it is missing; in the
    place of those that have their keys, or of all where it `replaces` them.

    Raises InputError for a value that does not fit its column.
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
        number = ledger.draw_number(session)
        is_new = tables.kind(session, target) is None
        if is_new:
            types = guessed_types(rows, declared.columns)
            _create(session, target, types, target.schema == pipeline.warehouse.schema)
        types = tables.columns_of(session, target)
        gone = session.execute(f"DELETE FROM {target.sql}").rowcount if replaces else 0
        for column in declared.key:
            if column not in types:
                raise InputError(
                    f"{target} has no column {column!r} to be its key; it has {', '.join(types)}"
                )
        key = declared.key or _key(pipeline, target)
        updated = sum(_put(session, target, row, types, key, number) for row in rows)
        _record(
            session,
            pipeline,
            target,
            number,
            len(rows) - updated,
            updated,
            gone,
            is_new or replaces,
        )


def relation(name: str) -> Relation:
    """The table that a test calls `name`."""
    schema, _, table = name.partition(".")
    return Relation(schema, table)


def _create(session: Session, target: Relation, types: dict[str, str], is_staging: bool) -> None:
    columns = [f"{ident(name)} {kind}" for name, kind in types.items()]
    columns += [f"{LOAD_ID} bigint NOT NULL"] if is_staging else []
    try:
        with session.transaction():
            session.execute(f"CREATE TABLE {target.sql} ({', '.join(columns)})".encode())
    except psycopg.Error as error:
        raise InputError(
            f"{target}: {error.diag.message_primary}: correct its columns under `tables`"
        ) from None


def _key(pipeline: Pipeline, target: Relation) -> tuple[str, ...]:
    if target.schema == pipeline.warehouse.schema:
        return next(
            (table.primary_key for table in pipeline.tables if table.name == target.name), ()
        )
    return next(
        (
            transform.unique_key
            for transform in pipeline.transforms
            if transform.name == target.name
        ),
        (),
    )


def _put(
    session: Session,
    target: Relation,
    row: Row,
    types: dict[str, str],
    key: tuple[str, ...],
    number: int,
) -> int:
    """Insert the row; returns how many it took the place of."""
    for name in row.values:
        if name not in types:
            raise InputError(
                f"{row.where} {target} has no column {name!r}: give it in the table's first rows"
            )
    taken = 0
    if key and set(key) <= row.values.keys():
        pieces, parameters = casts({name: row.values[name] for name in key}, types)
        tests = [f"{ident(name)} = {piece}" for name, piece in zip(key, pieces, strict=True)]
        delete = f"DELETE FROM {target.sql} WHERE {' AND '.join(tests)}"
        taken = execute(session, delete, parameters, row, types).rowcount
    values, parameters = casts(row.values, types)
    names = list(row.values)
    if LOAD_ID in types:
        names.append(LOAD_ID)
        values = [*values, str(number)]
    insert = f"INSERT INTO {target.sql} ({idents(names)}) VALUES ({', '.join(values)})"
    execute(session, insert, parameters, row, types)
    return int(taken)


def _record(
    session: Session,
    pipeline: Pipeline,
    target: Relation,
    number: int,
    inserted: int,
    updated: int,
    deleted: int,
    replaced: bool,
) -> None:
    session.execute(
        "INSERT INTO loadsheet.load (load_id, load_no, pipeline, table_name, target, run_id, fence,"
        " action, format, extracted, duplicates, inserted, updated, deleted, replaced, bytes,"
        " held_by, manifest, source, version, extract_seconds, load_seconds) VALUES (%s, %s, %s,"
        " %s, %s, 'test', 0, 'given', 'test', %s, 0, %s, %s, %s, %s, 0, '', '', '{}', %s, 0, 0)",
        (
            secrets.token_hex(10),
            number,
            pipeline.name,
            target.name,
            str(target),
            inserted + updated,
            inserted,
            updated,
            deleted,
            replaced,
            __version__,
        ),
    )
