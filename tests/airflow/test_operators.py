"""The operators' own part: what they ask of the core, what they make of its answer."""

from __future__ import annotations

import contextvars
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.bases.operator import BaseOperator, ExecutorSafeguard
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    DownstreamTasksSkipped,
)
from airflow.sdk.execution_time.timeout import timeout

import loadsheet.engine.execute
from loadsheet.airflow import look
from loadsheet.airflow.alerts import incidents
from loadsheet.airflow.factory import build_dag
from loadsheet.airflow.look import LookOperator
from loadsheet.airflow.operators import (
    BrokenSpecOperator,
    CreateBucketOperator,
    HelpExtractOperator,
    MinioToPostgresOperator,
    NotExtracted,
    PostgresToMinioOperator,
    ResolveTablesOperator,
    SqlTransformOperator,
    StepOperator,
    VerifyTablesOperator,
    airflow_connection,
)
from loadsheet.errors import ConnectionMissing
from loadsheet.outcome import Outcome, skipped
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.verify.step import verify_due
from tests.airflow.conftest import REPO

SPEC = """\
version: 1
source: {conn_id: src}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
tables: {bookings: , seats: }
transforms: {x: }
"""
DONE = Outcome(status="done", message="5,000 rows in 1 part", load_id="run-1")


class Engine:
    """Stands in for `loadsheet.engine.execute.execute`: keeps what it was asked and answers as
    told."""

    def __init__(self) -> None:
        self.answer: Callable[[], Outcome] = lambda: DONE
        self.asked: list[Any] = []

    def execute(
        self,
        step: Any,
        pipeline: Any,
        request: Any,
        connections: Any,
        *,
        load_id: Any = None,
        progress: Any,
        verify: Any = None,
        is_over: Any = None,
    ) -> Outcome:
        self.asked.append(SimpleNamespace(**locals()))
        progress(1000, 5_000_000)
        return self.answer()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(loadsheet.engine.execute, "execute", made.execute, raising=False)
    return made


@pytest.fixture
def spec(tmp_path: Path) -> str:
    file = tmp_path / "pipelines" / "p" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(SPEC)
    (file.parent / "sql" / "x.sql").write_text("SELECT 1 AS one")
    return str(file)


def context(load_id: Any = None, **more: Any) -> Any:
    """A manual run without a logical date."""
    pulled: list[str] = []

    def xcom_pull(task_ids: str) -> Any:
        pulled.append(task_ids)
        return load_id

    params = {
        "full_refresh": False,
        "tables": [],
        "accept_source": False,
        "interval_start": None,
        "interval_end": None,
    }
    return {
        "run_id": "manual__1",
        "params": params,
        "ti": SimpleNamespace(xcom_pull=xcom_pull, pulled=pulled),
        **more,
    }


def execute(operator: BaseOperator, found: Any) -> Any:
    inside = contextvars.copy_context()
    inside.run(ExecutorSafeguard.tracker.set, operator)
    return inside.run(operator.execute, found)


def test_an_extract_hands_its_load_id_on_and_nothing_else(engine: Engine, spec: str) -> None:
    result = execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())
    assert result == "run-1"
    assert (engine.asked[0].step.kind, engine.asked[0].step.name) == ("extract", "bookings")
    assert engine.asked[0].pipeline.name == "p"


@pytest.mark.parametrize(
    "operator", [CreateBucketOperator, SqlTransformOperator, VerifyTablesOperator]
)
def test_other_steps_leave_nothing_in_xcom(
    engine: Engine, spec: str, operator: type[StepOperator]
) -> None:
    assert execute(operator(task_id="t", spec=spec, name="x"), context()) is None


def test_only_the_verify_step_is_given_what_compares(engine: Engine, spec: str) -> None:
    for operator, name in ((VerifyTablesOperator, "staging"), (SqlTransformOperator, "x")):
        execute(operator(task_id="t", spec=spec, name=name), context())
    assert [asked.step.kind for asked in engine.asked] == ["verify", "transform"]
    assert [asked.verify for asked in engine.asked] == [verify_due, None]


@pytest.mark.parametrize(("most_tries", "is_full"), [(2, False), (4, True)])
def test_a_transform_that_a_person_has_cleared_is_built_in_full(
    engine: Engine, spec: str, most_tries: int, is_full: bool
) -> None:
    """Airflow adds the tries so far to the retries of a task that is cleared."""
    found = context()
    found["ti"].max_tries = most_tries
    execute(SqlTransformOperator(task_id="t", spec=spec, name="x", retries=2), found)
    assert engine.asked[0].request.is_full("x") == is_full


IDLE = (
    *("extract.extract_bookings", "extract.extract_seats", "transform.transform_sold"),
    *("load.load_bookings", "load.load_seats"),
)


