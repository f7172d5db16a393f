"""Cursors that count: numbers that do not rise with the rows, through generated columns, domains
and views to the sequences that give them."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
import pytest

from loadsheet.errors import Refused
from loadsheet.source import origins, sequences
from tests.core.expressions import column, entry, errors_of_plan, named, names
from tests.faults.oracle import judge
from tests.project import Project

SECONDS = "extract(epoch FROM now())"
BLOCKS = "CREATE SEQUENCE s CACHE 10;"
A_DOMAIN = "CREATE DOMAIN d AS bigint DEFAULT nextval('s');"
GENERATED = "at bigint GENERATED ALWAYS AS (n) STORED"
A_UNION = "CREATE VIEW t AS TABLE p UNION ALL TABLE v"


def two_parts(column: str, low: str, high: str) -> str:
    """A table of two partitions with defaults of their own."""
    return (
        f"CREATE TABLE t (id int, {column}) PARTITION BY LIST (id);"
        f"CREATE TABLE p PARTITION OF t ({low}) FOR VALUES IN (1, 3);"
        f"CREATE TABLE v PARTITION OF t ({high}) DEFAULT"
    )


def two_tables(low: str, high: str) -> str:
    return (
        f"CREATE TABLE p (id int, at bigint DEFAULT {low});"
        f"CREATE TABLE v (id int, at bigint DEFAULT {high}); {A_UNION}"
    )


# Numbers that do not rise with the rows: how they come about, where the first and the last row are
# written and where the one between, and what the message names. The last row has a number below
# the one between.
COUNTING: dict[str, tuple[str, str, str, str]] = {
    "generated blocks": (
        BLOCKS + column("n bigint DEFAULT nextval('s'), " + GENERATED),
        "t",
        "t",
        "in blocks of 10",
    ),
    "a generated identity": (
        column("n bigint GENERATED ALWAYS AS IDENTITY (CACHE 10), " + GENERATED),
        "t",
        "t",
        "in blocks of 10",
    ),
    "a generated cycle": (
        column("n bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 2 CYCLE), " + GENERATED),
        "t",
        "t",
        "NO CYCLE;",
    ),
    "generated and falling": (
        column("n bigint GENERATED ALWAYS AS IDENTITY (INCREMENT -1), " + GENERATED),
        "t",
        "t",
        "counts down",
    ),
    "a domain of blocks": (BLOCKS + A_DOMAIN + column("at d"), "t", "t", "in blocks of 10"),
    "a falling domain": (
        "CREATE SEQUENCE s INCREMENT -1;" + A_DOMAIN + column("at d"),
        "t",
        "t",
        "counts down",
    ),
    "a generated domain": (
        BLOCKS + A_DOMAIN + column("n d, at numeric GENERATED ALWAYS AS (n) STORED"),
        "t",
        "t",
        "in blocks of 10",
    ),
    "blocks above": (
        BLOCKS + "CREATE TABLE whole (id int, at bigint DEFAULT nextval('s'))"
        " PARTITION BY LIST (id); CREATE TABLE t (id int, at bigint);"
        "ALTER TABLE whole ATTACH PARTITION t DEFAULT",
        "whole",
        "whole",
        "in blocks of 10",
    ),
    "blocks of a view": (
        BLOCKS + "CREATE TABLE whole (id int, at bigint); CREATE VIEW t AS TABLE whole;"
        "ALTER VIEW t ALTER at SET DEFAULT nextval('s')",
        "t",
        "t",
        "in blocks of 10",
    ),
    "generated from two sequences": (
        "CREATE SEQUENCE s; CREATE SEQUENCE d START 100;"
        + two_parts(f"n bigint, {GENERATED}", "n DEFAULT nextval('s')", "n DEFAULT nextval('d')"),
        "p",
        "v",
        "several sequences",
    ),
    "partitions of two units": (
        two_parts("at bigint", f"at DEFAULT {SECONDS}", f"at DEFAULT {SECONDS} * 1000"),
        "p",
        "v",
        "* (1000)::numeric), which may count differently",
    ),
    "a domain and a partition": (
        f"CREATE DOMAIN d AS bigint DEFAULT {SECONDS};"
        + two_parts("at d", "at NOT NULL", f"at DEFAULT {SECONDS} * 1000"),
        "p",
        "v",
        "which may count differently",
    ),
    "a union of two units": (
        two_tables(SECONDS, f"{SECONDS} * 1000"),
        "p",
        "v",
        "p.at has the default EXTRACT(epoch FROM now()) and public.v.at has the default (EXTRACT",
    ),
    "a union of a sequence and seconds": (
        "CREATE SEQUENCE s;" + two_tables("nextval('s')", SECONDS),
        "p",
        "v",
        "which may count differently",
    ),
    "a union of transactions and seconds": (
        two_tables("txid_current()", SECONDS),
        "p",
        "v",
        "which may count differently",
    ),
    "a union of two sequences": (
        "CREATE SEQUENCE s; CREATE SEQUENCE d START 100;"
        + two_tables("nextval('s')", "nextval('d')"),
        "p",
        "v",
        "several sequences",
    ),
    "a union of two columns": (
        "CREATE TABLE p (id int, n bigserial);"
        "CREATE VIEW t AS SELECT id, id AS at FROM p UNION ALL SELECT -id, n FROM p",
        "p",
        "p",
        "p.id has no default and public.p.n has the default",
    ),
}
# Where the sequence that is set back is not the cursor's own.
SET_BACK = {
    "set back and generated": column("n bigint DEFAULT nextval('s'), " + GENERATED),
    "set back in a domain": A_DOMAIN + column("at d"),
    "set back below a view": (
        "CREATE TABLE whole (id int, n bigint DEFAULT nextval('s'));"
        "CREATE VIEW t AS SELECT id, n::numeric AS at FROM whole"
    ),
}


@pytest.mark.parametrize("looks", [True, False])
def test_numbers_that_begin_again_need_a_lookback(
    project: Project, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """Of the reader that does not look, as the negative control."""
    project.in_source(
        "CREATE SEQUENCE s; CREATE TABLE t (id int PRIMARY KEY, at int DEFAULT nextval('s') % 10);"
        "INSERT INTO t SELECT generate_series(1, 9)"
    )
    if looks:
        project.spec({"t": entry(lookback=10)})
    else:
        monkeypatch.setattr(origins, "refuse_shifted", lambda *_: None)
        project.spec({"t": entry()})
    project.succeed()
    project.in_source("INSERT INTO t VALUES (10), (11)")
    project.succeed()
    assert judge(project, "t").lost == (0 if looks else 2)


def counted_rows(project: Project, cases: Iterable[str]) -> dict[str, int]:
    """The rows lost, by case, where one session writes before and after another's higher number."""
    tables = names(cases)
    with psycopg.connect(project.source, autocommit=True) as session:
        for number, write in ((1, session.execute), (200, project.in_source)):
            for case, name in tables.items():
                place = named(COUNTING[case][1 if number == 1 else 2], name)
                write(f"INSERT INTO {place} (id) VALUES ({number})")
        project.run()
        for case, name in tables.items():
            session.execute(f"INSERT INTO {named(COUNTING[case][1], name)} (id) VALUES (3)")
        project.run()
    verdicts = {case: judge(project, f"{name}_t").lost for case, name in tables.items()}
    return {case: lost for case, lost in verdicts.items() if lost}


