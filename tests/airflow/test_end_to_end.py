"""Flights, from one YAML file through a real Airflow into the warehouse: day after day, and when
something breaks.

Each run is a fixture that needs the one before it, so that every test finds the world as that run
has left it.
"""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import httpx
import psycopg
import pytest

from demo.flights import a_day_passes
from loadsheet.spec.dependencies import transform_inputs
from tests import canaries
from tests.airflow import secrets_kept, shown
from tests.airflow.world import (
    DAG_ID,
    Run,
    World,
    ask,
    wait_for,
    with_facts,
)

NEVER_CHANGE = {"aircrafts_data", "seats"}


def compared(world: World, run: Run) -> Run:
    """The run, with what differs after it and what it loaded."""
    return with_facts(
        run,
        tables=world.differing_tables(),
        marts=world.differing_marts(),
        loads=world.loads(run.run_id),
    )


def create_lounges(world: World) -> None:
    """The ninth table: it comes, goes, and comes back."""
    with psycopg.connect(world.source) as session:
        session.execute(
            "CREATE TABLE bookings.lounges (airport_code char(3) PRIMARY KEY, seats int)"
        )
        session.execute(
            "INSERT INTO bookings.lounges SELECT airport_code, 50 FROM bookings.airports_data"
        )


def open_failures(world: World) -> list[str]:
    """The Variables that remember failures."""
    keys = [entry["key"] for entry in world.airflow.api.call("GET", "variables")["variables"]]
    return [key for key in keys if key.startswith("loadsheet_failed")]


def tries(world: World, run: Run, task_id: str) -> int:
    """How often the task was tried in the run."""
    return next(
        t.try_number for t in world.airflow.api.tasks(DAG_ID, run.run_id) if t.task_id == task_id
    )


def started_processes(world: World, run: Run) -> set[str]:
    """The tasks of the run for which a process was started."""
    return {t.task_id for t in world.airflow.api.tasks(DAG_ID, run.run_id) if t.try_number}


def clear(world: World, run: Run, task_id: str, include_downstream: bool = False) -> None:
    """Have the task run again, as in Airflow's UI."""
    asked = {
        "dry_run": False,
        "dag_run_id": run.run_id,
        "task_ids": [task_id],
        "only_failed": False,
        "include_downstream": include_downstream,
    }
    world.airflow.api.call("POST", f"dags/{DAG_ID}/clearTaskInstances", json=asked)


@pytest.fixture(scope="module")
def first(world: World) -> Run:
    """The first run."""
    world.airflow.api.unpause(DAG_ID)
    run = world.run()
    return compared(world, run)


@pytest.fixture(scope="module")
def second(world: World, first: Run) -> Run:
    """A run after a day of changes."""
    assert first.state == "success"
    changes = a_day_passes(world.source)
    run = world.run()
    return with_facts(
        run,
        changes=changes,
        tables=world.differing_tables(),
        marts=world.differing_marts(),
        loads=world.loads(run.run_id),
    )


@pytest.fixture(scope="module")
def third(world: World, second: Run) -> Run:
    """A run with nothing new."""
    assert second.state == "success"
    before = world.written()
    run = world.run()
    return with_facts(
        run, before=before, after=world.written(), started=started_processes(world, run)
    )


@pytest.fixture(scope="module")
def alone(world: World, third: Run) -> Run:
    """A run with one changed table. Then another table, which it has skipped, gets a row, and is
    cleared."""
    assert third.state == "success"
    with psycopg.connect(world.source) as session:
        session.execute(
            "UPDATE bookings.airports_data SET updated_at = clock_timestamp()"
            " WHERE airport_code = (SELECT min(airport_code) FROM bookings.airports_data)"
        )
    run = world.run()
    started = started_processes(world, run)
    with psycopg.connect(world.source) as session:
        session.execute(
            "UPDATE bookings.bookings SET updated_at = clock_timestamp()"
            " WHERE book_ref = (SELECT min(book_ref) FROM bookings.bookings)"
        )
    clear(world, run, "extract.extract_bookings", include_downstream=True)
    wait_for(lambda: tries(world, run, "load.load_bookings") == 1, "the cleared load")
    state = world.airflow.api.wait(DAG_ID, run.run_id)
    return with_facts(
        run,
        started=started,
        again=state,
        loads=world.loads(run.run_id),
        marts=world.differing_marts(),
    )