def skipped_by(operator: LookOperator, found: Any) -> list[str]:
    """The tasks that a look has Airflow skip."""
    with pytest.raises(DownstreamTasksSkipped) as caught:
        execute(operator, found)
    return list(caught.value.tasks)


def test_a_look_has_airflow_skip_what_has_nothing_to_do(engine: Engine, spec: str) -> None:
    engine.answer = lambda: Outcome(status="done", message="looked", names=IDLE)
    assert skipped_by(LookOperator(task_id="look", spec=spec, name="lake"), context()) == [*IDLE]
    assert (engine.asked[0].step.kind, engine.asked[0].step.name) == ("look", "lake")
    engine.answer = lambda: Outcome(status="done", message="looked")
    assert execute(LookOperator(task_id="look", spec=spec, name="lake"), context()) is None


def test_a_look_that_a_person_has_cleared_leaves_the_transforms_to_be_built(
    engine: Engine, spec: str
) -> None:
    engine.answer = lambda: Outcome(status="done", message="looked", names=IDLE)
    found = context()
    found["ti"].max_tries = 4
    left = skipped_by(LookOperator(task_id="look", spec=spec, name="lake", retries=2), found)
    assert left == [name for name in IDLE if not name.startswith("transform.")]


def test_a_look_skips_no_more_than_one_statement_of_sqlite_takes(
    engine: Engine, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut off follows nothing that runs."""
    monkeypatch.setattr(look, "_MOST_SKIPPED", 2)
    engine.answer = lambda: Outcome(status="done", message="looked", names=IDLE)
    left = skipped_by(LookOperator(task_id="look", spec=spec, name="lake"), context())
    assert left == ["extract.extract_bookings", "extract.extract_seats"]


@pytest.mark.parametrize(
    ("failed", "runs"),
    [
        ({"extract.extract_seats"}, {"extract.extract_seats", "load.load_seats"}),
        ({"load.load_seats"}, {"load.load_seats"}),
        (set(), set()),
        (None, set(IDLE[:2] + IDLE[3:])),
    ],
)
def test_a_task_with_an_open_failure_runs_with_all_that_follows_it(
    engine: Engine,
    spec: str,
    monkeypatch: pytest.MonkeyPatch,
    failed: set[str] | None,
    runs: set[str],
) -> None:
    """Else no task would report that it works again, or its rows would miss their load."""
    names = IDLE[:2] + IDLE[3:]

    def open_failures(dag_id: str, task_ids: Any) -> set[str]:
        assert (dag_id, task_ids) == ("p", names)
        if failed is None:
            raise ConnectionError("no answer")
        return failed

    Path(spec).write_text(SPEC + "notify: {slack_conn_id: slack, events: [failure, recovery]}\n")
    operator = build_dag(load_pipeline(Path(spec))).get_task("look")
    assert isinstance(operator, LookOperator)
    monkeypatch.setattr(incidents, "open_failures", open_failures)
    engine.answer = lambda: Outcome(status="done", message="looked", names=names)
    left = [name for name in names if name not in runs]
    if left:
        assert skipped_by(operator, context()) == left
    else:
        assert execute(operator, context()) is None


def test_a_load_takes_the_id_from_its_own_extract(engine: Engine, spec: str) -> None:
    found = context(load_id="run-1")
    assert execute(MinioToPostgresOperator(task_id="t", spec=spec, name="bookings"), found) is None
    assert found["ti"].pulled == ["extract.extract_bookings"]
    assert engine.asked[0].load_id == "run-1"


def test_a_load_without_an_id_says_which_task_to_clear(engine: Engine, spec: str) -> None:
    with pytest.raises(
        AirflowFailException, match=r"extract\.extract_bookings of this run has no load id"
    ):
        execute(MinioToPostgresOperator(task_id="t", spec=spec, name="bookings"), context())
    assert engine.asked == []


def test_nothing_new_skips_the_task(engine: Engine, spec: str) -> None:
    engine.answer = lambda: skipped("nothing above 2026-01-01")
    with pytest.raises(AirflowSkipException, match="nothing above 2026-01-01"):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())


def takes_too_long() -> Outcome:
    time.sleep(20)
    return DONE


def test_a_reader_whose_time_is_up_is_skipped_and_does_not_fail_the_run(
    engine: Engine, spec: str
) -> None:
    """Its time begins while it waits for the extract, which may still end in time."""
    engine.answer = takes_too_long
    reader = HelpExtractOperator(task_id="t", spec=spec, name="bookings", number=2)
    with timeout(0.5), pytest.raises(AirflowSkipException, match="its time is up"):
        execute(reader, context())


def test_an_extract_whose_time_is_up_fails(engine: Engine, spec: str) -> None:
    """The negative control."""
    engine.answer = takes_too_long
    extract = PostgresToMinioOperator(task_id="t", spec=spec, name="bookings")
    with pytest.raises(AirflowTaskTimeout), timeout(0.5):
        execute(extract, context())


def test_a_package_that_a_worker_lacks_is_named_and_another_worker_may_try(
    engine: Engine, spec: str
) -> None:
    def lacks() -> Outcome:
        raise ImportError("no pq wrapper available", name="psycopg")

    engine.answer = lacks
    with pytest.raises(AirflowException, match="the package psycopg cannot be used") as failed:
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())
    assert not isinstance(failed.value, AirflowFailException)


def test_a_broken_spec_fails_without_a_retry(engine: Engine, spec: str) -> None:
    Path(spec).write_text(SPEC + "nonsense: 1\n")
    with pytest.raises(AirflowFailException, match=r"pipeline\.yml:7:1 nonsense"):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())


def test_progress_is_one_readable_line_and_the_outcome_is_left_to_the_engine(
    engine: Engine,
    spec: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loadsheet.airflow.operators.PROGRESS_EVERY_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="loadsheet"):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())
    assert "bookings: 1,000 rows, 5.0 MB so far" in caplog.messages
    # It logged the outcome as well, which the engine had logged before.
    assert not any("5,000 rows in 1 part" in message for message in caplog.messages)


def test_the_run_is_described_by_schedule_variable_and_form(
    engine: Engine, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_VAR_LOADSHEET", '{"pipelines": {"p": {"incremental": false, "tables": ["seats"]}}}'
    )
    found = context(
        data_interval_start=datetime(2026, 1, 1, tzinfo=UTC),
        data_interval_end=datetime(2026, 1, 2, tzinfo=UTC),
    )
    found["params"]["tables"] = ["bookings"]
    execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), found)
    request = engine.asked[0].request
    assert request.run_id == "manual__1"
    assert (request.full_refresh, request.only) == ({"seats"}, {"bookings"})
    assert (request.interval_start, request.interval_end) == (
        "2026-01-01T00:00:00+00:00",
        "2026-01-02T00:00:00+00:00",
    )


def test_an_unknown_key_of_the_runs_conf_fails_the_task(engine: Engine, spec: str) -> None:
    found = context(dag_run=SimpleNamespace(conf={"full_refesh": True}))
    with pytest.raises(AirflowFailException, match="Did you mean full_refresh"):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), found)
    assert engine.asked == []


def test_a_dag_of_a_user_may_have_more_parameters(engine: Engine, spec: str) -> None:
    found = context(
        dag_run=SimpleNamespace(conf={"full_refresh": True, "region": "eu"}),
        dag=SimpleNamespace(params={"region": "us"}),
    )
    found["params"]["region"] = "eu"
    execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), found)
    assert len(engine.asked) == 1


def test_more_matches_than_airflow_maps_are_refused_with_the_setting(
    engine: Engine, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = ResolveTablesOperator(task_id="t", spec=spec, name="*")
    engine.answer = lambda: Outcome(
        status="done", message="", names=tuple(f"t{number}" for number in range(1025))
    )
    with pytest.raises(
        AirflowFailException, match=r"matches 1,025 tables.* at most 1,024 .*MAX_MAP_LENGTH to 1025"
    ):
        execute(resolve, context())
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "1025")
    assert len(execute(resolve, context())) == 1025


def mapped(extract: str) -> Any:
    """The context of a pattern's load whose own extract has ended in the state `extract`."""
    found = context()
    ti = found["ti"]
    ti.task_id = "load.load_any_1"
    ti.dag_id, ti.run_id, ti.map_index = "p", "manual__1", 3
    ti.xcom_pull = lambda task_ids, map_indexes: None

    def get_task_states(**asked: Any) -> dict[str, dict[str, str]]:
        assert asked["task_ids"] == ["extract.extract_any_1"] and asked["map_index"] == 3
        return {"manual__1": {"extract.extract_any_1_3": extract}}

    ti.get_task_states = get_task_states
    return found


@pytest.mark.parametrize("state", ["failed", "upstream_failed", "success"])
def test_the_load_of_a_patterns_table_fails_with_its_extract(
    engine: Engine, spec: str, state: str
) -> None:
    """It was skipped before. Where it is the last task, that was a successful run."""
    load = MinioToPostgresOperator(task_id="t", spec=spec, name="seats")
    with pytest.raises(NotExtracted, match=rf"extract_any_1 \[seats\] of this run is {state}"):
        execute(load, mapped(state))
    assert engine.asked == []


def test_the_load_of_a_patterns_table_is_skipped_with_its_extract(
    engine: Engine, spec: str
) -> None:
    engine.answer = lambda: skipped("nothing was extracted")
    with pytest.raises(AirflowSkipException):
        execute(MinioToPostgresOperator(task_id="t", spec=spec, name="seats"), mapped("skipped"))


def test_a_stopped_worker_interrupts_a_task_once_and_has_it_retried_at_once(
    engine: Engine, spec: str
) -> None:
    step = PostgresToMinioOperator(task_id="t", spec=spec, name="bookings")
    engine.answer = lambda: step.on_kill() or DONE
    with pytest.raises(KeyboardInterrupt) as caught:
        execute(step, context())
    decision = step.retry_policy.evaluate(caught.value, 1, 2)
    assert (decision.action.value, decision.retry_delay) == ("retry", timedelta(0))
    step.on_kill()  # a second signal, during the rollback


def test_a_wrong_variable_fails_the_task_and_names_the_key(
    engine: Engine, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_LOADSHEET", '{"incremental": "no"}')
    with pytest.raises(AirflowFailException, match="Variable 'loadsheet', key incremental"):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())


def test_airflows_connection_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_SRC", "postgres://ada:p%40ss@db.example:6543/flights?sslmode=require"
    )
    found = airflow_connection("src")
    assert (found.conn_id, found.conn_type, found.host, found.port) == (
        "src",
        "postgres",
        "db.example",
        6543,
    )
    assert (found.login, found.password, found.schema) == ("ada", "p@ss", "flights")
    assert found.extra == {"sslmode": "require"}
    assert "p@ss" not in repr(found)


