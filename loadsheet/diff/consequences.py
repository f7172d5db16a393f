"""What a changed pipeline file means for the data, in a warehouse that was loaded with the old
one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadsheet.spec.models import Incremental, Pipeline, Table, Transform

Kind = Literal["stops", "rebuilt", "created", "read again", "stays", "from now on"]
AFFECTS_READERS: tuple[Kind, ...] = ("rebuilt", "created", "read again")
"""After these, transforms that read the table or mart have something to do."""

_EXCLUDED = "an excluded column keeps its values in older rows and is NULL in new ones"
_ADDED = (
    "an added column is NULL in older rows until a full refresh, which the load asks for if the "
    "column was loaded before"
)
_ADDED_FILLED = (
    "an added column is filled in older rows after the load, which asks for a full refresh if the "
    "column was loaded before"
)
_EXCLUDED_WHOLE = "the next load writes NULL into an excluded column of all rows"
_ADDED_WHOLE = "the next load writes an added column in all rows"


@dataclass(frozen=True)
class Consequence:
    """`stops`: the next run fails until the text's advice is followed. The other kinds need no
    action."""

    kind: Kind
    text: str


def starts_over(old: Pipeline, new: Pipeline) -> bool:
    """Whether every table is loaded for the first time: the ledger's entries are for another
    pipeline name, warehouse or schema."""
    if old.name != new.name or old.warehouse.conn_id != new.warehouse.conn_id:
        return True
    return old.warehouse.schema != new.warehouse.schema


def moves_marts(old: Pipeline, new: Pipeline) -> bool:
    """Whether every transform is built in another place than before."""
    if old.warehouse.conn_id != new.warehouse.conn_id:
        return True
    return old.warehouse.mart_schema != new.warehouse.mart_schema


def pipeline_consequences(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    """What a change of the pipeline's own settings means."""
    if old.name != new.name:
        yield Consequence(
            "rebuilt",
            f"the ledger has no entries for {new.name}: every table is read in full, and every "
            "transform is built in full",
        )
        yield Consequence("stays", f"Airflow keeps the history of {old.name} under that name")
    yield from _warehouse_consequences(old, new)
    if not starts_over(old, new):
        yield from _source_consequences(old, new)
        reads_whole = any(not table.incremental for table in new.entries)
        if old.lake.format != new.lake.format and reads_whole:
            yield Consequence(
                "read again",
                "tables without a cursor are loaded once more if the new format changes how they "
                "are stored",
            )
    old_place = (old.lake.conn_id, old.lake.bucket, old.lake.prefix)
    new_place = (new.lake.conn_id, new.lake.bucket, new.lake.prefix)
    if old_place != new_place:
        yield Consequence(
            "from now on", "new loads are stored there; older loads stay in the old place"
        )
    has_intervals = any(
        table.incremental and table.incremental.by == "data_interval" for table in new.entries
    )
    if old.schedule != new.schedule and has_intervals:
        yield Consequence(
            "from now on",
            "runs have other data intervals: rows between the old and the new ones need a backfill",
        )


