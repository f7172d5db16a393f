"""The event `check`: rows that do not pass a check of the pipeline file, or a constraint of the
warehouse, each by the step that meets them on real servers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException

from loadsheet.airflow.alerts.callbacks import notify_failure
from loadsheet.airflow.alerts.message import Message
from loadsheet.airflow.alerts.task_messages import failure_message
from loadsheet.airflow.operators import as_airflow_errors
from tests.airflow.alert_world import KINDS, World, context, variables, work, world
from tests.project import Project

__all__ = ["variables", "world"]

ROWS = "INSERT INTO t SELECT i, i FROM generate_series(1, 10) i"
FILLED = f"CREATE TABLE t (id int PRIMARY KEY, n int); {ROWS}"
KEYLESS = f"CREATE TABLE t (id int, n int); {ROWS}"
TWICE = "SELECT id, n FROM staging.t UNION ALL SELECT id, n FROM staging.t"


@dataclass(frozen=True, kw_only=True)
class Case:
    table: dict[str, Any] = field(default_factory=dict)
    mart: Any = None
    create: str = FILLED
    then: str = ""
    """In the source, after a first load; without it, the first load meets the rows."""
    constraint: str = ""
    check: str
    """What is told; empty where the failure is that of no check."""
    rows: str = ""


MERGED = {"incremental": "n"}
CASES = {
    "a table that shrinks": Case(
        table={"max_shrink": 0.1},
        then="DELETE FROM t WHERE id > 5",
        check="max_shrink",
        rows="5",
    ),
    "deleted rows": Case(
        table={**MERGED, "deletes": "hard"},
        then="DELETE FROM t WHERE id > 5",
        check="deletes.max_delete",
        rows="5",
    ),
    "changed columns": Case(
        table={"schema_contract": {"columns": "freeze"}},
        then="ALTER TABLE t ADD COLUMN more int; INSERT INTO t VALUES (99, 99)",
        check="schema_contract",
    ),
    "rows without a cursor": Case(
        table={**MERGED},
        create=FILLED + "; UPDATE t SET n = NULL WHERE id < 4",
        check="incremental.nulls",
        rows="3",
    ),
    "rows without a key": Case(
        table={"primary_key": ["id"]},
        create=KEYLESS + "; UPDATE t SET id = NULL WHERE id < 3",
        check="primary_key",
        rows="2",
    ),
    "rows that share a key": Case(
        table={"primary_key": ["id"]},
        create=KEYLESS + "; UPDATE t SET id = 1 WHERE id < 3",
        check="primary_key",
    ),
    "a mart's rows that share a key": Case(
        mart=(TWICE, {"unique_key": ["id"]}), check="unique_key"
    ),
    "a constraint of the warehouse": Case(
        table={**MERGED},
        constraint="ADD CONSTRAINT small CHECK (n < 100)",
        then="INSERT INTO t VALUES (100, 100)",
        check="constraint small",
    ),
    "a column that must have values": Case(
        table={"incremental": "id"},
        constraint="ALTER n SET NOT NULL",
        then="INSERT INTO t VALUES (100, NULL)",
        check="NOT NULL of n",
    ),
    "a script that asserts": Case(
        mart=(
            "DO $$ BEGIN ASSERT (SELECT count(*) FROM staging.t) > 10; END $$",
            {"materialized": "script"},
        ),
        check="ASSERT",
    ),
    "a table that is gone": Case(then="ALTER TABLE t RENAME TO u", check=""),
    "a mart of a column that is not there": Case(mart="SELECT nothing FROM staging.t", check=""),
    "a mart that divides by zero": Case(mart="SELECT 1 / 0 AS n FROM staging.t", check=""),
}


def failed(project: Project, case: Case) -> BaseException:
    """The error as Airflow is given it."""
    project.in_source(case.create)
    marts = {"m": case.mart} if case.mart else None
    project.spec({"t": case.table or None}, marts, tasks={"retries": 0})
    if case.then:
        project.succeed()
        if case.constraint:
            project.in_warehouse(f"ALTER TABLE staging.t {case.constraint}")
        project.in_source(case.then)
    errors = [one.result for one in project.run().values() if one.state == "failed"]
    (error,) = errors
    assert isinstance(error, Exception)
    with pytest.raises(AirflowException) as raised, as_airflow_errors():
        raise error
    return raised.value


def told(error: BaseException) -> Message:
    return failure_message(context(error, step="load.load_t"))


@pytest.mark.parametrize("name", CASES)
def test_a_failed_check_is_told_as_one_with_its_rows(project: Project, name: str) -> None:
    case = CASES[name]
    message = told(failed(project, case))
    if not case.check:
        assert message.event == "failure" and "Check" not in message.facts
        return
    assert (message.event, message.state) == ("check", "open")
    assert message.title == f"flights: the check {case.check} failed at load.load_t"
    assert message.facts["Check"] == case.check
    assert message.facts.get("Rows", "") == case.rows
    code, since = project.in_warehouse("SELECT code, since FROM loadsheet.failure")[0]
    assert code.startswith("SQLSTATE ") or code == f"check {case.check}"
    assert since is not None


def test_a_batch_tells_the_checks_of_its_tables(project: Project) -> None:
    project.in_source(FILLED)
    project.in_source("CREATE TABLE u (id int PRIMARY KEY)")
    project.spec({"t": {"max_shrink": 0.1}, "u": None}, tasks={"granularity": "batch"})
    project.succeed()
    project.in_source("DELETE FROM t WHERE id > 5; ALTER TABLE u RENAME TO v")
    error = batch_error(project)
    assert error.check == "max_shrink"  # type: ignore[attr-defined]
    with pytest.raises(AirflowException) as raised, as_airflow_errors():
        raise error
    message = told(raised.value)
    assert message.event == "check" and message.facts["Check"] == "max_shrink"
    assert "t: t" not in message.sections[0].text and "would shrink" in message.sections[0].text


def batch_error(project: Project) -> Exception:
    from loadsheet.engine.batch import run_batch
    from loadsheet.errors import TablesFailed
    from loadsheet.outcome import RunRequest
    from loadsheet.spec.pipeline_file import load_pipeline

    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    request, connections = RunRequest(run_id="manual__1"), project.connections
    with pytest.raises(TablesFailed) as failure:
        run_batch(
            "t to u",
            ["t", "u"],
            pipeline,
            request,
            connections,
            lambda name: lambda *sizes: None,
            lambda *ended: None,
        )
    return failure.value


def test_each_route_hears_once_of_a_failed_check_and_of_its_end(
    world: World, variables: dict[str, str], project: Project
) -> None:
    """Who asks for `failure`, for `check`, or for both; who asks for neither hears nothing."""
    routes = [
        {**KINDS["webhook"], "events": ["check", "recovery"]},
        {**KINDS["teams"], "events": ["failure", "check"]},
        {**KINDS["pagerduty"], "events": ["failure", "recovery"]},
        {**KINDS["slack"], "events": ["differs", "recovery"]},
    ]
    error = failed(project, CASES["a table that shrinks"])
    notify_failure(context(error, step="load.load_t"), routes=routes)
    work(routes, step="load.load_t")
    hook = [request.document for request in world.posted_to("/hook")]
    assert [document["event"] for document in hook] == ["check", "recovery"]
    assert hook[0]["facts"]["Check"] == "max_shrink" and hook[0]["facts"]["Rows"] == "5"
    assert len(world.posted_to("/workflows")) == 1
    assert len(world.posted_to("/v2/enqueue")) == 2
    assert world.posted_to("/T0") == [] and variables == {}
    assert json.dumps(hook).count("=(1") == 0  # no key and no row
