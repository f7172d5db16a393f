"""The ledger outlives versions of Loadsheet: an older one is brought up to date in place, a newer
one is refused."""

from __future__ import annotations

import re

import pytest

from loadsheet.engine import attempt
from loadsheet.errors import Refused
from loadsheet.warehouse import ledger
from tests.byhand import ByHand
from tests.core.planned import plan
from tests.faults.oracle import judge, violations, watermark_violations
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text), '2026-01-01'::timestamptz + i * '1 s'::interval
FROM generate_series(1, 100) i;
"""
# As the first version made it, before ledgers had a version; one load of `shop.item` is in it.
FIRST_LEDGER = """
CREATE SCHEMA loadsheet;
CREATE SEQUENCE loadsheet.load_no;
CREATE TABLE loadsheet.scope (
    pipeline text NOT NULL, table_name text NOT NULL, target text NOT NULL,
    fence bigint NOT NULL DEFAULT 0,
    watermark text, last_load_no bigint, content_sha256 text, source_oid bigint, columns jsonb,
    PRIMARY KEY (pipeline, table_name)
);
CREATE TABLE loadsheet.load (
    load_id text PRIMARY KEY, load_no bigint NOT NULL UNIQUE,
    pipeline text NOT NULL, table_name text NOT NULL, target text NOT NULL,
    run_id text NOT NULL, fence bigint NOT NULL, action text NOT NULL, format text NOT NULL,
    extracted bigint NOT NULL, duplicates bigint NOT NULL,
    inserted bigint NOT NULL, updated bigint NOT NULL, deleted bigint NOT NULL,
    replaced boolean NOT NULL, bytes bigint NOT NULL, lower_cursor text, upper_cursor text,
    held_by text NOT NULL, manifest text NOT NULL, source jsonb NOT NULL, version text NOT NULL,
    extract_seconds double precision NOT NULL, load_seconds double precision NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX load_of_table ON loadsheet.load (pipeline, table_name, load_no);
CREATE INDEX load_of_target ON loadsheet.load (target, load_no);
CREATE TABLE loadsheet.transform_run (
    run_no bigint PRIMARY KEY,
    pipeline text NOT NULL, transform text NOT NULL, target text NOT NULL,
    run_id text NOT NULL, sql_sha256 text NOT NULL, full_build boolean NOT NULL,
    since_load bigint NOT NULL, seen_load bigint NOT NULL,
    inserted bigint NOT NULL, updated bigint NOT NULL, deleted bigint NOT NULL,
    replaced boolean NOT NULL, seconds double precision NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX transform_run_of_target ON loadsheet.transform_run (target, run_no);

INSERT INTO loadsheet.scope VALUES (
    'shop', 'item', 'staging.item', 1, '2026-01-01 00:01:40+00', nextval('loadsheet.load_no'),
    NULL, {oid},
    '[{{"name": "id", "attnum": 1, "source_type": "integer", "type": "integer",
        "cast": "", "exact_in_binary": true}},
      {{"name": "what", "attnum": 2, "source_type": "text", "type": "text",
        "cast": "", "exact_in_binary": true}},
      {{"name": "at", "attnum": 3,
        "source_type": "timestamp with time zone", "type": "timestamp with time zone",
        "cast": "", "exact_in_binary": true}}]'
);
INSERT INTO loadsheet.load VALUES (
    'c0ffee', 1, 'shop', 'item', 'staging.item', 'the first', 1, 'replace', 'binary',
    100, 0, 100, 0, 0, true, 4711,
    NULL, '2026-01-01 00:01:40+00', '', 'shop/item/c0ffee/00000001-00000000/manifest.json',
    '{{"database": "shop"}}',
    '0.1.0', 0.1, 0.1
);
CREATE SCHEMA staging;
CREATE TABLE staging.item (id int PRIMARY KEY, what text, at timestamptz, _load_id bigint NOT NULL);
"""


@pytest.fixture
def old(project: Project) -> Project:
    """100 rows that the first version has loaded, with its ledger."""
    project.in_source(SOURCE)
    [(oid,)] = project.in_source("SELECT 'item'::regclass::oid::bigint")
    project.spec({"item": {"incremental": "at"}})
    project.as_loader(FIRST_LEDGER.format(oid=oid))
    for row in project.in_source("SELECT id, what, at FROM item"):
        project.in_warehouse("INSERT INTO staging.item VALUES (%s, %s, %s, 1)", *row)
    return project


def version(project: Project) -> object:
    return project.in_warehouse("SELECT obj_description('loadsheet'::regnamespace)")[0][0]


def test_a_ledger_of_the_first_version_is_upgraded_in_place_and_keeps_its_rows(
    old: Project,
) -> None:
    old.in_source("INSERT INTO item VALUES (101, 'new')")
    states = old.succeed()
    assert states["load.load_item"] == "done" and version(old) == f"ledger version {ledger.VERSION}"
    assert old.in_warehouse(
        "SELECT run_id, extracted, inserted FROM loadsheet.load ORDER BY load_no"
    )[0] == (
        "the first",
        100,
        100,
    )
    # An increment, from where the old version's watermark stood. The row that has it is read again:
    # the old version did not record which rows with that value it had seen.
    assert old.in_warehouse("SELECT extracted, lower_cursor FROM loadsheet.load ORDER BY load_no")[
        1:
    ] == [(2, "2026-01-01 00:01:40+00")]
    assert not judge(old, "item") and violations(old) == [] == watermark_violations(
        old, "item", "at"
    )


def test_an_upgraded_ledger_is_the_same_as_a_new_one(old: Project) -> None:
    shape = """
        SELECT table_name, column_name, data_type, is_nullable, column_default
        FROM information_schema.columns
        WHERE table_schema = 'loadsheet' ORDER BY 1, 2
    """
    old.succeed()
    upgraded = old.in_warehouse(shape)
    old.in_warehouse("DROP SCHEMA loadsheet, staging CASCADE")
    old.succeed()
    assert old.in_warehouse(shape) == upgraded


def test_what_nobody_loaded_before_the_upgrade_is_extracted_again(old: Project) -> None:
    """An attempt of the old version is not sealed; its load upgrades the ledger."""
    old.in_source("INSERT INTO item VALUES (101, 'new')")
    old.in_warehouse("UPDATE loadsheet.scope SET fence = 2")
    by_hand = ByHand(old, source="")
    assert "so it was extracted again" in by_hand.step("load", "before", "deadbeef").message
    assert version(old) == f"ledger version {ledger.VERSION}"
    assert not judge(old, "item") and violations(old) == []


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(old: Project) -> None:
    old.succeed()
    old.in_warehouse(f"COMMENT ON SCHEMA loadsheet IS 'ledger version {ledger.VERSION + 1}'")
    before = old.in_warehouse("SELECT * FROM loadsheet.scope")
    with pytest.raises(
        Refused, match=f"version {ledger.VERSION + 1}.* knows {ledger.VERSION}: update Loadsheet"
    ):
        old.succeed()
    assert old.in_warehouse("SELECT * FROM loadsheet.scope") == before
    assert version(old) == f"ledger version {ledger.VERSION + 1}"


def test_somebody_elses_comment_on_the_schema_does_no_harm(old: Project) -> None:
    old.succeed()
    old.in_warehouse("COMMENT ON SCHEMA loadsheet IS 'do not touch: belongs to Loadsheet'")
    old.in_source("INSERT INTO item VALUES (101, 'new')")
    old.succeed()
    assert not judge(old, "item") and violations(old) == []


# What each version has added, newest first: taken away again, the ledger is one of the version
# before. In the first version, a first load from an initial value was an increment.
ADDED = {
    9: "ALTER TABLE loadsheet.scope DROP COLUMN shared_read",
    8: "ALTER TABLE loadsheet.scope DROP COLUMN current_at, DROP COLUMN waits_for",
    7: "ALTER TABLE loadsheet.scope DROP COLUMN unfilled, DROP COLUMN deletes_checked_at,"
    " DROP COLUMN deletes_removed;"
    " ALTER TABLE loadsheet.load DROP COLUMN gone, DROP COLUMN manifest_sha256,"
    " DROP COLUMN restored; DROP TABLE loadsheet.verified",
    6: "ALTER TABLE loadsheet.scope DROP COLUMN intervals",
    5: "ALTER TABLE loadsheet.scope DROP COLUMN storage, DROP CONSTRAINT scope_pkey,"
    " ADD PRIMARY KEY (pipeline, table_name); ALTER TABLE loadsheet.load DROP COLUMN counted;"
    " ALTER TABLE loadsheet.failure DROP COLUMN target CASCADE,"
    " ADD PRIMARY KEY (pipeline, kind, name)",
    4: "DROP TABLE loadsheet.failure",
    3: "ALTER TABLE loadsheet.load DROP COLUMN clock",
    2: "ALTER TABLE loadsheet.scope DROP COLUMN sealed_load_id, DROP COLUMN sealed_manifest,"
    " DROP COLUMN sealed_sha256, DROP COLUMN source, DROP COLUMN cursor;"
    "UPDATE loadsheet.load SET action = table_name",
}


# The tables are named by their modes.
MODES = ("merge", "append")


def age(project: Project, to: int) -> None:
    """Make the ledger, in which each table has one load, one of the version `to`, which did not
    record initial values."""
    project.in_warehouse("UPDATE loadsheet.scope SET source = source - 'initial_value' - 'key'")
    for since, statement in ADDED.items():
        if since > to:
            project.in_warehouse(statement)
    comment = "NULL" if to == 1 else f"'ledger version {to}'"
    project.in_warehouse(f"COMMENT ON SCHEMA loadsheet IS {comment}")


@pytest.mark.parametrize("to", [1, 6, ledger.VERSION - 1])
def test_a_replacement_removes_what_merges_left_before_the_upgrade(
    project: Project, to: int
) -> None:
    """The source's content is that of the last merge. The control: for another merge, that is
    nothing new."""
    project.in_source("CREATE TABLE merge (n int PRIMARY KEY)")
    project.in_source("INSERT INTO merge SELECT generate_series(1, 100)")
    project.spec({"merge": {"mode": "merge"}})
    project.succeed()
    project.in_source("DELETE FROM merge WHERE n = 1; INSERT INTO merge VALUES (101)")
    project.succeed()
    age(project, to)
    for mode, changes in (("merge", "no"), ("replace", "yes")):
        project.spec({"merge": {"mode": mode}})
        # `plan` cannot read a ledger of the first version.
        if to > 1:
            assert plan(project)["steps"]["load.load_merge"]["changes"] == changes
    project.spec({"merge": {"mode": "merge"}})
    assert project.succeed()["load.load_merge"] == "skipped"
    project.spec({"merge": {"mode": "replace"}})
    assert project.succeed()["load.load_merge"] == "done"
    assert project.differences("merge") == 0
    assert project.succeed()["load.load_merge"] == "skipped"


def numbers(project: Project, start: int | None, *modes: str) -> None:
    cursor = {"cursor": "n", **({} if start is None else {"initial_value": start})}
    project.spec({mode: {"incremental": dict(cursor), "mode": mode} for mode in modes})


def aged(project: Project, to: int, *modes: str) -> None:
    """100 numbers, read from 61 on, in a ledger of the version `to`."""
    for mode in modes:
        project.in_source(f"CREATE TABLE {mode} (n int PRIMARY KEY)")
        project.in_source(f"INSERT INTO {mode} SELECT generate_series(1, 100)")
    numbers(project, 61, *modes)
    project.succeed()
    age(project, to)


VERSIONS = range(1, ledger.VERSION + 1)


@pytest.mark.parametrize("is_loaded_first", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("to", VERSIONS)
def test_an_initial_value_that_is_moved_back_after_an_upgrade_brings_the_rows_between(
    project: Project, to: int, is_loaded_first: bool
) -> None:
    """An older ledger does not remember it, but has the first load. They were lost."""
    aged(project, to, *MODES)
    if is_loaded_first:
        project.in_source("; ".join(f"INSERT INTO {mode} VALUES (101)" for mode in MODES))
        project.succeed()
    numbers(project, 31, *MODES)
    # `plan` writes nothing, and cannot read a ledger of the first version.
    if to > 1 or is_loaded_first:
        steps = plan(project)["steps"]
        for mode in MODES:
            assert re.search("3[01] rows", steps[f"extract.extract_{mode}"]["does"])
    project.succeed()
    for start in (80, 31, 31, None):
        numbers(project, start, *MODES)
        for mode in MODES:
            project.in_source(f"INSERT INTO {mode} SELECT max(n) + 1 FROM {mode}")
        project.succeed()
        for mode in MODES:
            lowest = f"SELECT min(n), count(*) = count(DISTINCT n) FROM staging.{mode}"
            assert project.in_warehouse(lowest) == [(1 if start is None else 31, True)]
    assert not any(judge(project, mode) for mode in MODES)


@pytest.mark.parametrize("mode", MODES)
def test_a_ledger_without_its_first_load_reads_again_or_refuses(
    project: Project, mode: str
) -> None:
    aged(project, ledger.VERSION, mode)
    project.in_warehouse("DELETE FROM loadsheet.load")
    numbers(project, 31, mode)
    found = project.run()[f"extract.extract_{mode}"].result
    if mode == "append":
        assert isinstance(found, Refused) and "run a full refresh of this table" in str(found)
        project.succeed(full_refresh="all")
    assert project.in_warehouse(f"SELECT count(*) FROM staging.{mode}") == [(70,)]


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_that_does_not_ask_for_the_first_load_loses_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The negative control."""
    aged(project, 5, mode)
    monkeypatch.setattr(attempt, "started_from", lambda *_: "")
    numbers(project, 31, mode)
    project.run()
    assert project.in_warehouse(f"SELECT count(*) FROM staging.{mode}") == [(40,)]
