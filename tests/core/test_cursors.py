"""Cursors that need more than their values: rows that share the watermark's value, times without a
zone, initial values that change, sequences that are set back."""

from __future__ import annotations

import re

import psycopg
import pytest

from loadsheet.errors import Refused, SourceChanged
from loadsheet.outcome import Outcome
from loadsheet.source import bounds
from loadsheet.source.window import Window
from tests.faults.oracle import Verdict, judge
from tests.project import Project


def outcome(project: Project, table: str, **request: object) -> Outcome:
    result = project.run(**request)[f"extract.extract_{table}"].result
    assert isinstance(result, Outcome), result
    return result


def refusal(project: Project, table: str = "t", **request: object) -> Exception:
    result = project.run(**request)[f"extract.extract_{table}"].result
    assert isinstance(result, Exception), result
    return result


# Ties ---------------------------------------------------------------------------------------------

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


# Zones --------------------------------------------------------------------------------------------

ZONELESS = "CREATE TABLE t (id int PRIMARY KEY, at timestamp NOT NULL DEFAULT localtimestamp)"


def zone_of(project: Project, place: str) -> str:
    """The statement that sets a zone for a database or for one of its roles."""
    database = project.source.rsplit("/", 1)[1]
    role = f"writer_{database}"
    return {
        "database": f"ALTER DATABASE {database} SET timezone = 'America/New_York'",
        "role": f"CREATE ROLE {role}; ALTER ROLE {role} SET timezone = 'Asia/Tokyo'",
        "role here": f"CREATE ROLE {role}; ALTER ROLE {role} IN DATABASE {database}"
        " SET \"TimeZone\" = 'America/New_York'",
    }[place]


@pytest.mark.parametrize(
    "place, type_name",
    [("database", "timestamp"), ("role", "date"), ("role here", "timestamp(0)")],
)
def test_a_cursor_without_a_zone_is_trusted_only_in_utc(
    project: Project, place: str, type_name: str
) -> None:
    project.in_source(f"CREATE TABLE t (id int PRIMARY KEY, at {type_name} NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, '2026-01-01')")
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.in_source(zone_of(project, place))
    try:
        error = refusal(project)
        assert isinstance(error, Refused)
        assert "at has no time zone, so without more it is trusted only where every" in str(error)
        assert f"{place.removesuffix(' here')} " in str(error)
        assert "incremental.time_zone: A" in str(error)
        assert "incremental.lookback" in str(error)
        plan = project.cli("plan", "shop", "--connect")
        assert plan.returncode == 1 and "at has no time zone" in plan.stdout.replace("\n", " ")
        project.spec({"t": {"incremental": {"cursor": "at", "lookback": "2d"}}})
        project.succeed()
        project.spec({"t": {"incremental": {"cursor": "at", "time_zone": "UTC"}}})
        project.succeed()
    finally:
        if place != "database":
            project.in_source(f"DROP ROLE writer_{project.source.rsplit('/', 1)[1]}")


def test_a_server_whose_zone_a_client_hides_is_not_trusted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.in_source(ZONELESS)
    project.spec({"t": {"incremental": "at"}})
    monkeypatch.setenv("PGTZ", "UTC")
    error = refusal(project)
    assert "the zone of the server cannot be seen" in str(error)


def test_a_role_ahead_of_utc_does_not_hide_the_rows_of_others(project: Project) -> None:
    """With a lookback, all zones that can be seen bound the watermark."""
    project.in_source(ZONELESS)
    project.in_source(zone_of(project, "role"))
    role = f"writer_{project.source.rsplit('/', 1)[1]}"
    try:
        project.spec({"t": {"incremental": {"cursor": "at", "lookback": "1s"}}})
        for number in range(4):
            zone = ("Asia/Tokyo", "UTC")[number % 2]
            project.in_source(f"SET timezone = '{zone}'; INSERT INTO t VALUES ({number})")
            project.succeed()
        assert not judge(project, "t")
    finally:
        project.in_source(f"DROP ROLE {role}")