@pytest.fixture(scope="module")
def fourth(world: World, alone: Run) -> Run:
    """A run with incremental switched off by the Variable."""
    assert alone.seen["again"] == "success"
    world.set_variable(json.dumps({"pipelines": {DAG_ID: {"incremental": False}}}))
    run = world.run()
    world.set_variable(json.dumps({"incremental": True}))
    return compared(world, run)


@pytest.fixture(scope="module")
def fifth(world: World, fourth: Run) -> Run:
    """A run of two tables in full, one of them just added to the YAML by one line."""
    assert fourth.state == "success"
    create_lounges(world)
    world.spec.write_text(
        world.spec.read_text().replace("\ntables:\n", "\ntables:\n  lounges:\n", 1)
    )
    tasks = f"dags/{DAG_ID}/tasks"
    wait_for(
        lambda: "load.load_lounges" in json.dumps(world.airflow.api.call("GET", tasks)),
        "the new steps",
    )
    run = world.run({"tables": ["lounges", "seats"], "full_refresh": True})
    return compared(world, run)


@pytest.fixture(scope="module")
def sixth(world: World, fifth: Run) -> Run:
    """A run whose ninth table is gone from the source."""
    assert fifth.state == "success"
    with psycopg.connect(world.source) as session:
        session.execute("DROP TABLE bookings.lounges")
    run = world.run()
    assert world.slack.wait_for(1, timeout=20)
    return with_facts(run, messages=list(world.slack.messages), failures=open_failures(world))


@pytest.fixture(scope="module")
def seventh(world: World, sixth: Run) -> Run:
    """A run after the ninth table has come back, and then its extract once more."""
    assert sixth.state == "failed"
    create_lounges(world)
    run = world.run()
    assert world.slack.wait_for(2, timeout=20)
    clear(world, run, "extract.extract_lounges")
    wait_for(lambda: tries(world, run, "extract.extract_lounges") == 2, "the second try")
    state = world.airflow.api.wait(DAG_ID, run.run_id)
    return with_facts(
        run, again=state, messages=list(world.slack.messages), failures=open_failures(world)
    )


def test_a_broken_spec_is_seen_beside_the_good_ones(world: World) -> None:
    (error,) = world.airflow.api.import_errors()
    assert (
        "pipelines/broken/pipeline.yml:2:1 suorce: unknown key" in error
        and "Traceback" not in error
    )


def test_the_first_run_loads_every_table_and_builds_every_mart(world: World, first: Run) -> None:
    assert first.state == "success" and set(first.tasks.values()) == {"success"}
    assert first.seen["tables"] == {} and first.seen["marts"] == {}
    counts = {
        t.name: ask(world.source, f"SELECT count(*) FROM bookings.{t.name}")
        for t in world.pipeline.tables
    }
    assert len(first.seen["loads"]) == len(counts) == 8 and all(
        count != [(0,)] for count in counts.values()
    )


def groups_of(log: str) -> dict[str, str]:
    """The groups that the log viewer folds, by title."""
    found = {}
    for title, body in re.findall(r"::group::([^\n]*)\n(.*?)::endgroup::", log, re.DOTALL):
        found[title.partition(" try_number=")[0].partition(" dag_id=")[0]] = body
    return found


def group(log: str, start: str) -> str:
    """The text of the group whose title begins with `start`."""
    (text,) = [body for title, body in groups_of(log).items() if title.startswith(start)]
    return text


