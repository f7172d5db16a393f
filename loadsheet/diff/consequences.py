"""What a changed pipeline file means for the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadsheet.spec.models import Incremental, Pipeline, Table, Transform

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
    yield Consequence(
        "stays", f"{target} is left as it is and no longer {done}; drop it when nobody reads it"
    )


def of_transform(target: str, old: Transform, new: Transform) -> Iterator[Consequence]:
    """SQL, kind and key are what the ledger remembers a transform by."""
    if (old.sql, old.materialized, old.unique_key) == (new.sql, new.materialized, new.unique_key):
        return
    if "script" not in (old.materialized, new.materialized) and (old.materialized == "view") != (
        new.materialized == "view"
    ):
        kind = "view" if old.materialized == "view" else "table"
        yield Consequence(
            "stops", f"{target} is a {kind} and is to become the other: drop it first"
        )
        return
    made = "runs again" if new.materialized == "script" else "is built in full"
    what = "its SQL changed" if old.sql != new.sql else "its kind or key changed"
    yield Consequence("rebuilt", f"{target} {made}: {what}")


def begins_anew(old: Pipeline, new: Pipeline) -> bool:
    """Whether every table is a first one: what the ledger knows is of another name, warehouse or
    schema."""
    return (old.name, old.warehouse.conn_id, old.warehouse.schema) != (
        new.name,
        new.warehouse.conn_id,
        new.warehouse.schema,
    )


def moves_marts(old: Pipeline, new: Pipeline) -> bool:
    """Whether every transform is built where none of it is."""
    return (old.warehouse.conn_id, old.warehouse.mart_schema) != (
        new.warehouse.conn_id,
        new.warehouse.mart_schema,
    )


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
        if old.lake.format != new.lake.format and any(
            not table.incremental for table in new.entries
        ):
            yield Consequence(
                "read again",
                "tables without a cursor are loaded once more, where the new format is another for them",
            )
    if (old.lake.conn_id, old.lake.bucket, old.lake.prefix) != (
        new.lake.conn_id,
        new.lake.bucket,
        new.lake.prefix,
    ):
        yield Consequence(
            "from now on", "new loads are stored there; older ones stay where they are"
        )
    if old.schedule != new.schedule and any(_by_interval(table) for table in new.entries):
        yield Consequence(
            "from now on",
            "runs have other intervals: rows between the old and the new ones need a backfill",
        )


def _by_interval(table: Table) -> bool:
    return table.incremental is not None and table.incremental.by == "data_interval"


def _warehouse(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    if old.warehouse.conn_id != new.warehouse.conn_id:
        yield Consequence(
            "rebuilt", "in another warehouse every table and transform is a first one, read in full"
        )
        return
    if old.warehouse.schema != new.warehouse.schema:
        yield Consequence("rebuilt", f"every table is read in full into {new.warehouse.schema}")
        yield Consequence("stays", f"the tables in {old.warehouse.schema} are left as they are")
    if old.warehouse.mart_schema != new.warehouse.mart_schema:
        yield Consequence(
            "rebuilt", f"every transform is built in full in {new.warehouse.mart_schema}"
        )
        yield Consequence("stays", f"what is in {old.warehouse.mart_schema} is left as it is")


def _source(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    if old.source == new.source or not any(table.incremental for table in new.entries):
        return
    unless = (
        "" if old.source.schema != new.source.schema else "if it is another server or database, "
    )
    yield Consequence(
        "stops",
        f"{unless}the watermarks are not this source's: `loadsheet run {new.name} --full-refresh`, or "
        "--accept-source if its rows are the same",
    )


def of_new_table(pipeline: Pipeline, table: Table) -> Iterator[Consequence]:
    """A table that was not in the file."""
    rows = "all rows"
    if table.incremental and table.incremental.initial_value is not None:
        rows = f"rows from {table.incremental.cursor} {table.incremental.initial_value} on"
    yield Consequence("created", f"{pipeline.warehouse.schema}.{table.name}, from {rows}")


def of_table(pipeline: Pipeline, old: Table, new: Table) -> Iterator[Consequence]:
    """A table whose settings changed."""
    target = f"{pipeline.warehouse.schema}.{new.name}"
    refresh = f"`loadsheet run {pipeline.name} --tables {new.name} --full-refresh`"
    if new.mode_with_key(True) == "replace":
        yield from _whole(target, old, new)
    else:
        stops = [*_key(target, old, new), *_cursor(old, new)]
        for text in stops:
            yield Consequence("stops", f"{text}: {refresh}")
        if not stops:
            yield from _rows(target, old.incremental, new.incremental, new, refresh)
            yield from _columns(target, old, new)
    if old.schema_contract != new.schema_contract:
        then = "stops the load" if new.schema_contract == "freeze" else "is taken over"
        yield Consequence("from now on", f"a column that changes in the source {then}")


def of_pattern(
    pipeline: Pipeline, name: str, old: tuple[str, ...], new: tuple[str, ...]
) -> Iterator[Consequence]:
    """What the pattern `name` leaves out was `old` and is `new`."""
    gone = [text for text in new if text not in old]
    if gone:
        where = f"tables in {pipeline.warehouse.schema} that match {', '.join(gone)}"
        yield Consequence("stays", f"{where} are left as they are and no longer loaded")
    come = [text for text in old if text not in new]
    if come:
        yield Consequence(
            "from now on", f"tables that match {', '.join(come)} are loaded as the others of {name}"
        )


def _whole(target: str, old: Table, new: Table) -> Iterator[Consequence]:
    reasons = {
        "its key changed": old.primary_key != new.primary_key,
        "its columns changed": (old.include, old.exclude) != (new.include, new.exclude),
        "it is read whole from now on": old.mode_with_key(True) != "replace",
    }
    found = [reason for reason, is_one in reasons.items() if is_one]
    if found:
        yield Consequence("rebuilt", f"{target} by the next load: {', '.join(found)}")


def _key(target: str, old: Table, new: Table) -> Iterator[str]:
    """The target's rows are kept apart by the key of the load that made it."""
    before, after = _keyed(old), _keyed(new)
    if after is False and before is not False:
        has = "has a key" if old.primary_key else "may have a key, by the catalog,"
        yield f"{target} {has} and appended rows need none; the load stops then"
    elif before is False and after:
        yield f"{target} has no key to merge by; the next load stops"
    elif old.primary_key != new.primary_key and after is not False:
        was, now = (", ".join(key) or "the catalog's" for key in (old.primary_key, new.primary_key))
        unless = "" if old.primary_key and new.primary_key else ", unless they are the same"
        if set(old.primary_key) != set(new.primary_key):
            yield f"the key of {target} was {was} and is {now}; the next load stops{unless}"


