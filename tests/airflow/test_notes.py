"""The note that tasks write for their run, where Airflow lets them: 3.4 does."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import AirflowSkipException

from loadsheet.airflow import operators
from loadsheet.airflow.notes import write_note
from loadsheet.spec.pipeline_file import load_pipeline
from tests.airflow.test_table_operators import RETRIES, SOURCE, Task
from tests.project import Project


@pytest.fixture
def shop(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two tables and a mart, loaded and built by the run `run`."""
    monkeypatch.setattr(operators, "airflow_connection", project.connections)
    project.in_source(SOURCE)
    tables = {"item": {"incremental": "at"}, "kind": None}
    project.spec(tables, {"kinds": "SELECT count(*) AS n FROM kind"}, tasks={"retries": RETRIES})
    project.run(run_id="run")
    return project


def noted(project: Project, **of_run: Any) -> list[str]:
    """The notes that a task of the run writes."""
    pipeline = load_pipeline(project.folder / "pipelines" / project.name / "pipeline.yml")
    notes: list[str] = []
    facts = {"run_type": "scheduled", "clear_number": 0, **of_run}
    context: Any = {
        "run_id": "run",
        "ti": SimpleNamespace(update_dagrun_note=notes.append),
        "dag_run": SimpleNamespace(**facts),
    }
    write_note(pipeline, context, project.connections)
    return notes


def test_the_note_tells_what_the_run_has_done(shop: Project) -> None:
    (text,) = noted(shop)
    rows = "56 inserted, 0 updated, 0 deleted"
    assert text == f"Loadsheet: 2 tables loaded, 1 mart built. Rows: {rows}"


@pytest.mark.parametrize("of_run", [{"run_type": "manual"}, {"clear_number": 1}])
def test_a_note_that_a_person_may_have_written_stays(shop: Project, of_run: dict[str, Any]) -> None:
    assert noted(shop, **of_run) == []


def test_a_task_that_changes_something_writes_it_and_no_other(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        operators, "write_note", lambda pipeline, *given: told.append(pipeline.name)
    )
    Task(shop, "transform.transform_kinds", full_refresh=True).execute()
    assert told == ["shop"]
    with pytest.raises(AirflowSkipException):
        Task(shop, "transform.transform_kinds", "next").execute()
    assert told == ["shop"]


def test_the_tasks_of_a_run_write_one_after_the_other(shop: Project) -> None:
    """What is written last must be complete."""
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('loadsheet run: shop run', 0))"
    notes: list[list[str]] = []
    with psycopg.connect(shop.warehouse) as other:
        other.execute(lock)
        task = threading.Thread(target=lambda: notes.append(noted(shop)))
        task.start()
        while task.is_alive() and not shop.in_warehouse(waits)[0][0]:
            task.join(0.01)
        assert not notes
        other.execute("UPDATE loadsheet.load SET updated = 7 WHERE table_name = 'kind'")
    task.join()
    assert "7 updated" in notes[0][0]


def test_airflow_3_3_has_no_such_note_and_a_server_that_is_away_fails_nothing(
    shop: Project, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = load_pipeline(shop.folder / "pipelines" / shop.name / "pipeline.yml")
    context: Any = {"run_id": "run", "ti": SimpleNamespace()}
    write_note(pipeline, context, shop.connections)
    assert not caplog.records
    shop.in_warehouse("DROP SCHEMA loadsheet CASCADE")
    caplog.set_level("INFO")
    assert noted(shop) == []
    assert "the run has no note of this task: UndefinedTable" in caplog.text
