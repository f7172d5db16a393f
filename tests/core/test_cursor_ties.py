"""Rows that share the watermark's value, and values that later rows may share."""

from __future__ import annotations

import re

import psycopg
import pytest

from loadsheet.errors import SourceChanged
from loadsheet.outcome import Outcome
from loadsheet.source import bounds
from loadsheet.source.window import Window
from tests.core.cursors import refusal
from tests.faults.oracle import Verdict, judge
from tests.project import Project


def outcome(project: Project, table: str, **request: object) -> Outcome:
    result = project.run(**request)[f"extract.extract_{table}"].result
    assert isinstance(result, Outcome), result
    return result


# The type, the value that many rows share, and a higher one.
KINDS = {
    "days": ("date", "current_date - 1", "current_date"),
    "months": (
        "timestamptz",
        "date_trunc('month', now() - interval '32 d')",
        "date_trunc('month', now())",
    ),
    "minutes": ("timestamptz(0)", "'2026-01-01 10:05'", "'2026-01-01 10:10'"),
    "zoneless": ("timestamp", "'2026-01-01 10:05'", "'2026-01-01 10:10'"),
    "unix": ("bigint", "1760000000", "1760000001"),
    "batch": ("int", "7", "8"),
    "scaled": ("numeric(10, 1)", "7.5", "8"),
    "float": ("float8", "7.5", "8"),
}
# Every kind in a table, and two of them in every form.
# A table by its name, its cursor's type and whether it has a key.
FORMS = {
    "table": "CREATE TABLE {t} (id int {key}, what text, at {type} NOT NULL)",
    "partitions": "CREATE TABLE {t} (id int {key}, what text, at {type} NOT NULL)"
    " PARTITION BY RANGE (id); CREATE TABLE {t}_all PARTITION OF {t} DEFAULT",
    "heirs": "CREATE TABLE {t}_base (id int, what text, at {type} NOT NULL);"
    " CREATE TABLE {t} () INHERITS ({t}_base)",
    "view": "CREATE TABLE {t}_base (id int, what text, at {type} NOT NULL);"
    " CREATE VIEW {t} AS SELECT * FROM {t}_base",
    "index": "CREATE TABLE {t} (id int {key}, what text, at {type} NOT NULL);"
    " CREATE INDEX ON {t} (at)",
}
MERGED = {f"{kind}_table": (kind, "table") for kind in KINDS}
MERGED |= {f"{kind}_{form}": (kind, form) for kind in ("days", "batch") for form in FORMS}


def insert(project: Project, ids: range, value: int) -> None:
    """Rows in every table, with the kind's lower (1) or higher (2) value."""
    statements = []
    for table, (kind, form) in MERGED.items():
        rows = ", ".join(f"({number}, 'new', {KINDS[kind][value]})" for number in ids)
        statements.append(f"INSERT INTO {stored(table, form)} VALUES {rows}")
    project.in_source("; ".join(statements))


def stored(table: str, form: str) -> str:
    return f"{table}_base" if form == "view" else table


@pytest.fixture
def tied(project: Project) -> Project:
    for table, (kind, form) in MERGED.items():
        project.in_source(FORMS[form].format(t=table, key="PRIMARY KEY", type=KINDS[kind][0]))
    merged = {"incremental": "at", "mode": "merge", "primary_key": "id"}
    project.spec({table: {**merged} for table in MERGED})
    return project


def lost(project: Project) -> dict[str, int]:
    verdicts = {table: judge(project, table) for table in MERGED}
    return {table: verdict.lost for table, verdict in verdicts.items() if verdict}


@pytest.mark.timeout(180)
def test_rows_that_share_the_watermark_are_read_when_they_come(tied: Project) -> None:
    insert(tied, range(1, 4), 1)
    tied.succeed()
    insert(tied, range(4, 7), 1)
    tied.in_source(
        "; ".join(
            f"UPDATE {stored(table, form)} SET what = 'changed' WHERE id = 1"
            for table, (_, form) in MERGED.items()
        )
    )
    tied.succeed()
    assert lost(tied) == {}
    steps = tied.succeed()
    assert {state for step, state in steps.items() if step.startswith("extract")} == {"skipped"}
    # Rows of the last value and of a higher one come together.
    insert(tied, range(7, 9), 1)
    insert(tied, range(9, 11), 2)
    tied.succeed()
    assert lost(tied) == {}


def test_a_reader_above_the_watermark_alone_loses_rows_that_share_it(
    tied: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(Window, "_reads_ties", False)
    insert(tied, range(1, 4), 1)
    tied.succeed()
    insert(tied, range(4, 7), 1)
    tied.succeed()
    assert lost(tied) == dict.fromkeys(MERGED, 3)


def test_rows_of_a_transaction_with_savepoints_that_share_the_watermark_are_read(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at int NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, 7)")
    project.spec({"t": {"incremental": {"cursor": "at", "hold_back": "0s"}}})
    with psycopg.connect(project.source) as writer:
        writer.execute("SAVEPOINT a; INSERT INTO t VALUES (2, 7); RELEASE a")
        project.succeed()
    project.succeed()
    assert not judge(project, "t")


def test_a_unique_value_that_is_used_again_is_read(project: Project) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at bigserial UNIQUE)")
    project.in_source("INSERT INTO t VALUES (1, 1), (2, 2)")
    project.in_source("SELECT setval('t_at_seq', 2)")
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.in_source("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 2)")
    project.succeed()
    assert judge(project, "t") == Verdict(rows=2, doubled=1)  # the row that was deleted