def test_a_log_shows_what_was_read_and_stored_in_groups(world: World, second: Run) -> None:
    """There was one line."""
    log = world.airflow.api.log(DAG_ID, second.run_id, "extract.extract_bookings")
    rows = group(log, "Rows of bookings.bookings")
    for part in ("mode: merge", "window: from 20", "watermark before: 20", "watermark after the"):
        assert part in rows
    assert "session 1: SELECT" in group(log, "SQL on bookings.bookings")
    stored = group(log, "Stored in the lake: ")
    for part in ("load id: ", "prefix: lake/flights/bookings/", "/manifest.json", "rows: "):
        assert part in stored
    for part in ("bytes: ", "seconds: ", "rate: "):
        assert part in stored
    log = world.airflow.api.log(DAG_ID, second.run_id, "load.load_bookings")
    loaded = group(log, "Loaded into staging.bookings")
    # Outside of the groups the result is there once. The operator repeated it, and so did the load.
    (effect,) = re.findall(r"effect: (\d+ inserted, \d+ updated, \d+ deleted)", loaded)
    assert re.sub(r"::group::.*?::endgroup::", "", log, flags=re.DOTALL).count(effect) == 1
    assert "effect: " in loaded and "watermark: 20" in loaded and "rate: " in loaded
    log = world.airflow.api.log(DAG_ID, second.run_id, "transform.transform_dim_airport")
    assert "dim_airport.sql" in group(log, "Building mart.dim_airport")


def test_a_table_that_was_not_chosen_and_one_without_news_read_differently(
    world: World, second: Run, fifth: Run
) -> None:
    log = world.airflow.api.log(DAG_ID, second.run_id, "look")
    assert "extract seats: nothing new" in log and "not chosen" not in log
    log = world.airflow.api.log(DAG_ID, fifth.run_id, "look")
    assert "extract bookings: not chosen: this run is limited to other tables" in log
    assert "extract bookings: nothing new" not in log


def test_a_failures_log_has_the_reason_before_the_frames(world: World, sixth: Run) -> None:
    log = world.airflow.api.log(DAG_ID, sixth.run_id, "extract.extract_lounges")
    reason = log.index(" the source has no table bookings.lounges")
    # Without the place, which would push it out of sight.
    assert re.search(r"Z the source has no table bookings\.lounges", log)
    assert reason < log.index("Task failed with exception") < log.index("frames")


def test_xcom_carries_the_load_id_and_nothing_else(world: World, first: Run) -> None:
    found = world.airflow.api.xcom(DAG_ID, first.run_id, "extract.extract_bookings")
    assert ask(
        world.warehouse, "SELECT count(*) FROM loadsheet.load WHERE load_id = %s", found
    ) == [(1,)]
    entries = world.airflow.api.call(
        "GET", f"dags/{DAG_ID}/dagRuns/{first.run_id}/taskInstances/~/xcomEntries"
    )
    assert entries["total_entries"] == 8


def test_after_a_day_only_the_changes_are_loaded(second: Run) -> None:
    changes, loads = second.seen["changes"], second.seen["loads"]
    assert second.state == "success"
    assert {
        table for table, state in second.of("extract").items() if state == "skipped"
    } >= NEVER_CHANGE
    assert set(loads) == set(changes)
    for table, (inserted, updated) in changes.items():
        assert loads[table]["inserted"] == inserted, table
        assert max(inserted, updated) <= loads[table]["extracted"] <= inserted + updated, table
    assert second.seen["tables"] == {}


def test_marts_follow_changes_in_the_source_as_a_rebuild_would(second: Run) -> None:
    states = second.of("transform")
    assert second.seen["marts"] == {}
    assert {name for name, state in states.items() if state == "skipped"} >= {
        "dim_date",
        "dim_time",
        "dim_aircrafts",
    }
    assert states["fct_flight_activity"] == states["dim_airport"] == "success"


