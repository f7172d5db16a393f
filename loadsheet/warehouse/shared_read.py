"""An extraction that several processes read, as the ledger knows it.

The extraction offers its snapshot and its ranges of rows (`offer`), next to the fence that it has
taken. Other processes of the same run find them (`find`). Whoever has read a range records its
parts (`record`); the first record of a range is the one that counts. The extraction seals what is
recorded (`records`). A new fence takes the offer away, and so does the seal: from then on nothing
is recorded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from loadsheet.errors import Fenced
from loadsheet.lake.manifest import Part, stored_column
from loadsheet.postgres import Session
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.text import Relation
from loadsheet.sql.types import Column
from loadsheet.warehouse.fence import overtaken

_SNAPSHOT = re.compile("[0-9A-F-]+")
_OF = "pipeline = %(pipeline)s AND table_name = %(table)s AND target = %(target)s"
_OFFER = f"""
UPDATE loadsheet.scope SET shared_read = %(read)s WHERE {_OF} AND fence = %(fence)s
"""
_FIND = f"SELECT fence, shared_read FROM loadsheet.scope WHERE {_OF} AND shared_read IS NOT NULL"
_IS_OFFERED = f"{_OF} AND fence = %(fence)s AND shared_read ->> 'prefix' = %(prefix)s"
_RECORD = f"""
UPDATE loadsheet.scope
SET shared_read = jsonb_set(shared_read, ARRAY['records', %(number)s], %(record)s)
WHERE {_IS_OFFERED} AND NOT shared_read -> 'records' ? %(number)s
"""
_RECORDED = f"""
SELECT ARRAY(SELECT jsonb_object_keys(shared_read -> 'records'))
FROM loadsheet.scope WHERE {_IS_OFFERED}
"""
_RECORDS = f"SELECT shared_read -> 'records' FROM loadsheet.scope WHERE {_IS_OFFERED}"


@dataclass(frozen=True, kw_only=True)
class SharedRead:
    """What a process must know to read a part of an extraction's rows."""

    prefix: str
    """Where the attempt's objects are in the lake; no other attempt has it."""
    fence: int
    load_id: str
    snapshot: str
    """The exported one, in which all rows are read."""
    relation: Relation
    where: str
    """The condition on all rows; empty reads all."""
    conditions: tuple[str, ...]
    """One per range: each row meets exactly one of them."""
    format: FileFormat
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    is_hashed: bool
    """Whether the extraction needs the hash of each range's rows."""

    @cached_property
    def sha256(self) -> str:
        """Of all of it. Only the extraction can have made an offer of this hash."""
        return hashlib.sha256(repr(self).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RangeRecord:
    """A range that was read: its parts, in the order of their rows."""

    reader: str
    rows: int
    parts: tuple[Part, ...]
    content_sha256: str | None = None


class SharedReads:
    """The shared read of a pipeline's table in one target. `session` is one of the warehouse; each
    method is one statement."""

    def __init__(self, pipeline: str, table: str, target: Relation):
        self._names = {"pipeline": pipeline, "table": table, "target": str(target)}

    def offer(self, session: Session, read: SharedRead) -> None:
        """Let other processes read. Raises Fenced where the fence is no longer the attempt's."""
        fields = asdict(read)
        fence = fields.pop("fence")
        fields["relation"] = [read.relation.schema, read.relation.name]
        values = {**self._names, "fence": fence, "read": json.dumps({**fields, "records": {}})}
        if session.execute(_OFFER, values).rowcount != 1:
            raise self._overtaken()

    def find(self, session: Session) -> SharedRead | None:
        """What is offered now; None where that is nothing, or nothing that this version knows. It
        holds SQL: run it only where the extraction vouches for its hash."""
        row = session.execute(_FIND, self._names).fetchone()
        if row is None:
            return None
        try:
            return _offered(*row)
        except (AttributeError, KeyError, TypeError, ValueError):
            # Another version of Loadsheet, on another worker, may offer other fields.
            return None

    def record(self, session: Session, read: SharedRead, number: int, record: RangeRecord) -> bool:
        """Record that the range `number` was read; False where that is recorded already, or the
        read is no longer offered."""
        values = {"number": str(number), "record": json.dumps(asdict(record))}
        return session.execute(_RECORD, {**self._of(read), **values}).rowcount == 1

    def recorded(self, session: Session, read: SharedRead) -> set[int]:
        """The numbers of the ranges that were read. Raises Fenced where the read is no longer
        offered."""
        row = session.execute(_RECORDED, self._of(read)).fetchone()
        if row is None:
            raise self._overtaken()
        return set(map(int, row[0]))

    def records(self, session: Session, read: SharedRead) -> Sequence[RangeRecord]:
        """What was read of each range, in their order; all must be recorded. Raises Fenced where
        the read is no longer offered."""
        row = session.execute(_RECORDS, self._of(read)).fetchone()
        if row is None:
            raise self._overtaken()
        return [_record(row[0][str(number)]) for number in range(len(read.conditions))]

    def _of(self, read: SharedRead) -> dict[str, Any]:
        return {**self._names, "fence": read.fence, "prefix": read.prefix}

    def _overtaken(self) -> Fenced:
        return overtaken(self._names["pipeline"], self._names["table"])


def _offered(fence: int, fields: dict[str, Any]) -> SharedRead:
    # It is named in a statement before the extraction can be asked.
    if not _SNAPSHOT.fullmatch(fields["snapshot"]):
        raise ValueError(fields["snapshot"])
    del fields["records"]
    fields["relation"] = Relation(*fields["relation"])
    fields["columns"] = tuple(stored_column(column) for column in fields["columns"])
    for name in ("conditions", "key"):
        fields[name] = tuple(fields[name])
    return SharedRead(fence=fence, **fields)


def _record(fields: dict[str, Any]) -> RangeRecord:
    parts = tuple(Part(**part) for part in fields.pop("parts"))
    return RangeRecord(parts=parts, **fields)