def test_an_interval_does_not_hide_rows_that_share_the_watermark(project: Project) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at int NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, 7), (2, 1)")
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    # As an older version has left it.
    project.in_warehouse("UPDATE loadsheet.scope SET source = source - 'oldest_transaction'")
    project.in_source("INSERT INTO t VALUES (3, 7); UPDATE t SET at = 2 WHERE id = 2")
    project.succeed(interval_start="0", interval_end="5", explicit_interval=True)
    assert judge(project, "t").lost == 1
    project.succeed()
    assert not judge(project, "t")


def test_rows_that_share_the_watermark_are_read_again_from_an_accepted_source(
    project: Project,
) -> None:
    """Its numbers of transactions are no longer those that were recorded."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at int NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, 7)")
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.in_source("INSERT INTO t VALUES (2, 7)")
    project.in_warehouse(
        "UPDATE loadsheet.scope SET source = source || jsonb_build_object('oldest_transaction',"
        " (SELECT (CAST(source ->> 'oldest_transaction' AS bigint) + 1000)::text),"
        " 'system_identifier', '1')"
    )
    assert isinstance(refusal(project), SourceChanged)
    project.succeed(accept_source=True)
    assert not judge(project, "t")


def test_rows_of_an_attached_partition_that_share_the_watermark_are_read(project: Project) -> None:
    project.in_source(
        "CREATE TABLE t (id int, part int, at int NOT NULL, PRIMARY KEY (id, part))"
        " PARTITION BY LIST (part); CREATE TABLE one PARTITION OF t FOR VALUES IN (1);"
        " CREATE TABLE two (LIKE t INCLUDING ALL); INSERT INTO two VALUES (2, 2, 7), (3, 2, 6);"
        " INSERT INTO t VALUES (1, 1, 7)"
    )
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.in_source("ALTER TABLE t ATTACH PARTITION two FOR VALUES IN (2)")
    project.succeed()
    assert not judge(project, "t")


UNIQUE = {
    "a primary key": "CREATE TABLE t (at bigint PRIMARY KEY)",
    "a unique index": "CREATE TABLE t (at bigint); CREATE UNIQUE INDEX ON t (at)",
    "with more columns in its leaves": "CREATE TABLE t (at bigint, b int);"
    " CREATE UNIQUE INDEX ON t (at) INCLUDE (b)",
    "of a partitioned table": "CREATE TABLE t (at bigint PRIMARY KEY) PARTITION BY HASH (at)",
    "an identity": "CREATE TABLE t (at bigint GENERATED ALWAYS AS IDENTITY)",
    "a serial": "CREATE TABLE t (at bigserial)",
}
NOT_UNIQUE = {
    "none": "CREATE TABLE t (at bigint)",
    "two columns": "CREATE TABLE t (at bigint, b int, UNIQUE (at, b))",
    "some rows": "CREATE TABLE t (at bigint); CREATE UNIQUE INDEX ON t (at) WHERE at > 5",
    "an expression": "CREATE TABLE t (at bigint); CREATE UNIQUE INDEX ON t ((at + 1))",
    "deferrable": "CREATE TABLE t (at bigint UNIQUE DEFERRABLE)",
    "a parent's": "CREATE TABLE t (at bigint PRIMARY KEY); CREATE TABLE c () INHERITS (t)",
    "a view": "CREATE TABLE b (at bigint PRIMARY KEY); CREATE VIEW t AS SELECT * FROM b",
}


@pytest.mark.parametrize("name", [*UNIQUE, *NOT_UNIQUE])
def test_an_append_holds_back_a_value_that_later_rows_may_share(
    project: Project, name: str
) -> None:
    project.in_source({**UNIQUE, **NOT_UNIQUE}[name])
    if name == "of a partitioned table":
        project.in_source("CREATE TABLE p PARTITION OF t FOR VALUES WITH (modulus 1, remainder 0)")
    base = "b" if name == "a view" else "t"
    override = "OVERRIDING SYSTEM VALUE" if name == "an identity" else ""
    project.in_source(f"INSERT INTO {base} (at) {override} VALUES (1), (2)")
    project.spec({"t": {"incremental": "at", "mode": "append"}})
    project.succeed()
    waits = name in NOT_UNIQUE
    assert judge(project, "t").lost == (1 if waits else 0)
    if not waits:
        return
    said = outcome(project, "t").message
    assert "1 row waits, because later rows may share their at, for example 2" in said
    if base == "t" and name == "none":
        project.in_source("INSERT INTO t VALUES (2)")
    project.in_source(f"INSERT INTO {base} (at) VALUES (3)")
    project.succeed()
    verdict = judge(project, "t", where="at < 3")
    assert not verdict, verdict


@pytest.mark.parametrize("default", ["txid_current()", "extract(epoch FROM now())"])
def test_a_number_that_rises_but_not_with_each_row_may_be_shared(
    project: Project, default: str
) -> None:
    project.in_source(
        f"CREATE TABLE t (id int, at bigint DEFAULT {default}); INSERT INTO t VALUES (1, 0), (2, 1)"
    )
    project.spec({"t": {"incremental": "at", "mode": "append"}})
    project.succeed()
    assert project.in_warehouse("SELECT id FROM staging.t") == [(1,)]


@pytest.mark.parametrize("form", ["UNIQUE", "GENERATED ALWAYS AS IDENTITY"])
def test_an_append_by_a_cursor_that_is_no_longer_unique_is_refused(
    project: Project, form: str
) -> None:
    project.in_source(f"CREATE TABLE t (id int, at bigint NOT NULL {form})")
    project.in_source("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 1), (2, 2)")
    if form != "UNIQUE":
        project.in_source("SELECT setval('t_at_seq', 2)")
    project.spec({"t": {"incremental": "at", "mode": "append"}})
    project.succeed()
    drop = "DROP CONSTRAINT t_at_key" if form == "UNIQUE" else "ALTER at DROP IDENTITY"
    project.in_source(f"ALTER TABLE t {drop}; INSERT INTO t VALUES (3, 2), (4, 3)")
    assert "at was unique when rows were appended up to 2" in str(refusal(project))
    project.succeed(full_refresh="all")
    project.in_source("INSERT INTO t VALUES (5, 3), (6, 4)")
    project.succeed()
    assert not judge(project, "t", where="at < 4")


# A value, the next lower one, the clock, and whether rows stamped by it may share the value.
@pytest.mark.parametrize(
    "value, below, clock, shared",
    [
        ("2026-05-05 12:05", "2026-05-05 12:00", "2026-05-05 12:09:59", True),
        ("2026-05-05 12:05", "2026-05-05 12:00", "2026-05-05 12:11", False),
        ("2026-05-05 12:00", "2026-05-05 11:00", "2026-05-05 12:59", True),
        ("2026-05-05 12:00", "2026-05-05 11:00", "2026-05-05 13:08", False),
        ("2026-05-04 00:00", "2026-04-27 00:00", "2026-05-10 23:59", True),  # weeks
        ("2026-03-01 00:00", "2026-02-01 00:00", "2026-03-31 23:59", True),  # 28 days, then 31
        ("2026-07-01 00:00", "2026-04-01 00:00", "2026-09-30 23:59", True),  # quarters
        ("2026-01-01 00:00", "2025-01-01 00:00", "2026-12-31 23:59", True),
        ("2026-10-24 18:15", "2026-10-23 18:15", "2026-10-25 18:14", True),  # Kathmandu's days
        ("2026-05-05 12:00", None, "2027-05-05 12:00", True),
        ("2026-05-05 12:07", None, "2026-05-05 13:08", False),
        ("2026-05-05 12:07:30", None, "2026-05-05 12:08:29", True),
        ("2026-05-05 12:07:30", "2026-05-05 12:07:29", "2026-05-05 12:07:32", False),
        ("2026-05-05 12:07:30.5", None, "2026-05-05 12:07:32", False),
        ("2026-05-05 12:07:30.123", None, "2026-05-05 12:07:30.130", True),
        ("2026-05-05 12:07:30.123", None, "2026-05-05 12:07:30.134", False),
        ("2026-05-05 12:07:30.12", None, "2026-05-05 12:07:30.219", True),
    ],
)
def test_a_time_that_was_cut_off_is_shared_until_its_bucket_has_ended(
    project: Project, value: str, below: str | None, clock: str, shared: bool
) -> None:
    with psycopg.connect(project.source) as session:
        assert bounds.is_shared(session, "timestamptz", value, below, [clock]) is shared


@pytest.mark.parametrize("type_name", ["date", "timestamp(0)", "timestamptz(0)"])
def test_an_append_counts_the_rows_that_wait_for_their_unit_to_end(
    project: Project, type_name: str
) -> None:
    """The message was silent about them."""
    project.in_source(f"CREATE TABLE t (at {type_name} NOT NULL)")
    project.in_source(
        # Not a whole hour: rows with such a time may wait for a larger unit to end.
        "INSERT INTO t SELECT date_trunc('hour', now()) - interval '71:52:47'"
        " FROM generate_series(1, 2);"
        # A second ends soon: the next ones count as written now, too.
        "INSERT INTO t SELECT now() + n * interval '1 s' FROM generate_series(0, 600) n"
    )
    project.spec({"t": {"incremental": "at", "mode": "append"}})
    said = outcome(project, "t").message
    waiting = r"\d+ rows? waits?, because later rows may share their at, for example 2"
    assert re.search(waiting, said)
    project.in_source("DELETE FROM t WHERE at > now() - interval '2 d'")
    project.spec(
        {"t": {"incremental": "at", "mode": "append"}},
        warehouse={"conn_id": "warehouse", "schema": "other"},
    )
    assert "wait" not in outcome(project, "t").message