def test_a_missing_connection_fails_without_a_retry_and_says_what_to_do(
    engine: Engine, spec: str
) -> None:
    def ask() -> Outcome:
        engine.asked[-1].connections("nowhere")
        return DONE

    engine.answer = ask
    with pytest.raises(
        AirflowFailException, match=r"no connection 'nowhere'.*AIRFLOW_CONN_NOWHERE"
    ):
        execute(PostgresToMinioOperator(task_id="t", spec=spec, name="bookings"), context())


@pytest.mark.parametrize(
    "text", ["postgresql://u:canary/not:encoded?pass@h:1/d", '{"password": "canary-cut']
)
def test_a_connection_that_airflow_cannot_read_is_said_to_be_there(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ODD", text)
    with pytest.raises(ConnectionMissing, match="cannot read AIRFLOW_CONN_ODD") as caught:
        airflow_connection("odd")
    assert "canary" not in str(caught.value)


def test_a_kill_interrupts_the_work_and_only_the_work(engine: Engine, spec: str) -> None:
    operator = PostgresToMinioOperator(task_id="t", spec=spec, name="bookings")
    operator.on_kill()

    def killed() -> Outcome:
        operator.on_kill()
        raise AssertionError("went on after a kill")

    engine.answer = killed
    with pytest.raises(KeyboardInterrupt):
        execute(operator, context())
    operator.on_kill()  # as Airflow does after a timeout: the timeout's own exception must stay


KILLED = """
import signal, sys
import psycopg
from loadsheet.airflow.operators import PostgresToMinioOperator

operator = PostgresToMinioOperator(task_id="t", spec="x", name="x")
operator._working = True
signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())  # as Airflow's task runner does
with psycopg.connect(sys.argv[1], application_name="to be killed") as session:
    print("started", flush=True)
    session.execute("SELECT pg_sleep(60)")
"""


def test_a_killed_task_leaves_no_statement_running_in_the_server(
    database: str, connection: psycopg.Connection[Any]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, database],
        cwd=REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as task:
        assert task.stdout and any(line.strip() == "started" for line in task.stdout)
        wait_until(lambda: statements(connection) == ["active"])
        task.send_signal(signal.SIGTERM)
        assert (
            "KeyboardInterrupt: Airflow asked this task to stop" in task.communicate(timeout=20)[1]
        )
    wait_until(lambda: statements(connection) == [])


def statements(connection: psycopg.Connection[Any]) -> list[str]:
    found = connection.execute(
        "SELECT state FROM pg_stat_activity WHERE application_name = 'to be killed'"
    )
    return [state for (state,) in found]


def wait_until(done: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "operator",
    [
        *(PostgresToMinioOperator, MinioToPostgresOperator, SqlTransformOperator),
        *(CreateBucketOperator, LookOperator),
    ],
)
def test_no_string_of_a_spec_is_a_template(operator: type[StepOperator]) -> None:
    made = operator(task_id="t", spec="{{ 7*7 }}", name="{{ 7*7 }}")
    made.render_template_fields({})
    assert (made.spec, made.name) == ("{{ 7*7 }}", "{{ 7*7 }}")
    assert not made.template_fields and not made.template_ext


def test_the_task_of_a_broken_spec_fails_with_its_problems() -> None:
    with pytest.raises(AirflowFailException, match="line 3 is wrong"):
        execute(BrokenSpecOperator(task_id="broken_spec", problems="line 3 is wrong"), {})