@pytest.fixture
def counting(project: Project) -> Project:
    for case, name in names(COUNTING).items():
        project.in_source(named(COUNTING[case][0], name))
    project.spec({f"{name}_t": entry() for name in names(COUNTING).values()})
    return project


def test_numbers_are_followed_to_what_gives_them(counting: Project) -> None:
    results = counting.run()
    planned = errors_of_plan(counting)
    wrong = {}
    for case, name in names(COUNTING).items():
        step = f"extract.extract_{name}_t"
        found = results[step].result
        said = named(COUNTING[case][3], name)
        if not isinstance(found, Refused) or said not in str(found):
            wrong[case] = found
        assert str(found).endswith(planned[step])
    assert wrong == {}


def test_a_reader_that_does_not_follow_numbers_loses_rows(
    counting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(origins, "refuse_shifted", lambda *_: None)
    monkeypatch.setattr(sequences, "refuse_disorder", lambda *_, **__: None)
    monkeypatch.setattr(sequences, "refuse_set_back", lambda *_: None)
    assert set(counted_rows(counting, COUNTING)) == set(COUNTING)


def test_a_sequence_that_is_set_back_is_found_where_the_cursor_does_not_own_it(
    project: Project,
) -> None:
    """The rows after it were lost."""
    tables = names(SET_BACK)
    for case, name in tables.items():
        project.in_source(named("CREATE SEQUENCE s;" + SET_BACK[case], name))
    project.spec({f"{name}_t": entry() for name in tables.values()})
    for number in (1, 2):
        for case, name in tables.items():
            place = "whole" if "view" in case else "t"
            project.in_source(f"INSERT INTO {name}_{place} (id) VALUES ({number})")
    project.succeed()
    for name in tables.values():
        project.in_source(f"ALTER SEQUENCE {name}_s RESTART")
    results = project.run()
    for name in tables.values():
        found = results[f"extract.extract_{name}_t"].result
        assert isinstance(found, Refused) and f"{name}_s has counted to 0" in str(found)
