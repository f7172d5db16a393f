"""What a change of a pipeline file means for the data: as the engine will really behave (docs/protocol.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadsheet.spec.models import Pipeline, Table, Transform

Kind = Literal["stops", "rebuilt", "created", "read again", "stays", "from now on"]
ANEW: tuple[Kind, ...] = ("rebuilt", "created", "read again")
"""After these, what reads the table or transform has something to do."""


@dataclass(frozen=True)
class Consequence:
    """`stops`: the next run fails until somebody acts. The other kinds happen by themselves."""

    kind: Kind
    text: str


def of_new_transform(target: str, transform: Transform) -> Iterator[Consequence]:
    """A transform that was not in the file."""
    made = "runs" if transform.materialized == "script" else "is built in full"
    yield Consequence("created", f"{target} {made} for the first time")


def of_gone(target: str, done: str) -> Iterator[Consequence]:
    """What is no longer in the file."""
    yield Consequence("stays", f"{target} is left as it is and no longer {done}; drop it when nobody reads it")


def of_transform(target: str, old: Transform, new: Transform) -> Iterator[Consequence]:
    """SQL, kind and key are what the ledger remembers a transform by."""
    if (old.sql, old.materialized, old.unique_key) == (new.sql, new.materialized, new.unique_key):
        return
    if "script" not in (old.materialized, new.materialized) and (old.materialized == "view") != (
        new.materialized == "view"
    ):
        kind = "view" if old.materialized == "view" else "table"
        yield Consequence("stops", f"{target} is a {kind} and is to become the other: drop it first")
        return
    made = "runs again" if new.materialized == "script" else "is built in full"
    what = "its SQL changed" if old.sql != new.sql else "its kind or key changed"
    yield Consequence("rebuilt", f"{target} {made}: {what}")


def begins_anew(old: Pipeline, new: Pipeline) -> bool:
    """Whether every table is a first one: what the ledger knows is of another name, warehouse or schema."""
    return (old.name, old.warehouse.conn_id, old.warehouse.schema) != (
        new.name, new.warehouse.conn_id, new.warehouse.schema,
    )  # fmt: skip


def moves_marts(old: Pipeline, new: Pipeline) -> bool:
    """Whether every transform is built where none of it is."""
    return (old.warehouse.conn_id, old.warehouse.mart_schema) != (new.warehouse.conn_id, new.warehouse.mart_schema)


def of_pipeline(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    """The pipeline's own settings."""
    if old.name != new.name:
        yield Consequence(
            "rebuilt",
            f"the ledger knows nothing of {new.name}: every table is read in full, every transform built in full",
        )
        yield Consequence("stays", f"Airflow keeps the history of {old.name} under that name")
    yield from _warehouse(old, new)
    if not begins_anew(old, new):
        yield from _source(old, new)
        if old.lake.format != new.lake.format and any(not table.incremental for table in new.entries):
            yield Consequence(
                "read again", "tables without a cursor are loaded once more, where the new format is another for them"
            )
    if (old.lake.conn_id, old.lake.bucket, old.lake.prefix) != (new.lake.conn_id, new.lake.bucket, new.lake.prefix):
        yield Consequence("from now on", "new loads are stored there; older ones stay where they are")
    if old.schedule != new.schedule and any(_by_interval(table) for table in new.entries):
        yield Consequence(
            "from now on", "runs have other intervals: rows between the old and the new ones need a backfill"
        )


def _by_interval(table: Table) -> bool:
    return table.incremental is not None and table.incremental.by == "data_interval"


def _warehouse(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    if old.warehouse.conn_id != new.warehouse.conn_id:
        yield Consequence("rebuilt", "in another warehouse every table and transform is a first one, read in full")
        return
    if old.warehouse.schema != new.warehouse.schema:
        yield Consequence("rebuilt", f"every table is read in full into {new.warehouse.schema}")
        yield Consequence("stays", f"the tables in {old.warehouse.schema} are left as they are")
    if old.warehouse.mart_schema != new.warehouse.mart_schema:
        yield Consequence("rebuilt", f"every transform is built in full in {new.warehouse.mart_schema}")
        yield Consequence("stays", f"what is in {old.warehouse.mart_schema} is left as it is")


def _source(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    if old.source == new.source or not any(table.incremental for table in new.entries):
        return
    unless = "" if old.source.schema != new.source.schema else "if it is another server or database, "
    yield Consequence(
        "stops",
        f"{unless}the watermarks are not this source's: `loadsheet run {new.name} --full-refresh`, or "
        "--accept-source if its rows are the same",
    )
