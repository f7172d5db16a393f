"""`fill: auto`: the rows that were loaded before a column was added get its values."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import psycopg
import pytest

from loadsheet import failpoints
from loadsheet.engine import fill
from loadsheet.engine.table_step import TableStep
from loadsheet.errors import Refused, SourceChanged
from loadsheet.outcome import Outcome
from loadsheet.pinned import PinnedSession
from loadsheet.warehouse.load_transaction import LoadTransaction
from tests.project import Project

ITEMS = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item (id, what, at) SELECT i, 'item ' || i, now() - (100 - i) * interval '1 ms'
    FROM generate_series(1, 100) i;
"""
ADD = "ALTER TABLE item ADD COLUMN {0} text; UPDATE item SET {0} = '{0} ' || id"
TABLE = {"incremental": "at", "fill": "auto"}
TABLES = {"item": TABLE}
UNFILLED = "SELECT unfilled FROM loadsheet.scope WHERE unfilled IS NOT NULL"


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "ROWS_PER_RANGE", 50)


@pytest.fixture
def loaded(project: Project) -> Project:
    project.in_source(ITEMS)
    project.spec(TABLES)
    project.succeed()
    return project


@pytest.fixture
def added(loaded: Project) -> Project:
    """A column that the next run adds; one row is new."""
    loaded.in_source(ADD.format("colour"))
    touch(loaded)
    return loaded


def touch(project: Project) -> None:
    """Something to read for the next increment. The row of the watermark is read again anyway."""
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE id = 100")


def message(project: Project, **request: Any) -> str:
    """What the load of `item` says."""
    result = project.run(**request)["load.load_item"].result
    if isinstance(result, Exception):
        raise result
    assert result is not None
    return result.message


def loads(project: Project) -> list[tuple[Any, ...]]:
    return project.in_warehouse(
        "SELECT action, extracted, updated FROM loadsheet.load ORDER BY load_no"
    )


def ranges(project: Project) -> list[int]:
    """The rows of each range that was filled."""
    return [rows for action, rows, _ in loads(project) if action == "fill"]