def test_with_nothing_new_every_table_and_every_transform_is_skipped(third: Run) -> None:
    assert third.state == "success"
    assert {task: state for task, state in third.tasks.items() if state != "skipped"} == {
        "look": "success"
    }


def test_with_nothing_new_nothing_is_written(third: Run) -> None:
    assert third.seen["after"] == third.seen["before"]


def test_with_nothing_new_no_process_is_started_for_a_table_or_a_mart(
    world: World, second: Run, third: Run
) -> None:
    assert third.seen["started"] == {"look"}
    log = world.airflow.api.log(DAG_ID, third.run_id, "look")
    for line in ("extract bookings: nothing new since 20", "extract seats: nothing new"):
        assert line in log
    assert "transform dim_airport: nothing it reads has changed" in log
    # The negative control: where there was work, there were processes.
    done = {task for task, state in second.tasks.items() if state == "success"}
    assert started_processes(world, second) >= done > {"look"}


def test_a_changed_table_runs_alone_with_the_marts_that_read_it(world: World, alone: Run) -> None:
    inputs = transform_inputs(world.pipeline)
    marts: set[str] = set()
    for name, read in inputs.items():
        if "airports_data" in read.tables or marts & set(read.transforms):
            marts.add(name)
    assert 0 < len(marts) < len(inputs)
    own = {"look", "extract.extract_airports_data", "load.load_airports_data"}
    assert alone.seen["started"] == own | {f"transform.transform_{name}" for name in marts}
    assert alone.of("load")["airports_data"] == "success"


def test_a_skipped_task_that_is_cleared_runs(alone: Run) -> None:
    """The rows had come after the look."""
    assert alone.of("load")["bookings"] == "skipped" and alone.seen["again"] == "success"
    assert alone.seen["loads"]["bookings"]["updated"] == 1
    assert alone.seen["marts"] == {}


def test_switching_incremental_off_reloads_everything(world: World, fourth: Run) -> None:
    assert fourth.state == "success" and set(fourth.tasks.values()) == {"success"}
    for table, counts in fourth.seen["loads"].items():
        assert ask(world.source, f"SELECT count(*) FROM bookings.{table}") == [
            (counts["extracted"],)
        ]
    assert len(fourth.seen["loads"]) == 8
    assert fourth.seen["tables"] == {} and fourth.seen["marts"] == {}


def test_one_line_adds_a_table(fifth: Run) -> None:
    assert fifth.of("extract")["lounges"] == fifth.of("load")["lounges"] == "success"
    assert fifth.seen["tables"] == {}
    assert fifth.seen["loads"]["lounges"]["inserted"] > 0


def test_the_trigger_form_moves_only_the_chosen_tables(world: World, fifth: Run) -> None:
    moved = {table for table, state in fifth.of("load").items() if state == "success"}
    assert moved == set(fifth.seen["loads"]) == {"lounges", "seats"}
    assert ask(world.source, "SELECT count(*) FROM bookings.seats") == [
        (fifth.seen["loads"]["seats"]["extracted"],)
    ]
    assert (
        fifth.of("transform")["dim_seat"] == "success"
        and fifth.of("transform")["dim_airport"] == "skipped"
    )
    assert fifth.seen["marts"] == {}


def test_a_failure_stays_where_it_is(sixth: Run) -> None:
    assert sixth.state == "failed"
    assert (sixth.of("extract")["lounges"], sixth.of("load")["lounges"]) == (
        "failed",
        "upstream_failed",
    )
    others = {
        task: state
        for task, state in sixth.tasks.items()
        if "lounges" not in task and task != "look"
    }
    assert set(others.values()) == {"skipped"}


