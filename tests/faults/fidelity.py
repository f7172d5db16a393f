"""The oracle for hard values: what a column holds, asked of the server itself, under the same
settings on both sides.

A value is compared as its type's output function writes it, from which no cast can hide anything,
and, where the types are equal, by its binary form. Neither asks the product what a type is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from loadsheet.sql.text import Relation, ident

_OPTIONS = (
    "-csearch_path=pg_catalog -cTimeZone=UTC -cDateStyle=ISO,YMD -cIntervalStyle=postgres"
    " -cextra_float_digits=3 -cbytea_output=hex -clc_monetary=C -carray_nulls=on"
    " -cquote_all_identifiers=off -cxmloption=content -cdefault_transaction_isolation=read\\"
    " committed -csession_replication_role=origin -cclient_min_messages=error"
)
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> '_load_id'
"""
Image = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A table's columns with their types, and its rows by id and how many had that id before.

    Of each value its text and, where it was asked for, its binary form.
    """

    types: dict[str, str]
    rows: dict[tuple[int, int], dict[str, Image]]


def opened(dsn: str) -> psycopg.Connection:
    """A session under the settings of both sides, for many looks."""
    return psycopg.connect(
        dsn, options=_OPTIONS, client_encoding="UTF8", autocommit=True, prepare_threshold=None
    )


def look(dsn: str, table: Relation, *what: Any, **how: Any) -> Seen:
    """`seen` by a session of its own."""
    with opened(dsn) as session:
        return seen(session, table, *what, **how)


def seen(
    session: psycopg.Connection,
    table: Relation,
    names: Sequence[str] = (),
    binary: Sequence[str] = (),
    shown: Mapping[str, str] = MappingProxyType({}),
    order: str = "id",
) -> Seen:
    """What `table` holds in the columns `names` (none: all): the text of each, the binary form of
    those in `binary`.

    `shown` has SQL to show a column by, `{}` being its name, where its own output is not what must
    arrive. `order` is SQL by which rows are told apart.
    """
    types = dict(session.execute(_COLUMNS, (table.sql,)).fetchall())
    names = names or list(types)
    source = f"{table.sql} ORDER BY {order}"
    ids = [row[0] for row in session.execute(f"SELECT id FROM {source}").fetchall()]
    texts = _fetch(
        session, [shown.get(name, "{}").format(ident(name)) for name in names], source, 0
    )
    images = _fetch(
        session, [ident(name) if name in binary else "NULL" for name in names], source, 1
    )
    rows: dict[tuple[int, int], dict[str, Image]] = {}
    for i, text, image in zip(ids, texts, images, strict=True):
        rows[i, sum(i == known for known, _ in rows)] = dict(
            zip(names, zip(text, image, strict=True), strict=True)
        )
    return Seen(types=types, rows=rows)


def _fetch(
    session: psycopg.Connection, columns: Sequence[str], source: str, form: int
) -> list[list[bytes | None]]:
    """The values as the server sends them, by their types' output (0) or send (1) functions, unread
    by any driver."""
    query = f"SELECT {', '.join(columns)} FROM {source}".encode()
    answer = session.pgconn.exec_params(query, None, result_format=form)
    assert answer.status == ExecStatus.TUPLES_OK, answer.error_message.decode()
    return [
        [answer.get_value(row, place) for place in range(answer.nfields)]
        for row in range(answer.ntuples)
    ]


def silent(source: Seen, target: Seen) -> list[str]:
    """Every value of the source that the target holds differently, and every row that only one of
    them has."""
    problems = [
        f"row {number} is only in one of them"
        for number in sorted(source.rows.keys() ^ target.rows.keys())
    ]
    for number in sorted(source.rows.keys() & target.rows.keys()):
        for name, (text, image) in source.rows[number].items():
            found, found_image = target.rows[number].get(name, (None, None))
            if text != found:
                problems.append(
                    f"row {number}, {name}: {_short(text)} became {_short(found)}"
                    f" ({target.types[name]})"
                )
            elif image != found_image:
                problems.append(
                    f"row {number}, {name}: {_short(text)} looks the same, but its binary form"
                    " differs"
                )
    return problems


def _short(text: bytes | None) -> str:
    return "NULL" if text is None else repr(text[:80].decode(errors="replace"))


def compared(
    source: str,
    warehouse: str,
    names: Sequence[str],
    order: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """What is silently different between `public.<name>` and `staging.<name>`, in all columns; see
    `look` for order."""
    problems = []
    for name in names:
        truth = look(source, Relation("public", name), order=order.get(name, "id"))
        found = look(warehouse, Relation("staging", name), order=order.get(name, "id"))
        if truth.rows != found.rows:
            problems += [f"{name}: {problem}" for problem in silent(truth, found)]
    return problems