def test_a_declared_zone_is_the_writers_and_another_one_is_a_changed_source(
    project: Project,
) -> None:
    project.in_source(ZONELESS)
    project.spec({"t": {"incremental": {"cursor": "at", "time_zone": "Asia/Tokyo"}}})
    for number in range(3):
        project.in_source(f"SET timezone = 'Asia/Tokyo'; INSERT INTO t VALUES ({number})")
        project.succeed()
        assert not judge(project, "t")
    # Stamped just now, it is no row from the future.
    [(behind,)] = project.in_warehouse(
        "SELECT now() - CAST(watermark AS timestamp) AT TIME ZONE 'Asia/Tokyo' < interval '1 min'"
        " FROM loadsheet.scope"
    )
    assert behind
    project.spec({"t": {"incremental": {"cursor": "at", "time_zone": "Asia/Seoul"}}})
    error = refusal(project)
    assert isinstance(error, SourceChanged)
    assert "the cursor's time zone Asia/Tokyo -> Asia/Seoul" in str(error)
    project.succeed(full_refresh="all")


def test_the_plan_of_intervals_tells_of_another_zone_as_the_run_does(project: Project) -> None:
    """The plan did not compare the zones."""
    project.in_source(ZONELESS)
    project.in_source("INSERT INTO t VALUES (1, '2026-01-01 12:00')")
    interval = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2026-01-02T00:00:00Z"}

    def spec(zone: str) -> None:
        cursor = {"cursor": "at", "by": "data_interval", "time_zone": zone}
        project.spec({"t": {"incremental": cursor}}, schedule="@daily")

    spec("Asia/Tokyo")
    project.succeed(**interval)
    assert project.cli("plan", "shop", "--connect").returncode == 0
    spec("Asia/Seoul")
    said = "the cursor's time zone Asia/Tokyo -> Asia/Seoul"
    assert said in str(refusal(project, **interval))
    planned = project.cli("plan", "shop", "--connect")
    assert planned.returncode == 1 and said in " ".join(planned.stdout.split())


@pytest.mark.parametrize(
    "cursor, said",
    [
        ("stamped", "time_zone is for a cursor without a time zone"),
        ("at", "incremental.time_zone 'Mars/Olympus' is no time zone that the source knows"),
        ("n", "time_zone is for a cursor without a time zone"),
    ],
)
def test_a_zone_that_does_not_fit_is_refused(project: Project, cursor: str, said: str) -> None:
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL, at timestamp NOT NULL,"
        " stamped timestamptz NOT NULL)"
    )
    zone = "Mars/Olympus" if cursor == "at" else "UTC"
    project.spec({"t": {"incremental": {"cursor": cursor, "time_zone": zone}}})
    assert said in str(refusal(project))


@pytest.mark.parametrize("zone", ["-5", "+05:00", "UTC+5", "<-05>+05", " UTC"])
def test_a_zone_that_is_an_offset_is_refused(project: Project, zone: str) -> None:
    """SET and AT TIME ZONE read its sign in opposite ways."""
    project.in_source(ZONELESS)
    project.spec({"t": {"incremental": {"cursor": "at", "time_zone": zone}}})
    checked = project.cli("check")
    assert checked.returncode == 2 and "the name of a time zone" in checked.stdout + checked.stderr


def test_new_leaves_out_a_cursor_whose_zone_is_not_known(project: Project) -> None:
    project.in_source(ZONELESS + "; CREATE INDEX ON t (at)")
    project.in_source("ALTER TABLE t RENAME at TO updated_at")
    project.spec({"other": None})
    project.in_source(zone_of(project, "database"))
    project.in_source(f"GRANT SELECT ON t TO {project.extractor}")
    added = project.cli("add", "shop", "t")
    assert "updated_at has no time zone" in added.stdout + added.stderr


# Initial values and sequences ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_an_initial_value_that_was_moved_back_brings_the_rows_between(
    project: Project, mode: str
) -> None:
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL UNIQUE)")
    project.in_source("INSERT INTO t SELECT i, i FROM generate_series(1, 100) i")

    def start(value: int | None) -> None:
        cursor = {"cursor": "n", **({} if value is None else {"initial_value": value})}
        project.spec({"t": {"incremental": cursor, "mode": mode}})

    for value, rows in ((61, 40), (31, 70), (80, 70), (31, 70), (21, 80), (None, 100), (50, 100)):
        start(value)
        project.succeed()
        assert project.in_warehouse("SELECT count(*) FROM staging.t") == [(rows,)], value
    start(1)
    project.in_source("INSERT INTO t VALUES (101, 101)")
    project.succeed()
    assert not judge(project, "t")