def broken(project: Project, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """A run whose load fails at the `point` (with its number)."""
    with monkeypatch.context() as patch:
        patch.setenv(failpoints.VARIABLE, point)
        patch.setattr(failpoints, "_reached", Counter())
        assert project.run()["load.load_item"].state == "failed"


def test_rows_that_were_loaded_before_get_the_new_columns_values(added: Project) -> None:
    said = message(added)
    assert "added colour text (NULL in older rows until they are filled)" in said
    assert "filled colour in 99 older rows" in said
    assert added.differences("item") == 0
    assert added.in_warehouse(UNFILLED) == []
    assert loads(added)[1:] == [
        ("merge", 1, 1),
        ("fill", 50, 50),
        ("fill", 50, 49),
    ]
    assert added.succeed()["load.load_item"] == "skipped"


def test_rows_without_a_value_are_not_carried(added: Project) -> None:
    added.in_source(
        "ALTER TABLE item ADD few int; UPDATE item SET few = id WHERE id = 7;"
        "UPDATE item SET colour = NULL WHERE id <= 90"
    )
    assert "filled colour, few in 10 older rows" in message(added)
    assert ranges(added) == [1, 10]
    assert added.differences("item") == 0


def test_as_many_columns_as_are_added_at_once_are_filled(loaded: Project) -> None:
    """No function of the server takes more than 100 arguments."""
    columns = ", ".join(f"ADD c{n} int DEFAULT {n}" for n in range(101))
    loaded.in_source(
        f"CREATE TYPE pair AS (a int, b int); ALTER TABLE item {columns};"
        # A value, and IS NULL is true of it.
        "ALTER TABLE item ADD few pair; UPDATE item SET few = ROW(NULL, NULL) WHERE id = 7"
    )
    touch(loaded)
    message(loaded)
    assert loaded.differences("item") == 0


REORDERED = {
    "the key's columns change places": (
        "a int, b int",
        "i, 101 - i",
        "ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (b, a)",
    ),
    "another order of an enum's labels": (
        "a size, b int",
        "CASE WHEN i > 50 THEN 'low' ELSE 'high' END::size, i",
        "ALTER TABLE item ALTER a TYPE other_size USING a::text::other_size",
    ),
}


@pytest.mark.parametrize("change", REORDERED)
@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_fill_begins_again_where_the_source_orders_the_keys_differently(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str, is_noticed: bool
) -> None:
    """The last key that is filled says nothing then. The control: rows above it alone are read."""
    columns, values, reorder = REORDERED[change]
    project.in_source(
        "CREATE TYPE size AS ENUM ('high', 'low'); CREATE TYPE other_size AS ENUM ('low', 'high');"
        f"CREATE TABLE item ({columns}, at timestamptz NOT NULL DEFAULT clock_timestamp(),"
        f" PRIMARY KEY (a, b)); INSERT INTO item SELECT {values} FROM generate_series(1, 100) i"
    )
    if not is_noticed:
        monkeypatch.setattr(fill, "_order_of_keys", lambda *_: ("as ever",))
    project.spec(TABLES)
    project.succeed()
    project.in_source("ALTER TABLE item ADD colour text; UPDATE item SET colour = 'c' || b")
    project.in_source("UPDATE item SET at = clock_timestamp() WHERE b = 100")
    broken(project, monkeypatch, "load.committed:raise:2")
    project.in_source(reorder)
    message(project)
    assert (project.differences("item") == 0) == is_noticed
    assert project.in_warehouse(UNFILLED) == []


@pytest.mark.parametrize("unmarks", [False, True])
def test_a_row_that_came_back_unseen_stays_marked_as_deleted_while_it_is_filled(
    project: Project, monkeypatch: pytest.MonkeyPatch, unmarks: bool
) -> None:
    """A fill brings one of its values, and the next search all. The control: taken for live, it
    keeps the others that it had."""
    project.in_source(ITEMS)
    project.spec({"item": TABLE | {"deletes": {"action": "soft", "every": "1d"}}})
    project.succeed()
    search = "UPDATE loadsheet.scope SET deletes_checked_at = NULL"
    project.in_source("CREATE TABLE gone AS TABLE item; DELETE FROM item WHERE id = 5")
    project.in_warehouse(search)
    project.succeed()
    project.in_source("INSERT INTO item SELECT id, 'other', at FROM gone WHERE id = 5")
    project.in_source(ADD.format("colour"))
    touch(project)
    if unmarks:
        receive = LoadTransaction._receive
        monkeypatch.setattr(
            LoadTransaction, "_receive", lambda self, schema, _: receive(self, schema, self.marks)
        )
    assert "filled colour in" in message(project)
    marked = project.in_warehouse("SELECT id FROM staging.item WHERE _deleted_at IS NOT NULL")
    assert marked == ([] if unmarks else [(5,)])
    project.in_warehouse(search)
    project.succeed()
    assert project.differences("item") == (2 if unmarks else 0)


def test_without_the_key_they_are_null_until_a_full_refresh(added: Project) -> None:
    """The negative control."""
    added.spec({"item": {"incremental": "at"}})
    assert "NULL in older rows until a full refresh" in message(added)
    assert added.differences("item") == 2 * 99
    added.succeed(full_refresh="all")
    assert added.differences("item") == 0
    assert added.in_warehouse(UNFILLED) == []


def test_a_fill_that_is_asked_for_later_fills_what_was_added_before(added: Project) -> None:
    """Also where no row is new."""
    added.spec({"item": {"incremental": "at"}})
    added.succeed()
    added.spec(TABLES)
    assert "filled colour in 99 older rows" in message(added)
    assert added.differences("item") == 0


@pytest.mark.parametrize("point", ["extract.sealed:raise:3", "load.committed:raise:2"])
def test_a_fill_that_was_stopped_goes_on_where_it_was(
    added: Project, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    broken(added, monkeypatch, point)
    assert ranges(added) == [50]
    assert "filled colour in" in message(added)
    assert added.differences("item") == 0
    assert sum(ranges(added)) == 100


def test_a_run_that_is_resumed_goes_on_with_its_fill(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(added, monkeypatch, "load.committed:raise:2")
    [(run_id,)] = added.in_warehouse(
        "SELECT run_id FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    )
    added.succeed(run_id=run_id, resumes=frozenset({"item"}))
    assert added.differences("item") == 0
    assert sum(ranges(added)) == 100


def test_a_column_that_is_added_while_another_is_filled_is_filled_too(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(added, monkeypatch, "load.committed:raise:2")
    added.in_source(ADD.format("size"))
    touch(added)
    assert "filled colour, size in 99 older rows" in message(added)
    assert added.differences("item") == 0


@pytest.mark.parametrize(
    "change",
    [
        "RENAME colour TO hue",
        "ALTER n TYPE bigint",
        "RENAME id TO number",
        "DROP colour",
        "DROP colour, DROP n",
    ],
)
def test_columns_that_change_while_they_are_filled_come_out_right(
    added: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    added.in_source("ALTER TABLE item ADD n int; UPDATE item SET n = id")
    broken(added, monkeypatch, "load.committed:raise:2")
    added.in_source(f"ALTER TABLE item {change}")
    message(added)
    assert added.differences("item") == 0
    assert added.in_warehouse(UNFILLED) == []


def test_a_change_between_the_load_and_the_fill_waits_for_the_next_load(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = TableStep.load
    loaded = []

    def load_and_rename(step: TableStep, load_id: str) -> Outcome:
        loaded.append(load_id)
        if len(loaded) == 2:  # the first range
            added.in_source("ALTER TABLE item RENAME colour TO hue")
        return load(step, load_id)

    monkeypatch.setattr(TableStep, "load", load_and_rename)
    said = message(added)
    assert "colour not filled in all older rows: the source's columns have changed" in said
    assert "the next run goes on with it (50 rows so far)" in said
    assert "filled hue in 49 older rows" in message(added)
    assert added.differences("item") == 0


def test_a_column_that_is_dropped_and_added_again_stops_the_step_as_without_a_fill(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(added, monkeypatch, "load.committed:raise:2")
    added.in_source("ALTER TABLE item DROP colour")
    added.in_source(ADD.format("colour"))
    with pytest.raises(Refused, match="column colour is not the column that older rows"):
        message(added)
    message(added, full_refresh="all")
    assert added.differences("item") == 0


def test_a_full_refresh_makes_a_fill_superfluous(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(added, monkeypatch, "load.committed:raise:2")
    assert added.in_warehouse(UNFILLED) != []
    assert "filled" not in message(added, full_refresh="all")
    assert added.differences("item") == 0
    assert added.in_warehouse(UNFILLED) == []


def test_a_table_that_is_merged_whole_needs_no_fill(project: Project) -> None:
    project.in_source(ITEMS)
    project.spec({"item": {"mode": "merge"}}, defaults={"fill": "auto"})
    project.succeed()
    project.in_source(ADD.format("colour"))
    assert "filled" not in message(project)
    assert project.differences("item") == 0
    assert project.in_warehouse(UNFILLED) == []


@pytest.mark.parametrize("fills", ["auto", None])
@pytest.mark.parametrize("start", [None, "1 h"])
def test_a_column_that_comes_with_the_cursor_needs_no_fill(
    project: Project, fills: str | None, start: str | None
) -> None:
    """The first run by a cursor merges the whole table once more. The control: from an initial
    value on, it leaves rows without the column's values."""
    project.in_source(ITEMS)
    project.in_source("UPDATE item SET at = at - interval '1 day' WHERE id <= 40")
    more = {"fill": fills} if fills else {}
    project.spec({"item": {"mode": "merge"} | more})
    project.succeed()
    project.in_source(ADD.format("colour"))
    cursor = {"cursor": "at", "nulls": "include"}
    if start:
        [(value,)] = project.in_source("SELECT (now() - interval '1 h')::text")
        cursor["initial_value"] = value
    project.spec({"item": {"incremental": cursor} | more})
    lacks = start is not None
    planned = " ".join(project.cli("plan", "shop", "--connect").stdout.split())
    said = message(project)
    assert "added colour text" in planned and "added colour text" in said
    assert ("NULL in older rows" in planned, "NULL in older rows" in said) == (lacks, lacks)
    assert ("filled colour in 40 older rows" in said) == (lacks and fills == "auto")
    assert bool(ranges(project)) == (lacks and fills == "auto")
    assert bool(project.in_warehouse(UNFILLED)) == (lacks and not fills)
    assert project.differences("item") == (2 * 40 if lacks and not fills else 0)


KEYS = {
    "two": ("a int, b int", "i % 7, i"),
    "texts": ("a text, b numeric", "chr(64 + i % 11), i / 4.0"),
    "times": ("a timestamptz", "timestamptz '2026-01-01' + i * interval '1 minute 0.000001 s'"),
    "uuids": ("a uuid", "md5(i::text)::uuid"),
    "enums": ("a mood, b bytea", "'so-so', decode(md5(i::text), 'hex')"),
    "quotes": ("a varchar(20)", "chr(196) || chr(39) || chr(92) || chr(9) || i"),
    "floats": ("a float8", "i / 3.0"),
    "domains": ("a code", "i"),
    "named": ("a feeling, b int", "'so-so', i"),
    "names": ('"100 %s" int', "-i"),
}


def test_keys_of_any_type_are_read_in_ranges(project: Project) -> None:
    project.in_source(
        "CREATE TYPE mood AS ENUM ('well', 'so-so'); CREATE DOMAIN code AS int;"
        "CREATE DOMAIN feeling AS mood"
    )
    for table, (key, values) in KEYS.items():
        names = ", ".join(column.rsplit(" ", 1)[0] for column in key.split(", "))
        project.in_source(
            f"CREATE TABLE {table} ({key}, at timestamptz NOT NULL DEFAULT clock_timestamp(),"
            f" PRIMARY KEY ({names}));"
            f"INSERT INTO {table} SELECT {values} FROM generate_series(1, 100) i"
        )
    project.spec({table: {"incremental": "at"} for table in KEYS}, defaults={"fill": "auto"})
    project.succeed()
    for table in KEYS:
        project.in_source(
            f"ALTER TABLE {table} ADD extra jsonb; UPDATE {table} SET extra = to_jsonb({table});"
            f"UPDATE {table} SET at = clock_timestamp() WHERE ctid = (SELECT max(ctid) FROM"
            f" {table})"
        )
    project.succeed()
    rows = "SELECT extracted FROM loadsheet.load WHERE action = 'fill' AND table_name = %s"
    for table in KEYS:
        assert project.differences(table) == 0
        found = project.in_warehouse(f"{rows} ORDER BY load_no", table)
        assert found == [(50,), (50,)], table


def test_a_partitioned_table_is_filled(project: Project) -> None:
    project.in_source(
        "CREATE TABLE item (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())"
        " PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF item FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE high PARTITION OF item FOR VALUES FROM (50) TO (1000);"
        # No two rows of the same time: a fill leaves those at the watermark to the increment.
        "INSERT INTO item SELECT i, now() - (100 - i) * interval '1 ms'"
        " FROM generate_series(1, 100) i"
    )
    project.spec(TABLES)
    project.succeed()
    project.in_source(ADD.format("colour"))
    touch(project)
    assert "filled colour in 99 older rows" in message(project)
    assert project.differences("item") == 0


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_lake_of_any_format_carries_a_fill(added: Project, format: str) -> None:
    added.spec(TABLES, lake={"format": format})
    message(added)
    assert added.differences("item") == 0


def test_rows_that_are_gone_from_the_source_stay_as_they_are(added: Project) -> None:
    added.in_source("DELETE FROM item WHERE id <= 40")
    message(added)
    assert added.in_warehouse("SELECT count(*), count(colour) FROM staging.item") == [(100, 60)]


def test_a_fill_adds_no_row_that_the_loads_have_left_out(project: Project) -> None:
    project.in_source(ITEMS)
    # Two rows may be written in the same microsecond.
    project.in_source("UPDATE item SET at = at - interval '1 minute' WHERE id <= 50")
    [(start,)] = project.in_source("SELECT at::text FROM item WHERE id = 51")
    project.spec({"item": {**TABLE, "incremental": {"cursor": "at", "initial_value": start}}})
    project.succeed()
    project.in_source(ADD.format("colour"))
    touch(project)
    message(project)
    found = "SELECT count(*), min(id), count(colour) FROM staging.item"
    assert project.in_warehouse(found) == [(50, 51, 50)]


def test_incremental_marts_see_the_rows_that_were_filled(loaded: Project) -> None:
    mart = (
        "SELECT id, to_jsonb(item) ->> 'colour' AS colour FROM staging.item"
        " WHERE _load_id > :since_load"
    )
    loaded.spec(TABLES, {"copy": (mart, {"materialized": "merge", "unique_key": "id"})})
    loaded.succeed()
    loaded.in_source(ADD.format("colour"))
    touch(loaded)
    loaded.succeed()
    assert loaded.in_warehouse("SELECT count(colour) FROM mart.copy") == [(100,)]


def test_a_range_reads_and_writes_the_tables_rows_once(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge keeps rows that differ aside and joins them once more. With it, a fill took 2.5 times
    as long as a full refresh."""
    statements: list[str] = []
    execute = PinnedSession.execute

    def noted(session: PinnedSession, query: Any, *more: Any, **options: Any) -> Any:
        statements.append(str(query))
        return execute(session, query, *more, **options)

    monkeypatch.setattr(PinnedSession, "execute", noted)
    message(added)
    joined = [text for text in statements if '"item" t' in text and "colour" in text]
    # The increment, and two ranges of the fill.
    assert [text.split()[0] for text in joined] == ["MERGE", "UPDATE", "UPDATE"]


def test_a_trigger_that_keeps_a_row_from_being_filled_is_refused(added: Project) -> None:
    added.in_warehouse(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF new.id = 7 THEN RETURN NULL; END IF; RETURN new; END';"
        "CREATE TRIGGER keep BEFORE UPDATE ON staging.item FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(Refused, match=r"1 row was not written or deleted.*trigger \(keep\)"):
        message(added)


def test_rows_that_exchange_the_values_of_a_unique_index_are_filled(added: Project) -> None:
    added.spec({"item": {"incremental": "at"}})
    added.succeed()
    added.in_warehouse("UPDATE staging.item SET colour = 'colour ' || 51 - id WHERE id <= 50")
    added.in_warehouse("CREATE UNIQUE INDEX ON staging.item (colour)")
    added.spec(TABLES)
    message(added)
    assert added.differences("item") == 0


def test_a_fill_does_not_wait_for_readers_of_the_table(added: Project) -> None:
    """Adding a column needs the table for a moment, filling it does not."""
    added.spec({"item": {"incremental": "at"}})
    added.succeed()
    added.spec(TABLES)
    with psycopg.connect(added.warehouse) as reader:
        reader.execute("SELECT * FROM staging.item")
        message(added)
    assert added.differences("item") == 0


NOT_ENFORCED = "its rows are not merged by a primary key that the source enforces"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("CREATE VIEW seen AS SELECT * FROM item", "public.seen is not a table"),
        ("CREATE TABLE seen AS TABLE item", NOT_ENFORCED),
    ],
)
def test_a_table_that_cannot_be_filled_says_so_once(loaded: Project, source: str, why: str) -> None:
    loaded.in_source(source)
    loaded.in_source("ALTER TABLE item ADD note text")
    loaded.spec({"seen": {**TABLE, "primary_key": "id", "lookback": "1h"}})
    loaded.succeed()
    if "VIEW" in source:
        loaded.in_source("CREATE OR REPLACE VIEW seen AS SELECT * FROM item")
    else:
        loaded.in_source("ALTER TABLE seen ADD note text")
    result = loaded.run()["load.load_seen"].result
    assert isinstance(result, Outcome)
    assert result.remarks[-1] == (
        f"note not filled in all older rows: {why}; run a full refresh of this table"
    )
    assert loaded.in_warehouse(UNFILLED) == []


def test_a_table_of_two_pipelines_is_not_filled(added: Project) -> None:
    added.in_warehouse(
        "INSERT INTO loadsheet.load SELECT (jsonb_populate_record(load, jsonb_build_object("
        "'pipeline', 'other', 'load_no', nextval('loadsheet.load_no'), 'load_id', 'other'))).*"
        " FROM loadsheet.load"
    )
    said = message(added)
    assert "another pipeline loads the table, too; run a full refresh of this table" in said
    assert added.in_warehouse(UNFILLED) == []


def test_a_source_that_falls_back_behind_a_fill_is_noticed(added: Project) -> None:
    before = "SELECT pg_current_wal_insert_lsn()::text"
    read = "SELECT (source ->> 'lsn')::pg_lsn > %s::pg_lsn FROM loadsheet.scope"
    added.spec({"item": {"incremental": "at"}})
    added.succeed()
    [(lsn,)] = added.in_source(before)
    added.in_source("CREATE TABLE moves_on ()")
    added.spec(TABLES)
    message(added)
    assert added.in_warehouse(read, lsn) == [(True,)]


def test_another_source_during_a_fill_stops_it(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(added, monkeypatch, "load.committed:raise:2")
    added.in_warehouse('UPDATE loadsheet.scope SET source = source || \'{"lsn": "FFF/0"}\'')
    with pytest.raises(SourceChanged):
        added.succeed()


def test_a_fill_ends_before_the_time_of_its_step_does(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        left = iter([100.0, 51.0, 49.0])
        patch.setattr(fill, "remaining", lambda: next(left))
        said = message(added)
    assert "half of the step's time limit has passed; the next run goes on with it" in said
    assert added.differences("item") > 0
    found = added.verify()["item"]
    assert (found.state, found.left_out) == (
        "equal",
        ["colour: the next run goes on filling it in older rows"],
    )
    added.spec({"item": {"incremental": "at"}})  # No run will fill it.
    assert added.verify()["item"].state == "differs"
    added.spec(TABLES)
    message(added)
    assert added.differences("item") == 0
    assert added.verify()["item"].left_out == []


def test_status_and_plan_tell_which_columns_are_not_filled(
    added: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = added.cli("plan", "shop", "--connect").stdout
    assert "added colour text (NULL in older rows until they are filled)" in planned
    broken(added, monkeypatch, "load.committed:raise:2")
    status = added.cli("status", "shop").stdout
    assert "item: older rows have no values in colour: the next run fills them" in status
    document = json.loads(added.cli("status", "shop", "--json").stdout)
    assert document["pipelines"][0]["tables"][0]["unfilled"] == ["colour"]
    planned = " ".join(added.cli("plan", "shop", "--connect").stdout.split())
    assert "fills colour in older rows" in planned
    message(added)
    assert "colour" not in added.cli("status", "shop").stdout
