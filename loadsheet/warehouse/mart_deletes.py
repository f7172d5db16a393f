"""How a mart that is built by increments follows rows that left its inputs.

`:since_load` finds new rows, not missing ones, so a mart is built in full where rows are gone. Two
kinds of transforms need not be: those whose SQL reads the tombstones itself, and merges of which
each row is plainly one row of one staging table, with its primary key. There the mart's rows leave
by the same keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.params import uses_since_load
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import tables, tombstones


@dataclass(frozen=True, kw_only=True)
class GoneByKey:
    """The rows of a mart that leave with rows of the staging table."""

    staging: Relation
    columns: tuple[tuple[str, str], ...]
    """Pairs of the mart's column and the column of the staging table's primary key."""

    def delete(self, session: Session, mart: Relation, since_load: int) -> int:
        """Delete the mart's rows whose keys have left the staging table by loads after
        `since_load`, and have not come back; returns their number."""
        keys = tombstones.relation_of(self.staging)
        gone = " AND ".join(f"t.{ident(own)} = d.{ident(key)}" for own, key in self.columns)
        back = " AND ".join(f"s.{ident(key)} = d.{ident(key)}" for _, key in self.columns)
        return session.execute(
            f"DELETE FROM {mart.sql} t USING {keys.sql} d WHERE {gone}"
            f" AND d.{LOAD_ID} > {since_load}"
            f" AND NOT EXISTS (SELECT FROM {self.staging.sql} s WHERE {back})"
        ).rowcount


def follow(
    session: Session, pipeline: Pipeline, transform: Transform, targets: Sequence[str]
) -> list[GoneByKey] | None:
    """How the transform's increment follows rows that are gone from `targets`, the names of its
    inputs; None where it has to be built in full."""
    if transform.materialized not in ("merge", "script") or not uses_since_load(transform.sql):
        return None
    from loadsheet.sql.by_key import plain_columns
    from loadsheet.sql.parsing import parse
    from loadsheet.sql.reads import tables_read

    statements = parse(transform.sql)
    reads = {read.name for read in tables_read(statements)}
    found = []
    for target in targets:
        staging = Relation(pipeline.warehouse.schema, target.partition(".")[2])
        if str(staging) != target or not tombstones.exist(session, staging):
            return None
        if tombstones.relation_of(staging).name in reads:
            continue
        key = tables.primary_key_of(session, staging)
        if transform.materialized != "merge" or key is None:
            return None
        columns = plain_columns(statements, staging, key[1], transform.unique_key)
        if columns is None:
            return None
        found.append(GoneByKey(staging=staging, columns=columns))
    return found
