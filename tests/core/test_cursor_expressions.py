"""Cursors whose values an expression gives: a row that is committed late may lie below the
watermark. What is known to give the time or the number of writing is read; all else needs a
lookback."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from loadsheet.errors import Refused
from loadsheet.source import origins
from tests.core.expressions import column, entry, errors_of_plan, named, names
from tests.faults.oracle import judge
from tests.project import Project

# The table `base` has columns of every kind; `t` is what is read.
BASE = """
CREATE TABLE base (
    id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    local timestamp NOT NULL DEFAULT localtimestamp, changed timestamptz,
    rough timestamptz(0) NOT NULL DEFAULT now(), n bigserial, ":varno" int
);
CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now()';
"""
A_VIEW = "CREATE VIEW t AS "
UTC = {"time_zone": "UTC"}
NEW_YORK = {"time_zone": "America/New_York"}
Case = tuple[str, dict[str, Any]]


KNOWN: dict[str, Case] = {
    "no default": (column("at timestamptz"), {}),
    "now": (column("at timestamptz DEFAULT now()"), {}),
    "current_timestamp": (column("at timestamptz(3) DEFAULT CURRENT_TIMESTAMP"), {}),
    "current_timestamp(3)": (column("at timestamptz(3) DEFAULT CURRENT_TIMESTAMP(3)"), {}),
    "statement": (column("at timestamptz DEFAULT statement_timestamp()"), {}),
    "transaction": (column("at timestamp(0) DEFAULT transaction_timestamp()"), {}),
    "local": (column("at timestamp DEFAULT LOCALTIMESTAMP"), {}),
    "local cast": (column("at timestamp(3) DEFAULT now()::timestamp(3)"), {}),
    "today": (column("at date DEFAULT CURRENT_DATE"), {}),
    "now as a day": (column("at date DEFAULT now()::date"), {}),
    "now into a day": (column("at date DEFAULT now()"), {}),
    "utc": (column("at timestamp DEFAULT (now() AT TIME ZONE 'utc')"), {}),
    "utc by name": (column("at timestamp DEFAULT timezone('Etc/UTC', now())"), UTC),
    "utc into a zone": (column("at timestamptz DEFAULT timezone('utc', now())"), {}),
    "the day in utc": (column("at date DEFAULT (now() AT TIME ZONE 'UTC')::date"), {}),
    "a named zone": (
        column("at timestamp DEFAULT (now() AT TIME ZONE 'America/New_York')"),
        NEW_YORK,
    ),
    "a constant": (column("at timestamptz DEFAULT '1970-01-01'"), {}),
    "an epoch": (column("at timestamptz DEFAULT to_timestamp(0)"), {}),
    "null": (column("at timestamptz DEFAULT NULL"), {}),
    "a domain": ("CREATE DOMAIN d AS timestamp DEFAULT localtimestamp;" + column("at d"), {}),
    "a generated day": (
        column("made timestamp DEFAULT now(), at date GENERATED ALWAYS AS (made::date) STORED"),
        {},
    ),
    "a generated day in utc": (
        column(
            "made timestamptz DEFAULT now(),"
            " at date GENERATED ALWAYS AS ((made AT TIME ZONE 'UTC')::date) STORED"
        ),
        {},
    ),
    "a generated copy": (
        column(
            "made timestamptz DEFAULT now(), updated timestamptz,"
            " at timestamptz GENERATED ALWAYS AS (coalesce(updated, made)) STORED"
        ),
        {},
    ),
    "zero": (column("at int DEFAULT 0"), {}),
    "minus one": (column("at int DEFAULT -1"), {}),
    "a sequence": ("CREATE SEQUENCE s;" + column("at bigint DEFAULT nextval('s')"), {}),
    "a sequence with quotes and a backslash": (
        """CREATE SEQUENCE "it's a \\";"""
        + column("""at bigint DEFAULT nextval('"it''s a \\"')"""),
        {},
    ),
    "a cast sequence": ("CREATE SEQUENCE s;" + column("at int DEFAULT nextval('s')::int"), {}),
    "a numeric sequence": ("CREATE SEQUENCE s;" + column("at numeric DEFAULT nextval('s')"), {}),
    "unix seconds": (column("at bigint DEFAULT extract(epoch FROM now())"), {}),
    "unix seconds cast": (column("at bigint DEFAULT extract(epoch FROM now())::bigint"), {}),
    "unix milliseconds": (
        column("at bigint DEFAULT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"),
        {},
    ),
    "unix float": (column("at bigint DEFAULT date_part('epoch', now()) * 1000"), {}),
    "a transaction's id": (column("at bigint DEFAULT txid_current()"), {}),
    "a view": (A_VIEW + "SELECT id, at FROM base", {}),
    "a renamed column": (A_VIEW + "SELECT id, changed AS at FROM base", {"nulls": "exclude"}),
    "a view of a view": (
        "CREATE VIEW v AS SELECT * FROM base; CREATE VIEW t AS SELECT id, at FROM v",
        {},
    ),
    "a subquery": (A_VIEW + "SELECT id, at FROM (SELECT * FROM base OFFSET 0) b", {}),
    "with": (A_VIEW + "WITH b AS (SELECT * FROM base), c AS (TABLE b) SELECT id, at FROM c", {}),
    "a union": (
        A_VIEW + "SELECT id, at FROM base UNION ALL SELECT -id, at FROM base UNION ALL"
        " SELECT id + 1000, at FROM base",
        {},
    ),
    "coalesce": (A_VIEW + "SELECT id, coalesce(changed, at) AS at FROM base", {}),
    "greatest": (A_VIEW + "SELECT id, greatest(at, changed) AS at FROM base", {}),
    "a day": (A_VIEW + "SELECT id, local::date AS at FROM base", {}),
    "a day of our zone": (A_VIEW + "SELECT id, at::date AS at FROM base", {}),
    "local time in utc": (A_VIEW + "SELECT id, at AT TIME ZONE 'UTC' AS at FROM base", {}),
    "local time in the zone": (
        A_VIEW + "SELECT id, at AT TIME ZONE 'America/New_York' AS at FROM base",
        NEW_YORK,
    ),
    "a wider number": (A_VIEW + "SELECT id, id::bigint AS at FROM base", {}),
    "numbers of two types": (
        A_VIEW + "SELECT id, n AS at FROM base UNION ALL SELECT -id, n::numeric FROM base",
        {},
    ),
    "a generated number": (
        column("n bigserial, at numeric GENERATED ALWAYS AS (n) STORED"),
        {},
    ),
    "a domain that draws": (
        "CREATE SEQUENCE s; CREATE DOMAIN d AS bigint DEFAULT nextval('s');" + column("at d"),
        {},
    ),
    "partitions of one clock": (
        "CREATE TABLE t (id int, at bigint DEFAULT extract(epoch FROM now()))"
        " PARTITION BY LIST (id); CREATE TABLE p PARTITION OF t"
        " (at DEFAULT extract(epoch FROM clock_timestamp())) DEFAULT",
        {},
    ),
    "a partition without the default": (
        "CREATE TABLE t (id int, at bigserial) PARTITION BY LIST (id);"
        "CREATE TABLE p (id int, at bigint NOT NULL); ALTER TABLE t ATTACH PARTITION p DEFAULT",
        {},
    ),
    "tables that draw from one sequence": (
        "CREATE SEQUENCE s; CREATE TABLE v (id int, at bigint DEFAULT nextval('s'));"
        "CREATE TABLE p (id int, at numeric DEFAULT 0, n bigint DEFAULT nextval('s'));"
        "CREATE VIEW t AS TABLE v UNION ALL SELECT -id, n FROM p",
        {},
    ),
    "partitions": (
        "CREATE TABLE t (id int, at timestamptz DEFAULT now()) PARTITION BY LIST (id);"
        "CREATE TABLE p PARTITION OF t (at DEFAULT statement_timestamp()) DEFAULT",
        {},
    ),
}
PARTS = "CREATE TABLE {} (id int, at timestamptz DEFAULT {}) PARTITION BY LIST (id);"
EARLIER = "now() - interval '1 hour'"
# What is refused, and what the message names.
UNKNOWN: dict[str, tuple[str, str]] = {
    "an earlier time": (column(f"at timestamptz DEFAULT {EARLIER}"), "(now() - '01:00:00'"),
    "a later time": (column("at timestamptz DEFAULT now() + interval '1 hour'"), "(now() + "),
    "the beginning of a day": (
        column("at timestamptz DEFAULT date_trunc('day', now())"),
        "t.at has the default date_trunc('day'::text, now())",
    ),
    "today at midnight": (column("at timestamptz DEFAULT CURRENT_DATE"), "CURRENT_DATE"),
    "yesterday": (column("at date DEFAULT CURRENT_DATE - 1"), "(CURRENT_DATE - 1)"),
    "a rounded time": (column("at timestamptz DEFAULT CURRENT_TIMESTAMP(0)"), "(0)"),
    "a rounded cast": (column("at timestamptz DEFAULT now()::timestamptz(0)"), "(0)"),
    "the time of a zone": (
        column("at timestamp DEFAULT (now() AT TIME ZONE 'America/New_York')"),
        "or its time zone (incremental.time_zone: America/New_York)",
    ),
    "the wrong zone": (
        column("at timestamptz DEFAULT timezone('Asia/Tokyo', now())"),
        "Asia/Tokyo",
    ),
    "a zone there and back": (
        column("at timestamp DEFAULT timezone('utc', timezone('Asia/Tokyo', now()::timestamp))"),
        "Asia/Tokyo",
    ),
    "local time with a zone": (column("at timestamptz DEFAULT LOCALTIMESTAMP"), "LOCALTIMESTAMP"),
    "a text": (column("at timestamptz DEFAULT 'now'::text::timestamptz"), "'now'"),
    "a function": (
        column("at timestamptz DEFAULT public.now()"),
        "public.now()",
    ),
    "a domain's default": (
        f"CREATE DOMAIN d AS timestamptz DEFAULT {EARLIER};" + column("at d"),
        "01:00:00",
    ),
    "a partition's default": (
        PARTS.format("t", "now()")
        + f"CREATE TABLE p PARTITION OF t (at DEFAULT {EARLIER}) DEFAULT",
        "p.at has the default",
    ),
    "a default above": (
        PARTS.format("whole", EARLIER) + "CREATE TABLE t PARTITION OF whole (at DEFAULT now())"
        " DEFAULT",
        "whole.at has the default",
    ),
    "generated": (
        column(
            "made timestamptz DEFAULT now(), at timestamp GENERATED ALWAYS AS"
            " (made AT TIME ZONE 'America/New_York') STORED"
        ),
        "t.at is generated",
    ),
    "generated from a shifted one": (
        column(
            f"made timestamptz DEFAULT {EARLIER}, at date GENERATED ALWAYS AS"
            " ((made AT TIME ZONE 'UTC')::date) STORED"
        ),
        "t.made has the default",
    ),
    "a sequence's rest": ("CREATE SEQUENCE s;" + column("at int DEFAULT nextval('s') % 10"), "% "),
    "a sequence with a backslash and its rest": (
        """CREATE SEQUENCE "s\\";""" + column("""at int DEFAULT nextval('"s\\"') % 10"""),
        "% ",
    ),
    "a sequence's tenth": ("CREATE SEQUENCE s;" + column("at int DEFAULT nextval('s') / 10"), "/ "),
    "a negative sequence": ("CREATE SEQUENCE s;" + column("at int DEFAULT -nextval('s')"), "- "),
    "the current number": (
        "CREATE SEQUENCE s;" + column("at bigint DEFAULT currval('s')"),
        "currval",
    ),
    "a sequence by a text": (
        "CREATE SEQUENCE s;" + column("at bigint DEFAULT nextval('s'::text)"),
        "::text",
    ),
    "a sequence in too few digits": (
        "CREATE SEQUENCE s;" + column("at real DEFAULT nextval('s')"),
        "nextval",
    ),
    "a random number": (column("at int DEFAULT random() * 1000"), "random()"),
    "falling seconds": (column("at bigint DEFAULT -extract(epoch FROM now())"), "EXTRACT"),
    "seconds of an earlier time": (
        column(f"at bigint DEFAULT extract(epoch FROM {EARLIER})"),
        "EXTRACT",
    ),
    "a rest of seconds": (
        column("at bigint DEFAULT (extract(epoch FROM now()) * 1000)::bigint % 1000"),
        "EXTRACT",
    ),
    "a view with a zone": (
        A_VIEW + "SELECT id, local::timestamptz AS at FROM base",
        "view public.t",
    ),
    "a view in a zone": (
        A_VIEW + "SELECT id, at AT TIME ZONE 'America/New_York' AS at FROM base",
        "view public.t computes it: name a plain column, or its time zone (incremental.time_zone:"
        " America/New_York)",
    ),
    "a view with an offset": (
        A_VIEW + "SELECT id, at + interval '1 h' AS at FROM base",
        "view public.t computes it",
    ),
    "a view with a beginning": (
        A_VIEW + "SELECT id, date_trunc('month', at) AS at FROM base",
        "view public.t",
    ),
    "a view below": (
        "CREATE VIEW v AS SELECT id, at - interval '1 h' AS at FROM base;"
        "CREATE VIEW t AS SELECT * FROM v",
        "view public.v computes it",
    ),
    "a view with a default": (
        A_VIEW + f"SELECT id, at FROM base; ALTER VIEW t ALTER at SET DEFAULT {EARLIER}",
        "t.at has the default",
    ),
    "a view of a shifted column": (
        f"CREATE TABLE whole (id int, at timestamptz DEFAULT {EARLIER});"
        "CREATE VIEW t AS SELECT * FROM whole",
        "whole.at has the default",
    ),
    "a branch of a union": (
        A_VIEW + "SELECT id, at FROM base UNION ALL SELECT -id, at - interval '1 h' FROM base",
        "view public.t",
    ),
    "a branch of another type": (
        A_VIEW + "SELECT id, at FROM base UNION ALL SELECT -id, local FROM base",
        "base.local, which is timestamp without time zone",
    ),
    "a rounded branch": (
        A_VIEW + "SELECT id, at FROM base UNION ALL SELECT -id, rough FROM base",
        "base.rough",
    ),
    "a rounded part": (
        A_VIEW + "SELECT id, coalesce(changed, rough) AS at FROM base",
        "base.rough",
    ),
    "the least": (A_VIEW + "SELECT id, least(at, changed) AS at FROM base", "view public.t"),
    "coalesce with a constant": (
        A_VIEW + "SELECT id, coalesce(changed, '2020-01-01') AS at FROM base",
        "view public.t",
    ),
    "a case": (
        A_VIEW + "SELECT id, CASE WHEN id > 0 THEN at ELSE changed END AS at FROM base",
        "view public.t",
    ),
    "an aggregate": (
        A_VIEW + "SELECT id % 10 AS id, max(at) AS at FROM base GROUP BY 1",
        "view public.t",
    ),
    "recursion": (
        A_VIEW + "WITH RECURSIVE r AS (SELECT id, at FROM base UNION ALL"
        " SELECT id + 1, at FROM r WHERE false) SELECT * FROM r",
        "view public.t",
    ),
    "a rest": (A_VIEW + "SELECT id, id % 10 AS at FROM base", "view public.t"),
    "a system column": (A_VIEW + "SELECT id, xmin::text::bigint AS at FROM base", "view public.t"),
    "a deep expression": (
        A_VIEW + "SELECT id, " + " + ".join(["n"] * 400) + " AS at FROM base",
        "view public.t",
    ),
    "names like the server's": (
        A_VIEW + "SELECT id, at - interval '1 h' AS at,"
        ' ":varno" AS ":expr" FROM base AS ":resno"',
        "view public.t",
    ),
}


# Where rows are written, for those of the above that lose rows without a lookback as long as this.
LOSING = {
    "an earlier time": ("t", "2h"),
    "a domain's default": ("t", "2h"),
    "a partition's default": ("p", "2h"),
    "a default above": ("whole", "2h"),
    "the time of a zone": ("t", "6h"),
    "generated": ("t", "6h"),
    "a view of a shifted column": ("whole", "2h"),
    "a view in a zone": ("base", "6h"),
    "a view below": ("base", "2h"),
    "a branch of a union": ("base", "2h"),
}


def test_a_cursor_that_is_stamped_when_its_row_is_written_is_read(project: Project) -> None:
    project.in_source(BASE)
    tables = {}
    for case, name in names(KNOWN).items():
        create, more = KNOWN[case]
        project.in_source(named(create, name))
        tables[f"{name}_t"] = entry(**more)
    project.spec(tables)
    assert errors_of_plan(project) == {}


@pytest.fixture
def shifted(project: Project) -> Project:
    project.in_source(BASE)
    for case, name in names(UNKNOWN).items():
        project.in_source(named(UNKNOWN[case][0], name))
    return project


def test_a_cursor_that_an_expression_gives_needs_a_lookback(shifted: Project) -> None:
    tables = names(UNKNOWN)
    shifted.spec({f"{name}_t": entry() for name in tables.values()})
    results = shifted.run()
    wrong = {}
    for case, name in tables.items():
        found = results[f"extract.extract_{name}_t"].result
        said = named(UNKNOWN[case][1], name)
        if not isinstance(found, Refused) or said not in str(found):
            wrong[case] = found
        assert "incremental.lookback" in str(found)
    assert wrong == {}
    extracts = {step: str(result.result) for step, result in results.items() if "extract_" in step}
    planned = errors_of_plan(shifted)
    assert set(planned) == set(extracts)
    for step, said in planned.items():
        assert extracts[step].endswith(said)


def losing(shifted: Project) -> dict[str, int]:
    """The rows lost, by case, after a transaction that was open during a run has ended."""
    tables = {case: names([case])[case] for case in LOSING}
    with psycopg.connect(shifted.source) as late:
        for number, (case, name) in enumerate(tables.items()):
            place = named(LOSING[case][0], name)
            late.execute(f"INSERT INTO {place} (id) VALUES ({number * 10 + 1})")
            shifted.in_source(f"INSERT INTO {place} (id) VALUES ({number * 10 + 2})")
        shifted.run()
    shifted.run()
    verdicts = {case: judge(shifted, f"{name}_t").lost for case, name in tables.items()}
    return {case: lost for case, lost in verdicts.items() if lost}


def test_with_a_lookback_no_row_is_lost(shifted: Project) -> None:
    entries = {}
    for case, (_, lookback) in LOSING.items():
        entries[f"{names([case])[case]}_t"] = entry(lookback=lookback)
    shifted.spec(entries)
    assert losing(shifted) == {}


def test_a_reader_that_does_not_ask_where_a_cursor_comes_from_loses_rows(
    shifted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(origins, "refuse_shifted", lambda *_: None)
    shifted.spec({f"{names([case])[case]}_t": entry() for case in LOSING})
    assert set(losing(shifted)) == set(LOSING)


def test_intervals_of_a_cursor_that_an_expression_gives_are_refused(project: Project) -> None:
    """A lookback means nothing to them, and makes up for nothing."""
    project.in_source(column(f"at timestamptz DEFAULT {EARLIER}"))
    project.spec({"t": entry(by="data_interval", lookback="2h")}, schedule="@daily")
    times = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2026-01-02T00:00:00Z"}
    found = project.run(**times)["extract.extract_t"].result
    assert isinstance(found, Refused) and "by: watermark, with an overlap" in str(found)
    # An interval of a table that is read by its watermark is asked for.
    project.spec({"t": entry(lookback="2h")})
    project.succeed(**times, explicit_interval=True)
