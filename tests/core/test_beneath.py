"""What is below a source relation: which increments can be trusted without a lookback, what changes
below are noticed, and that no row is missed when they happen while it is read."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.errors import Overtaken, Refused, SourceChanged
from loadsheet.source import catalog, identity
from tests.faults.oracle import judge
from tests.project import Project

BASE = """
CREATE TABLE base (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), what text);
CREATE TABLE side (base_id int, more text);
CREATE FUNCTION reads_a_table(int) RETURNS bool STABLE LANGUAGE sql
    AS 'SELECT EXISTS (SELECT FROM public.side WHERE base_id = $1)';
CREATE FUNCTION promises(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER elsewhere;
"""
PARTS = "CREATE TABLE t (id int, at timestamptz DEFAULT now(), what text) PARTITION BY LIST (id);"
TRUSTED = {
    "a table": "CREATE TABLE t (LIKE base INCLUDING ALL)",
    "a view": "CREATE VIEW t AS SELECT * FROM base",
    "a view of a view": "CREATE VIEW v AS SELECT * FROM base; CREATE VIEW t AS SELECT * FROM v",
    "a view with a condition": "CREATE VIEW t AS SELECT * FROM base WHERE what <> 'x'",
    "a view with a cast": "CREATE VIEW t AS SELECT id, at, at::date AS day FROM base",
    "a view with a function that promises": "CREATE VIEW t AS SELECT id, at, promises(what)"
    " FROM base",
    "partitions": PARTS + "CREATE TABLE p PARTITION OF t DEFAULT",
    "partitions of partitions": PARTS
    + "CREATE TABLE p PARTITION OF t DEFAULT PARTITION BY LIST (what);"
    "CREATE TABLE pp PARTITION OF p DEFAULT",
    "a view of partitions": "CREATE TABLE q (id int, at timestamptz) PARTITION BY LIST (id);"
    "CREATE TABLE p PARTITION OF q DEFAULT; CREATE VIEW t AS SELECT * FROM q",
    "no partition yet": PARTS,
    "a function of constants": "CREATE VIEW t AS SELECT base.* FROM base, generate_series(1, 1)",
    "the role's name": "CREATE VIEW t AS SELECT *, current_user AS who FROM base",
    "a very long expression": "CREATE VIEW t AS SELECT *, "
    + " || ".join(["what"] * 400)
    + " AS long FROM base",
    "inheritance": "CREATE TABLE t (LIKE base); CREATE TABLE child () INHERITS (t)",
}
FOREIGN = "is a foreign table"
MATERIALIZED = "is a materialized view"
FUNCTIONS = "view public.t calls functions, which may read other tables or the time"
LATE = "a row may appear in view public.t with an old cursor, because it "
UNTRUSTED = {
    "a foreign table": (
        "CREATE FOREIGN TABLE t (id int, at timestamptz) SERVER elsewhere",
        FOREIGN,
    ),
    "a view of a foreign table": (
        "CREATE FOREIGN TABLE f (id int, at timestamptz) SERVER elsewhere;"
        "CREATE VIEW t AS SELECT * FROM f",
        FOREIGN,
    ),
    "a foreign partition": (
        PARTS + "CREATE TABLE p PARTITION OF t FOR VALUES IN (1);"
        "CREATE FOREIGN TABLE f PARTITION OF t DEFAULT SERVER elsewhere",
        FOREIGN,
    ),
    "a foreign child": (
        "CREATE TABLE t (LIKE base); CREATE FOREIGN TABLE f () INHERITS (t) SERVER elsewhere",
        FOREIGN,
    ),
    "a materialized view": ("CREATE MATERIALIZED VIEW t AS SELECT * FROM base", MATERIALIZED),
    "a view of a materialized view": (
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM base; CREATE VIEW t AS SELECT * FROM m",
        MATERIALIZED,
    ),
    "a materialized view in a subquery": (
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM base;"
        "CREATE VIEW t AS SELECT * FROM base WHERE id IN (SELECT id FROM m)",
        LATE + "has a sub-query",
    ),
    "a user's function": (
        "CREATE VIEW t AS SELECT * FROM base WHERE reads_a_table(id)",
        LATE + "has a condition that calls public.reads_a_table",
    ),
    "a function in FROM": (
        "CREATE FUNCTION rows_of() RETURNS SETOF base STABLE LANGUAGE sql AS 'TABLE public.base';"
        "CREATE VIEW t AS SELECT * FROM rows_of()",
        LATE + "has an entry of FROM that calls public.rows_of",
    ),
    "the time": ("CREATE VIEW t AS SELECT * FROM base WHERE at < now()", LATE),
    "the time of the standard": (
        "CREATE VIEW t AS SELECT * FROM base WHERE at < CURRENT_TIMESTAMP",
        LATE,
    ),
    "chance": ("CREATE VIEW t AS SELECT * FROM base WHERE random() < 0.5", LATE),
    "a share of the rows": (
        "CREATE VIEW t AS SELECT * FROM base TABLESAMPLE system (50)",
        LATE,
    ),
    "a user's aggregate": (
        "CREATE FUNCTION step(bigint, int) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT $1 + $2';"
        "CREATE AGGREGATE total(int) (SFUNC = step, STYPE = bigint, INITCOND = '0');"
        "CREATE VIEW t AS SELECT total(id)::int AS id, max(at) AS at FROM base",
        LATE + "aggregates rows",
    ),
    "a sequence": (
        "CREATE SEQUENCE s; CREATE VIEW t AS SELECT base.* FROM base, s WHERE id < last_value",
        LATE + "joins tables",
    ),
    "a function in a column": ("CREATE VIEW t AS SELECT *, reads_a_table(id) FROM base", FUNCTIONS),
    "the time in a column": (
        "CREATE VIEW t AS SELECT *, now() - at AS for_long FROM base",
        FUNCTIONS,
    ),
    "the age in a column": ("CREATE VIEW t AS SELECT *, age(at) AS for_long FROM base", FUNCTIONS),
    "a sequence alone": (
        "CREATE SEQUENCE s; CREATE VIEW t AS SELECT last_value::int AS id, now() AS at FROM s",
        "public.s is no table",
    ),
    "no table": ("CREATE VIEW t AS SELECT 1 AS id, DATE '2026-01-01' AS at", "no table below it"),
    "a system catalog": (
        "CREATE VIEW t AS SELECT oid::int AS id, rolvaliduntil AS at FROM pg_authid",
        "pg_authid is a system catalog",
    ),
}


def spec(project: Project, **more: Any) -> None:
    project.spec({"t": {"incremental": {"cursor": "at", **more}, "primary_key": "id"}})


def run(project: Project, **request: Any) -> object:
    """The outcome of the table's extraction, or its error."""
    return project.run(**request)["extract.extract_t"].result


@pytest.mark.parametrize("create", TRUSTED.values(), ids=TRUSTED)
def test_plain_tables_are_read_by_increments(project: Project, create: str) -> None:
    project.in_source(BASE)
    project.in_source(create)
    spec(project)
    project.succeed()


@pytest.mark.parametrize("create, why", UNTRUSTED.values(), ids=UNTRUSTED)
def test_a_relation_whose_writers_cannot_be_seen_needs_a_lookback(
    project: Project, create: str, why: str
) -> None:
    project.in_source(BASE)
    project.in_source(create)
    # What a function reads, it reads as the role that calls it.
    project.in_source(f"GRANT SELECT ON base TO {project.extractor}")
    spec(project)
    error = run(project)
    assert isinstance(error, Refused)
    assert why in str(error) and "incremental.lookback" in str(error)
    if why == FOREIGN:
        return  # this one has no handler, so that nothing can be planned
    plan = project.cli("plan", "shop", "--connect")
    assert plan.returncode != 0 and why in " ".join(plan.stdout.split())


@pytest.mark.parametrize("form", ["a materialized view", "the time", "a user's function"])
def test_with_a_lookback_it_is_read(project: Project, form: str) -> None:
    project.in_source(BASE)
    project.in_source(UNTRUSTED[form][0])
    spec(project, lookback="1h")
    project.succeed()


READ_WHILE = {
    "a view": ("CREATE VIEW t AS SELECT * FROM base", "TRUNCATE base"),
    "a view of a view": (
        "CREATE VIEW v AS SELECT * FROM base; CREATE VIEW t AS SELECT * FROM v",
        "TRUNCATE base",
    ),
    "a view of partitions": (
        "CREATE TABLE q (LIKE base) PARTITION BY LIST (id); ALTER TABLE q ATTACH PARTITION base"
        " DEFAULT; CREATE VIEW t AS SELECT * FROM q",
        "TRUNCATE q",
    ),
    "a materialized view": (
        "CREATE MATERIALIZED VIEW t AS SELECT * FROM base",
        "REFRESH MATERIALIZED VIEW t",
    ),
}


def cannot_lock(*_: object) -> None:
    """As for a role that may read only some columns of a view."""


@pytest.mark.parametrize("incremental", [False, True], ids=["replace", "increment"])
@pytest.mark.parametrize("create, truncate", READ_WHILE.values(), ids=READ_WHILE)
def test_a_table_below_that_is_reloaded_while_it_is_read_is_not_taken_for_empty(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    create: str,
    truncate: str,
    incremental: bool,
) -> None:
    project.in_source(BASE)
    fill = "INSERT INTO base SELECT i, now(), 'x' FROM generate_series(1, 1000) i"
    project.in_source(fill)
    project.in_source(create)
    settings: dict[str, Any] = {"primary_key": "id", "max_shrink": 1}
    if incremental:
        settings["incremental"] = {"cursor": "at", "lookback": "1h"}
    project.spec({"t": settings})
    project.succeed()

    walk = catalog.walk
    calls = []

    def reload_after_the_snapshot(*args: Any) -> object:
        calls.append(args)
        if len(calls) == 2:
            project.in_source(truncate if truncate.startswith("REFRESH") else f"{truncate}; {fill}")
        return walk(*args)

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "lock", cannot_lock)
        patch.setattr(catalog, "walk", reload_after_the_snapshot)
        assert isinstance(run(project), Overtaken)
    project.succeed()
    assert not judge(project, "t")

    calls.clear()
    project.in_source("UPDATE base SET what = 'y'")
    with monkeypatch.context() as patch:  # the control
        patch.setattr(catalog, "lock", cannot_lock)
        patch.setattr(catalog, "walk", reload_after_the_snapshot)
        patch.setattr(catalog, "rewritten", lambda *_: None)
        project.run()
    # The rows of a refreshed materialized view are frozen, which every snapshot sees.
    if not incremental and truncate.startswith("TRUNCATE"):
        assert project.in_warehouse("SELECT count(*) FROM staging.t") == [(0,)]