def _warehouse_consequences(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    before, now = old.warehouse, new.warehouse
    if before.conn_id != now.conn_id:
        yield Consequence(
            "rebuilt",
            "in the other warehouse every table is read in full, and every transform is built in "
            "full",
        )
        # The other warehouse holds none of the old tables, so their schemas do not matter.
        return
    if before.schema != now.schema:
        yield Consequence("rebuilt", f"every table is read in full into {now.schema}")
        yield Consequence("stays", f"the tables in {before.schema} are kept unchanged")
    if before.mart_schema != now.mart_schema:
        yield Consequence("rebuilt", f"every transform is built in full in {now.mart_schema}")
        yield Consequence("stays", f"the marts in {before.mart_schema} are kept unchanged")


def _source_consequences(old: Pipeline, new: Pipeline) -> Iterator[Consequence]:
    if old.source == new.source or not any(table.incremental for table in new.entries):
        return
    # Another connection may lead to the same server; another schema is certainly another source.
    condition = "if it is another server or database, "
    if old.source.schema != new.source.schema:
        condition = ""
    yield Consequence(
        "stops",
        f"{condition}the watermarks do not belong to this source: `loadsheet run {new.name} "
        "--full-refresh`, or --accept-source if its rows are the same",
    )


def new_table_consequences(pipeline: Pipeline, table: Table) -> Iterator[Consequence]:
    """What a table that was not in the file means."""
    rows = "all rows"
    if table.incremental and table.incremental.initial_value is not None:
        rows = f"rows from {table.incremental.cursor} {table.incremental.initial_value} on"
    yield Consequence("created", f"{pipeline.warehouse.schema}.{table.name}, from {rows}")


def new_transform_consequences(target: str, transform: Transform) -> Iterator[Consequence]:
    """What a transform that was not in the file means."""
    happens = "runs" if transform.materialized == "script" else "is built in full"
    yield Consequence("created", f"{target} {happens} for the first time")


def removal_consequences(target: str, done: str) -> Iterator[Consequence]:
    """What a table (`done` is "loaded") or transform ("built") that is no longer in the file
    means."""
    yield Consequence(
        "stays",
        f"{target} is kept unchanged and no longer {done}; drop it when it is no longer needed",
    )


def transform_consequences(target: str, old: Transform, new: Transform) -> Iterator[Consequence]:
    """What a changed transform means. The ledger recognizes it by its SQL, kind and key."""
    sql_changed = old.sql != new.sql
    kind_changed = old.materialized != new.materialized
    if not sql_changed and not kind_changed and old.unique_key == new.unique_key:
        return
    # A script decides itself what its target is, so its kind is not known here.
    is_script = "script" in (old.materialized, new.materialized)
    before, now = _relation_kind(old), _relation_kind(new)
    if before != now and not is_script:
        yield Consequence(
            "stops",
            f"{target} is a {before}, but the spec makes it a {now}: drop the {before} first",
        )
        return
    happens = "runs again" if new.materialized == "script" else "is built in full"
    reason = "its SQL changed" if sql_changed else "its kind or key changed"
    yield Consequence("rebuilt", f"{target} {happens}: {reason}")


def _relation_kind(transform: Transform) -> str:
    return "view" if transform.materialized == "view" else "table"


def table_consequences(pipeline: Pipeline, old: Table, new: Table) -> Iterator[Consequence]:
    """What a table's changed settings mean."""
    target = f"{pipeline.warehouse.schema}.{new.name}"
    refresh = f"`loadsheet run {pipeline.name} --tables {new.name} --full-refresh`"
    if new.mode_with_key(True) == "replace":
        reasons = []
        if old.primary_key != new.primary_key:
            reasons.append("its key changed")
        if (old.include, old.exclude) != (new.include, new.exclude):
            reasons.append("its columns changed")
        if old.mode_with_key(True) != "replace":
            reasons.append("it is read whole from now on")
        if reasons:
            yield Consequence("rebuilt", f"{target} by the next load: {', '.join(reasons)}")
    else:
        stops = list(_reasons_to_stop(target, old, new))
        for text in stops:
            yield Consequence("stops", f"{text}: {refresh}")
        if not stops:
            yield from _incremental_consequences(target, old, new, refresh)
            yield from _column_consequences(target, old, new)
    if old.schema_contract != new.schema_contract:
        effect = "stops the load" if new.schema_contract == "freeze" else "changes the target, too"
        yield Consequence("from now on", f"a column that changes in the source {effect}")
    if old.fill != new.fill:
        effect = "are filled" if new.fill else "stay NULL until a full refresh"
        yield Consequence("from now on", f"in older rows, columns that the source adds {effect}")


def pattern_consequences(
    pipeline: Pipeline, name: str, old: tuple[str, ...], new: tuple[str, ...]
) -> Iterator[Consequence]:
    """What it means that the pattern `name` excluded `old` and now excludes `new`."""
    excluded = [text for text in new if text not in old]
    included = [text for text in old if text not in new]
    if excluded:
        where = f"tables in {pipeline.warehouse.schema} that match {', '.join(excluded)}"
        yield Consequence("stays", f"{where} are kept unchanged and no longer loaded")
    if included:
        yield Consequence(
            "from now on",
            f"tables that match {', '.join(included)} are loaded like the others of {name}",
        )


def _reasons_to_stop(target: str, old: Table, new: Table) -> Iterator[str]:
    """Why the next load or extract stops."""
    # By key: the target has the primary key of the load that created it.
    had_key, has_key = _is_keyed(old), _is_keyed(new)
    if has_key is False and had_key is not False:
        if old.primary_key:
            yield f"{target} has a primary key, and appended rows have none; the next load stops"
        else:
            yield (
                f"{target} may have a primary key, by the catalog, and appended rows have none; "
                "if it has one, the next load stops"
            )
    elif had_key is False and has_key:
        yield f"{target} has no key to merge by; the next load stops"
    elif has_key is not False and set(old.primary_key) != set(new.primary_key):
        before = ", ".join(old.primary_key) or "the catalog's"
        now = ", ".join(new.primary_key) or "the catalog's"
        unless = "" if old.primary_key and new.primary_key else ", unless they are the same"
        yield f"the key of {target} was {before} and is {now}; the next load stops{unless}"
    # By cursor: the ledger has no watermark, or another column's.
    old_cursor, new_cursor = old.incremental, new.incremental
    if new_cursor is None:
        return
    if old_cursor and new_cursor.by == old_cursor.by == "data_interval":
        yield from _reasons_of_intervals(old_cursor, new_cursor)
        return
    if new_cursor.by != "watermark":
        return
    if old_cursor is None:
        if has_key is False:
            yield (
                "its rows were loaded without a cursor, and appending would duplicate them; the "
                "next extract stops"
            )
    elif old_cursor.by == "watermark" and old_cursor.cursor != new_cursor.cursor:
        yield (
            f"the watermark belongs to {old_cursor.cursor} and means nothing for "
            f"{new_cursor.cursor}; the next extract stops"
        )
    elif old_cursor.by == "watermark" and old_cursor.time_zone != new_cursor.time_zone:
        yield from _reasons_of_zone(old_cursor, new_cursor)


def _reasons_of_intervals(old: Incremental, new: Incremental) -> Iterator[str]:
    if old.cursor != new.cursor:
        yield (
            f"its intervals were read by {old.cursor}, and by {new.cursor} they may hold others;"
            " the next extract stops"
        )
    elif old.time_zone != new.time_zone:
        yield from _reasons_of_zone(old, new)


def _reasons_of_zone(old: Incremental, new: Incremental) -> Iterator[str]:
    before, now = (spec.time_zone or "UTC" for spec in (old, new))
    # A table with a lookback may be stamped in any zone, and then none is recorded.
    if before != now and old.lookback is None and new.lookback is None:
        yield (
            f"{new.cursor} was read as stamped in {before}, and would be in {now}, where its values"
            " are other moments; unless its type has a time zone, the next extract stops"
        )


def _is_keyed(table: Table) -> bool | None:
    """Whether rows are loaded by a key; None where the catalog decides."""
    with_key = table.mode_with_key(True) != "append"
    without_key = table.mode_with_key(False) != "append"
    if table.primary_key or with_key == without_key:
        return with_key
    return None


def _incremental_consequences(
    target: str, old_table: Table, new_table: Table, refresh: str
) -> Iterator[Consequence]:
    old, new = old_table.incremental, new_table.incremental
    if new is None or old == new:
        return
    if old is None or old.by != new.by:
        yield from _new_incremental_consequences(old, new_table, new, refresh)
    elif old.initial_value != new.initial_value and old.cursor == new.cursor:
        yield Consequence(
            "from now on",
            "if initial_value was moved back, the rows from it on that no run has read are read;"
            f" rows of {target} below it stay",
        )
    if old is None:
        return
    if old.nulls != new.nulls:
        yield Consequence("from now on", f"rows without {new.cursor}: {new.nulls}")
    if old.lookback != new.lookback:
        rows = "no rows below the watermark"
        if new.lookback:
            rows = f"rows up to {new.lookback} below the watermark"
        yield Consequence("from now on", f"each run reads {rows} again")


def _new_incremental_consequences(
    old: Incremental | None, table: Table, new: Incremental, refresh: str
) -> Iterator[Consequence]:
    """A table that becomes incremental, or incremental in the other way."""
    if new.by == "data_interval":
        yield Consequence(
            "from now on",
            "each run reads its own data interval; rows before the first one need a backfill "
            "(--from, --to)",
        )
        return
    rows = "all rows"
    if new.initial_value is not None:
        rows = f"all rows from {new.initial_value} on"
    if old:
        yield Consequence(
            "read again", f"{rows} once more, merged, because there is no watermark yet"
        )
        return
    warning = ""
    if not _is_keyed(table):
        warning = f"; if the catalog has no key, the extract stops: {refresh}"
    yield Consequence(
        "read again", f"{rows} once more, merged; then only new rows by {new.cursor}{warning}"
    )


def _column_consequences(target: str, old: Table, new: Table) -> Iterator[Consequence]:
    """What it means that columns are excluded or added.

    Where a list of included columns appears or disappears, only the catalog knows which.
    """
    excluded_text, added_text = _EXCLUDED, _ADDED_FILLED if new.fill else _ADDED
    # Only a mode that is declared, or a table without a cursor, is surely copied whole.
    if new.mode_with_key(True) == new.mode_with_key(False) == "replace":
        excluded_text, added_text = _EXCLUDED_WHOLE, _ADDED_WHOLE
    if bool(old.include) != bool(new.include):
        columns = f"only {', '.join(new.include)}" if new.include else "all columns"
        yield Consequence("from now on", f"{columns}; {excluded_text}, {added_text}")
        return
    old_include, new_include = set(old.include), set(new.include)
    old_exclude, new_exclude = set(old.exclude), set(new.exclude)
    excluded = (old_include - new_include) | (new_exclude - old_exclude)
    added = (new_include - old_include) | (old_exclude - new_exclude)
    if excluded:
        yield Consequence("stays", f"{', '.join(sorted(excluded))} in {target}: {excluded_text}")
    if added:
        yield Consequence("from now on", f"{', '.join(sorted(added))}: {added_text}")