def test_slack_hears_of_the_failure_with_a_link_to_its_log(world: World, sixth: Run) -> None:
    assert len(sixth.seen["messages"]) == 1
    told = json.dumps(sixth.seen["messages"][0])
    for part in (
        DAG_ID,
        "extract.extract_lounges",
        sixth.run_id,
        "bookings.lounges",
        " UTC",
        "1, not retried",
    ):
        assert part in told
    assert "hush-hush" not in told and world.postgres.password not in told
    link = re.search(r"<(http[^|]+)\|Open the log>", told)
    assert link and httpx.get(link[1], trust_env=False).status_code == 200
    place = re.fullmatch(
        r".*/dags/([^/]+)/runs/([^/]+)/tasks/([^/?]+)\?try_number=(\d+)", unquote(link[1])
    )
    assert place and "lounges" in world.airflow.api.log(place[1], place[2], place[3], int(place[4]))


def test_slack_hears_once_that_it_works_again(sixth: Run, seventh: Run) -> None:
    assert (seventh.state, seventh.seen["again"]) == ("success", "success")
    assert seventh.of("extract")["lounges"] == "skipped"  # nothing new in it, which is working too
    failure, *others = seventh.seen["messages"]
    assert failure in sixth.seen["messages"] and len(others) == 1
    told = json.dumps(others[0])
    for part in (
        DAG_ID,
        "works again",
        "extract.extract_lounges",
        seventh.run_id,
        sixth.run_id,
        "Failed since",
    ):
        assert part in told


def test_a_failure_is_remembered_until_it_works_again(sixth: Run, seventh: Run) -> None:
    assert sixth.seen["failures"] == [f"loadsheet_failed__{DAG_ID}__extract.extract_lounges"]
    assert seventh.seen["failures"] == []


@pytest.fixture(scope="module")
def told(world: World, seventh: Run) -> dict[str, str]:
    """The pipelines that keep secrets in other ways, and those that fail over one: the state of a
    run of each."""
    names = [*secrets_kept.WORKING, *secrets_kept.FAILING]
    api, before = world.airflow.api, len(world.slack.messages)
    for name in names:
        api.unpause(name)
    runs = {name: api.trigger(name) for name in names}
    states = {name: api.wait(name, run_id, timeout=240) for name, run_id in runs.items()}
    assert world.slack.wait_for(before + len(secrets_kept.FAILING), timeout=20)
    return states


def test_a_run_ends_as_its_secrets_let_it(told: dict[str, str]) -> None:
    expected = dict.fromkeys(secrets_kept.WORKING, "success") | dict.fromkeys(
        secrets_kept.FAILING, "failed"
    )
    assert told == expected


def test_no_secret_is_shown_anywhere(
    world: World, told: dict[str, str], arguments: dict[str, str]
) -> None:
    """Logs, DAGs, rendered fields, XCom, import errors, audit log, Slack, ledger, lake, cache,
    process arguments."""
    secrets = [
        *secrets_kept.SECRETS.values(),
        *secrets_kept.generated(world.airflow, world.postgres, world.s3),
    ]
    places = shown.places(world, arguments)
    assert len([name for name in places if name.endswith(".log")]) > 50
    # They are really read: what one spec holds, what is wrong with another, a row that was loaded,
    # failures.
    assert "dim_airport" in places["Airflow's serialized_dag"] and "airflow" in places["arguments"]
    assert any(
        "Economy" in text
        for name, text in places.items()
        if name.startswith("object lake/flights/seats/")
    )
    assert "suorce" in places["Airflow's import_error"]
    assert all(
        f"{name}\n" in places["ledger's failure"]
        for name in secrets_kept.FAILING
        if name != "wrong_key"
    )
    # what the server said, without what was said to it
    assert '"lock_timeout": "***"' in places["ledger's failure"]
    found = canaries.found(places, [*secrets, shown.PLANTED])
    # The search itself: it finds what is planted, in every kind of place.
    assert {place for place, secret in found if secret == shown.PLANTED} >= shown.PLANTED_IN
    # Airflow notes in its audit log what was asked of its API; of a connection it masks the
    # password, not the login.
    leaks = {(place, secret) for place, secret in found if secret != shown.PLANTED}
    assert leaks <= {("Airflow's log", world.s3.access_key)}
