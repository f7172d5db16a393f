"""Cursors without a time zone, and zones that are declared."""

from __future__ import annotations

import pytest

from loadsheet.errors import Refused, SourceChanged
from tests.core.cursors import refusal
from tests.faults.oracle import judge
from tests.project import Project

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