CHANGES_WHILE_READ = {
    "truncated": "TRUNCATE base",
    "redefined": "CREATE OR REPLACE VIEW t AS SELECT * FROM other",
    "redefined below": "CREATE OR REPLACE VIEW v AS SELECT * FROM other",
    "dropped": "DROP VIEW t",
    "detached": "ALTER TABLE q DETACH PARTITION base",
}


@pytest.mark.parametrize("change", CHANGES_WHILE_READ.values(), ids=CHANGES_WHILE_READ)
def test_nothing_below_a_view_can_be_exchanged_while_it_is_read(
    project: Project, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    project.in_source(BASE)
    project.in_source(
        "CREATE TABLE other (LIKE base); CREATE TABLE q (LIKE base) PARTITION BY LIST (id);"
        "ALTER TABLE q ATTACH PARTITION base DEFAULT;"
        "CREATE VIEW v AS SELECT * FROM q; CREATE VIEW t AS SELECT * FROM v;"
        "INSERT INTO base SELECT i FROM generate_series(1, 1000) i"
    )
    project.spec({"t": {"primary_key": "id"}})
    walk = catalog.walk
    tried = []

    def change_after_the_snapshot(*args: Any) -> object:
        tried.append(change)
        if len(tried) == 2:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                project.in_source(f"SET lock_timeout = '200ms'; {change}")
        return walk(*args)

    monkeypatch.setattr(catalog, "walk", change_after_the_snapshot)
    project.succeed()
    assert len(tried) == 2 and not judge(project, "t")


REDEFINED = {
    "another condition": "CREATE OR REPLACE VIEW t AS SELECT id, at FROM base WHERE id > 0",
    "another table": "CREATE OR REPLACE VIEW t AS SELECT id, at FROM other",
    "another schema": "CREATE SCHEMA green; CREATE TABLE green.base AS SELECT * FROM public.base;"
    "CREATE OR REPLACE VIEW t AS SELECT id, at FROM green.base",
    "another cursor": "DROP VIEW t; CREATE VIEW t AS SELECT id, greatest(at, at) AS at FROM base",
    "a union": "CREATE OR REPLACE VIEW t AS SELECT id, at FROM base UNION ALL TABLE other",
    "below it": "CREATE OR REPLACE VIEW v AS SELECT * FROM base WHERE id > 0",
}
SAME = {
    "nothing": "",
    "created again": "DROP VIEW t; CREATE VIEW t AS SELECT id,  at FROM v",
    "a new column": "CREATE OR REPLACE VIEW t AS SELECT id, at, what FROM v",
    "a comment": "COMMENT ON VIEW t IS 'the same'",
}


def open_view(project: Project) -> None:
    project.in_source(BASE)
    project.in_source("CREATE TABLE other (id int, at timestamptz)")
    project.in_source("CREATE VIEW v AS SELECT * FROM base; CREATE VIEW t AS SELECT id, at FROM v")
    project.in_source("INSERT INTO base VALUES (1)")
    spec(project)
    project.succeed()


@pytest.mark.parametrize("redefine", REDEFINED.values(), ids=REDEFINED)
def test_a_view_that_selects_other_rows_is_a_changed_source(
    project: Project, redefine: str
) -> None:
    open_view(project)
    project.in_source(redefine)
    project.in_source("INSERT INTO base VALUES (2)")
    error = run(project)
    assert isinstance(error, SourceChanged) and "was redefined" in str(error)
    project.succeed(accept_source=True)
    project.succeed()
    # The other table has no rows.
    project.spec({"t": {"incremental": "at", "primary_key": "id", "max_shrink": 1}})
    project.succeed(full_refresh="all")
    assert not judge(project, "t")


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_a_view_that_selects_the_same_rows_is_not(project: Project, change: str) -> None:
    open_view(project)
    if change:
        project.in_source(change)
    project.in_source("INSERT INTO base VALUES (2)")
    project.succeed()


OLDER = "INSERT INTO {} SELECT i, now() - interval '1 year' FROM generate_series(101, 150) i"
BOUNDS = "FOR VALUES FROM (100) TO (200)"
RANGES = "(id int, at timestamptz NOT NULL DEFAULT now())"
ARCHIVE = f"CREATE TABLE archive {RANGES}; " + OLDER.format("archive")
PARTITIONED = f"""CREATE TABLE q {RANGES} PARTITION BY RANGE (id);
    CREATE TABLE q0 PARTITION OF q FOR VALUES FROM (0) TO (100)"""
ATTACHED = {
    "a partition": (
        PARTITIONED.replace(" q ", " t "),
        f"{ARCHIVE}; ALTER TABLE t ATTACH PARTITION archive {BOUNDS}",
    ),
    "a partition of a partition": (
        PARTITIONED.replace(" q ", " t ")
        + f"; CREATE TABLE q1 PARTITION OF t {BOUNDS} PARTITION BY RANGE (id)",
        f"{ARCHIVE}; ALTER TABLE q1 ATTACH PARTITION archive {BOUNDS}",
    ),
    "a child": (f"CREATE TABLE t {RANGES}", f"{ARCHIVE}; ALTER TABLE archive INHERIT t"),
    "a partition below a view": (
        PARTITIONED + "; CREATE VIEW t AS SELECT * FROM q",
        f"{ARCHIVE}; ALTER TABLE q ATTACH PARTITION archive {BOUNDS}",
    ),
    "an exchanged partition": (
        PARTITIONED.replace(" q ", " t ") + f"; CREATE TABLE q1 PARTITION OF t {BOUNDS}",
        f"ALTER TABLE t DETACH PARTITION q1; {ARCHIVE};"
        f" ALTER TABLE t ATTACH PARTITION archive {BOUNDS}",
    ),
}


@pytest.mark.parametrize("create, attach", ATTACHED.values(), ids=ATTACHED)
def test_rows_of_an_attached_table_are_read_although_they_are_below_the_watermark(
    project: Project, monkeypatch: pytest.MonkeyPatch, create: str, attach: str
) -> None:
    project.in_source(create)
    project.in_source("INSERT INTO t VALUES (1), (2)")
    spec(project)
    project.succeed()
    project.in_source(attach)
    with monkeypatch.context() as patch:  # the control
        patch.setattr(identity, "new_leaves", lambda *_: ())
        project.succeed()
        assert judge(project, "t").lost == 50
    project.in_source("INSERT INTO t VALUES (3)")
    project.succeed()
    assert not judge(project, "t")
    project.in_source("INSERT INTO t VALUES (4)")
    results = project.run()
    assert "1 row," in results["extract.extract_t"].result.message  # type: ignore[union-attr]


AGAIN = {
    "a partition": (
        ATTACHED["a partition"][0] + f"; CREATE TABLE again PARTITION OF t {BOUNDS}",
        "ALTER TABLE t DETACH PARTITION again",
        f"ALTER TABLE t ATTACH PARTITION again {BOUNDS}",
    ),
    "a child": (
        f"CREATE TABLE t {RANGES}; CREATE TABLE again () INHERITS (t)",
        "ALTER TABLE again NO INHERIT t",
        "ALTER TABLE again INHERIT t",
    ),
}


@pytest.mark.parametrize("create, detach, attach", AGAIN.values(), ids=AGAIN)
def test_rows_that_a_partition_got_while_it_was_detached_are_read(
    project: Project, create: str, detach: str, attach: str
) -> None:
    project.in_source(create)
    project.in_source("INSERT INTO t VALUES (1), (2)")
    spec(project)
    project.succeed()
    project.in_source(detach)
    project.in_source(OLDER.format("again"))
    project.in_source(attach)
    project.succeed()
    assert not judge(project, "t")


@pytest.mark.parametrize("form", ["a partition", "a partition below a view"])
def test_an_interval_does_not_hide_an_attached_partition(project: Project, form: str) -> None:
    create, attach = ATTACHED[form]
    project.in_source(create)
    project.in_source("INSERT INTO t VALUES (1), (2)")
    spec(project)
    project.succeed()
    project.in_source(attach)
    project.in_source("UPDATE t SET at = '2020-01-01' WHERE id = 1")
    project.succeed(
        interval_start="2019-01-01T00:00:00Z",
        interval_end="2021-01-01T00:00:00Z",
        explicit_interval=True,
    )
    assert judge(project, "t").lost == 50
    project.succeed()
    assert not judge(project, "t")


def test_a_view_that_takes_the_place_of_a_table_is_a_changed_source(project: Project) -> None:
    project.in_source(BASE)
    project.in_source("CREATE TABLE t (LIKE base INCLUDING ALL); INSERT INTO t VALUES (1)")
    spec(project)
    project.succeed()
    project.in_source("ALTER TABLE t RENAME TO old; CREATE VIEW t AS SELECT id, at FROM old")
    error = run(project)
    assert isinstance(error, SourceChanged) and "a view has taken the place" in str(error)


def test_rows_attached_below_the_watermark_of_an_appended_table_are_refused(
    project: Project,
) -> None:
    create, attach = ATTACHED["a partition"]
    project.in_source(create)
    project.in_source("INSERT INTO t VALUES (1), (2)")
    project.spec({"t": {"incremental": "at", "mode": "append"}})
    project.succeed()
    project.in_source(attach)
    error = run(project)
    assert isinstance(error, Refused) and "archive was attached since the last load" in str(error)
    project.succeed(full_refresh="all")
    assert not judge(project, "t")


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_a_partition_for_the_next_month_changes_nothing(project: Project, mode: str) -> None:
    project.in_source(ATTACHED["a partition"][0])
    project.in_source("INSERT INTO t VALUES (1), (2)")
    project.spec({"t": {"incremental": "at", "mode": mode, "primary_key": "id"}})
    project.succeed()
    project.in_source(f"CREATE TABLE next PARTITION OF t {BOUNDS}")
    assert project.succeed()["extract.extract_t"] == "skipped"
    project.in_source("INSERT INTO t VALUES (101), (102)")
    project.succeed()
    assert not judge(project, "t")