def test_the_plan_counts_the_rows_that_an_initial_value_moved_back_brings(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE t (n int PRIMARY KEY)")
    project.in_source("INSERT INTO t SELECT generate_series(1, 100)")
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 61}}})
    project.succeed()
    project.spec({"t": {"incremental": {"cursor": "n", "initial_value": 31}}})
    assert "30 rows" in project.cli("plan", "shop", "--connect").stdout


SET_BACK = {
    "setval": "SELECT setval('t_id_seq', 5)",
    "restart": "ALTER SEQUENCE t_id_seq RESTART WITH 3",
    "truncate": "TRUNCATE t RESTART IDENTITY; INSERT INTO t DEFAULT VALUES",
    "a number of its own": "INSERT INTO t VALUES (1000)",
}


@pytest.mark.parametrize("mode", ["merge", "append"])
@pytest.mark.parametrize("name", SET_BACK)
def test_a_sequence_that_is_behind_the_watermark_is_refused(
    project: Project, name: str, mode: str
) -> None:
    project.in_source("CREATE TABLE t (id bigserial PRIMARY KEY)")
    project.in_source("INSERT INTO t SELECT FROM generate_series(1, 20)")
    project.spec({"t": {"incremental": "id", "mode": mode}})
    project.succeed()
    project.in_source(SET_BACK[name])
    if name == "a number of its own":
        project.succeed()
    error = refusal(project)
    assert isinstance(error, Refused)
    assert "sequence public.t_id_seq has counted to" in str(error)
    assert "SELECT setval('public.t_id_seq'," in str(error)
    project.in_source("SELECT setval('t_id_seq', greatest(20, (SELECT max(id) FROM t)))")
    if name != "truncate":
        project.succeed()
    project.succeed(full_refresh="all")
    project.in_source("INSERT INTO t DEFAULT VALUES")
    project.succeed()
    assert not judge(project, "t")


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


@pytest.mark.parametrize("type_name", ["date", "timestamp", "timestamptz"])
def test_a_lookback_beyond_the_first_day_of_its_type_reads_all_rows(
    project: Project, type_name: str
) -> None:
    """It was an error of the server: timestamp out of range."""
    project.in_source(f"CREATE TABLE t (id int PRIMARY KEY, at {type_name} NOT NULL)")
    project.in_source("INSERT INTO t VALUES (1, '4700-01-01 BC')")
    project.spec({"t": {"incremental": {"cursor": "at", "lookback": "99999d"}}})
    project.succeed()
    project.in_source("INSERT INTO t VALUES (2, '4712-01-01 BC'), (3, '-infinity')")
    project.succeed()
    assert not judge(project, "t")


def test_a_sequence_is_compared_as_the_cursors_type_holds_its_numbers(project: Project) -> None:
    """A real rounds 16777221 up: the sequence seemed to be behind the watermark."""
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, at real NOT NULL);"
        " CREATE SEQUENCE numbers START 16777227; CREATE FUNCTION give() RETURNS trigger"
        " LANGUAGE plpgsql AS $$ BEGIN NEW.at := nextval('numbers'); RETURN NEW; END $$;"
        " CREATE TRIGGER give BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION give();"
        " INSERT INTO t VALUES (1)"
    )
    project.spec({"t": {"incremental": "at"}})
    project.succeed()
    project.succeed()
    assert not judge(project, "t")


def test_numbers_that_a_trigger_takes_in_blocks_are_refused(project: Project) -> None:
    project.in_source(
        "CREATE TABLE t (id bigint PRIMARY KEY, other int); CREATE SEQUENCE numbers CACHE 20;"
        " CREATE FUNCTION give() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.id := nextval('numbers'); RETURN NEW; END $$;"
        " CREATE TRIGGER give BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION give()"
    )
    project.spec({"t": {"incremental": "id"}})
    assert "in blocks of 20" in str(refusal(project))
    # A trigger that fills another column says nothing about the cursor.
    project.in_source("ALTER SEQUENCE numbers CACHE 1; DROP TRIGGER give ON t")
    project.succeed()


# What a cursor means, and runs that read by interval in between -----------------------------------