def _keyed(table: Table) -> bool | None:
    """Whether rows are loaded by a key; None where the catalog decides."""
    modes = {
        table.mode_with_key(True),
        *(() if table.primary_key else (table.mode_with_key(False),)),
    }
    return None if len(modes) > 1 else modes != {"append"}


def _cursor(old: Table, new: Table) -> Iterator[str]:
    one, other = old.incremental, new.incremental
    if one is None and other and other.by == "watermark" and _keyed(new) is False:
        yield "its rows were loaded without a cursor, and appended to them would double; the next extract stops"
    if one and other and one.cursor != other.cursor and one.by == other.by == "watermark":
        yield f"the watermark is one of {one.cursor} and means nothing for {other.cursor}; the next extract stops"


def _rows(
    target: str, old: Incremental | None, new: Incremental | None, table: Table, refresh: str
) -> Iterator[Consequence]:
    if new is None or old == new:
        return
    start = f" from {new.initial_value} on" if new.initial_value is not None else ""
    if old is None and new.by == "watermark":
        advice = (
            "" if _keyed(table) else f"; without a key in the catalog the extract stops: {refresh}"
        )
        yield Consequence(
            "read again",
            f"all rows{start} once more, merged; then what is new by {new.cursor}{advice}",
        )
    elif old and old.by != new.by and new.by == "watermark":
        yield Consequence(
            "read again", f"all rows{start} once more, merged: there is no watermark yet"
        )
    elif new.by == "data_interval" and (old is None or old.by != new.by):
        yield Consequence(
            "from now on",
            "each run reads its own interval; rows before the first need a backfill (--from, --to)",
        )
    elif old and old.initial_value != new.initial_value and old.cursor == new.cursor:
        yield Consequence(
            "from now on",
            f"initial_value counts for a full refresh only, {target} is loaded already",
        )
    if old and old.nulls != new.nulls:
        yield Consequence("from now on", f"rows without {new.cursor}: {new.nulls}")
    if old and old.lookback != new.lookback:
        again = (
            f"what is up to {new.lookback} below the watermark"
            if new.lookback
            else "nothing below the watermark"
        )
        yield Consequence("from now on", f"each run reads {again} again")


def _columns(target: str, old: Table, new: Table) -> Iterator[Consequence]:
    """Which columns come and go; where a list of all others is meant, only the catalog knows them."""
    if bool(old.include) != bool(new.include):
        which = f"only {', '.join(new.include)}" if new.include else "all columns"
        yield Consequence("from now on", f"{which}; {_LEFT}, {_TAKEN}")
        return
    gone = {*old.include} - {*new.include} | {*new.exclude} - {*old.exclude}
    come = {*new.include} - {*old.include} | {*old.exclude} - {*new.exclude}
    if gone:
        yield Consequence("stays", f"{', '.join(sorted(gone))} in {target}: {_LEFT}")
    if come:
        yield Consequence("from now on", f"{', '.join(sorted(come))}: {_TAKEN}")


_LEFT = "a column that is left out keeps its older values, new rows have NULL there"
_TAKEN = "an added one is NULL in older rows until a full refresh, which the load asks for if it was carried before"