DAY = {"interval_start": "2026-08-01T00:00:00Z", "interval_end": "2026-08-02T00:00:00Z"}
BY_INTERVAL = {"by": "data_interval"}
# How a table is read before its columns change, and in the runs in between.
BETWEEN: dict[str, tuple[dict[str, str], list[tuple[dict[str, str], dict[str, object]]]]] = {
    "no run": ({}, []),
    "an interval that a person gives": ({}, [({}, {**DAY, "explicit_interval": True})]),
    "another way to read": ({}, [(BY_INTERVAL, DAY)]),
    "a full refresh by interval": ({}, [(BY_INTERVAL, {**DAY, "full_refresh": "all"})]),
    "an interval of a table with a watermark": (
        BY_INTERVAL,
        [({}, {**DAY, "explicit_interval": True})],
    ),
}


def read_by(project: Project, cursor: str = "at", **more: str) -> None:
    project.spec({"t": {"incremental": {"cursor": cursor, **more}}}, schedule="@daily")


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("forgets", [False, True])
def test_no_run_hides_that_the_cursor_is_another_column(
    project: Project, between: str, forgets: bool
) -> None:
    """A run of an interval recorded the new columns, and the next increment read by one of them
    above the watermark of another. An older ledger records no place of the cursor."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, other timestamptz)")
    project.in_source(
        "INSERT INTO t VALUES (1, '2026-08-01 12:00', '2026-08-01 12:00'),"
        " (2, now(), '2026-08-01 12:00')"
    )
    how, runs = BETWEEN[between]
    read_by(project, **how)
    project.succeed(**(DAY if how else {}))
    if forgets:
        project.in_warehouse(
            "UPDATE loadsheet.scope SET source = source - 'watermark_place' - 'interval_place'"
        )
    project.in_source("ALTER TABLE t RENAME at TO old; ALTER TABLE t RENAME other TO at")
    for more, request in runs:
        read_by(project, **more)
        project.succeed(**request)
    project.in_source("INSERT INTO t VALUES (3, '2026-01-01', '2026-01-01')")
    read_by(project, **how)
    found = refusal(project, **(DAY if how else {}))
    assert "cursor at is not the column at that increments were read by" in str(found)
    project.succeed(full_refresh="all")
    project.succeed(**(DAY if how else {}))
    assert not judge(project, "t")


def test_a_cursor_may_be_renamed_before_an_interval_is_read(project: Project) -> None:
    """The next increment was refused: it is the same column."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, now())")
    read_by(project)
    project.succeed()
    project.in_source("ALTER TABLE t RENAME at TO stamp")
    read_by(project, "stamp")
    project.in_source("INSERT INTO t VALUES (2, '2026-08-01 12:00')")
    project.succeed(**DAY, explicit_interval=True)
    project.in_source("INSERT INTO t VALUES (3, now())")
    project.succeed()
    assert not judge(project, "t")


def test_an_interval_of_another_cursor_keeps_the_watermarks_zone(project: Project) -> None:
    """A load by a cursor with a time zone forgot it."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamp, other timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, '2026-01-01', '2026-08-01 12:00')")
    read_by(project, time_zone="Europe/Berlin")
    project.succeed()
    read_by(project, "other", **BY_INTERVAL)
    project.succeed(**DAY)
    read_by(project, time_zone="America/New_York")
    assert "the cursor's time zone Europe/Berlin -> America/New_York" in str(refusal(project))


@pytest.mark.parametrize("then", [{}, {"lookback": "1s"}])
def test_a_lookback_that_goes_is_kept_for_one_more_run(
    project: Project, then: dict[str, str]
) -> None:
    """A row of a transaction that the last run could not see was below its watermark, and the first
    run without a lookback left it out."""
    project.in_source("CREATE TABLE t (id int PRIMARY KEY, at timestamptz)")
    project.in_source("INSERT INTO t VALUES (1, now())")
    read_by(project, lookback="1h")
    project.in_source(f"REVOKE pg_read_all_stats FROM {project.extractor}")
    project.succeed()
    with psycopg.connect(project.source) as late:
        late.execute("INSERT INTO t VALUES (2, now() - interval '1 min')")
        project.in_source("INSERT INTO t VALUES (3, clock_timestamp())")
        project.succeed()
    project.in_source(f"GRANT pg_read_all_stats TO {project.extractor}")
    read_by(project, **then)
    project.succeed()
    assert not judge(project, "t")
    if not then:
        # Once is enough.
        assert project.succeed()["extract.extract_t"] == "skipped"
