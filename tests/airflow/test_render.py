"""What `loadsheet render` prints is, to dag-factory's own loader, the DAG that Airflow gets from
the spec."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from dagfactory import load_yaml_dags
from typer.testing import CliRunner

from loadsheet.airflow.registry import pipeline_dags
from loadsheet.cli.main import app
from loadsheet.spec.pipeline_file import load_pipeline
from tests.airflow.conftest import REPO
from tests.airflow.test_by_hand import runtime, stored

VALID = REPO / "tests" / "specs" / "valid"
SPECS = [
    REPO / "pipelines" / "flights",
    *sorted(VALID.glob("*.yml")),
    VALID / "batches",
    VALID / "every_key",
    VALID / "design_sample",
]
SHOWN_FILE = "\n## YML DAG\n```yaml\n"
DOLLARS = """\
version: 1
pipeline: dollars
description: "{{ 7*7 }} costs $HOME, ${HOME}, $$ and \\\\x24HOME"
schedule: "0 4 * * *"
start_date: "2026-01-01T02:00:00+02:00"
tags: [$HOME]
source: {conn_id: src, schema: "from $HOME"}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
notify: {slack_conn_id: slack, events: [failure]}
tables:
  "$HOME":
  "{{ 7*7 }}":
  'Order "Lines" é': {incremental: {cursor: "$USER at", by: data_interval}}
transforms:
  prices: {materialized: merge, unique_key: "$id"}
"""
SQL = """\
-- $HOME and ${HOME}; `$HOME`
SELECT '$HOME {{ 7*7 }}' AS "$id", $body$ it's $HOME $body$ AS body, E'\\x24' AS escape, "$HOME".*
FROM "$HOME"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project without pipelines."""
    (tmp_path / "pipelines").mkdir()
    return tmp_path


def add(project: Path, spec: Path | str, sql: dict[str, str] | None = None) -> str:
    """Put a spec (its folder, its file or its text) into the project; the DAG's id."""
    home = project / "pipelines" / "the_pipeline"
    if isinstance(spec, Path) and spec.is_dir():
        shutil.copytree(spec, home)
    else:
        (home / "sql").mkdir(parents=True)
        (home / "pipeline.yml").write_text(
            spec if isinstance(spec, str) else spec.read_text("utf-8"), "utf-8"
        )
    for name, text in (sql or {}).items():
        (home / "sql" / f"{name}.sql").write_text(text)
    return next(iter(pipeline_dags(project)))


def rendered(project: Path, dag_id: str) -> str:
    """What the command prints."""
    done = CliRunner().invoke(
        app, ["--project", str(project), "render", dag_id], prog_name="loadsheet"
    )
    assert done.exit_code == 0, done.output
    return done.stdout


def loaded(text: str, folder: Path) -> dict[str, DAG]:
    """The DAGs that dag-factory's loader makes of a file with this text."""
    file = folder / "dagfactory" / "rendered.yml"
    file.parent.mkdir()
    file.write_text(text, "utf-8")
    found: dict[str, Any] = {}
    load_yaml_dags(found, config_filepath=str(file), defaults_config_path=str(file.parent))
    return found


def facts(dag: DAG) -> Any:
    """What Airflow stores and a worker uses.

    dag-factory shows its file at the end of the DAG's docs, and gives the DAG its params before its
    tasks, into which Airflow then copies them.
    """
    document, tasks = stored(dag)
    document["doc_md"] = document["doc_md"].partition(SHOWN_FILE)[0]
    return (
        document,
        [{k: v for k, v in task.items() if k != "params"} for task in tasks],
        runtime(dag),
    )


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_the_rendered_file_is_the_same_dag_to_dag_factory(spec: Path, project: Path) -> None:
    dag_id = add(project, spec)
    found = loaded(rendered(project, dag_id), project)
    assert list(found) == [dag_id]
    assert facts(found[dag_id]) == facts(pipeline_dags(project)[dag_id])


EARLIER_NAMES = {
    "loadsheet.airflow.look.LookOperator": "operators.look.LookOperator",
    "loadsheet.airflow.operators.PostgresToMinioOperator": (
        "operators.extract.PostgresToMinioOperator"
    ),
    "loadsheet.airflow.operators.MinioToPostgresOperator": "operators.load.MinioToPostgresOperator",
    "loadsheet.airflow.operators.SqlTransformOperator": "operators.transform.SqlTransformOperator",
    "loadsheet.airflow.alerts.callbacks.notify_failure": "operators.slack.notify_failure",
    "loadsheet.airflow.alerts.callbacks.notify_success": "operators.slack.notify_recovery",
}


def test_a_file_that_was_rendered_with_the_earlier_names_is_the_same_dag(project: Path) -> None:
    dag_id = add(project, REPO / "pipelines" / "flights")
    text = rendered(project, dag_id)
    for name, earlier in EARLIER_NAMES.items():
        assert name in text
        text = text.replace(name, earlier)
    assert "loadsheet.airflow" not in text
    assert facts(loaded(text, project)[dag_id]) == facts(pipeline_dags(project)[dag_id])


def test_no_variable_of_the_environment_gets_into_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USER", "id", "body"):
        monkeypatch.setenv(name, "expanded")
    dag_id = add(project, DOLLARS, {"prices": SQL})
    dag = loaded(rendered(project, dag_id), project)[dag_id]
    assert facts(dag) == facts(pipeline_dags(project)[dag_id])
    assert "expanded" not in json.dumps(stored(dag))
    assert SQL.strip() in dag.get_task("transform.transform_prices").doc_md


def test_with_plain_dollars_it_would(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: dag-factory expands, also inside SQL."""
    monkeypatch.setenv("HOME", "expanded")
    dag_id = add(project, DOLLARS, {"prices": SQL})
    dag = loaded(rendered(project, dag_id).replace(r"\x24", "$"), project)[dag_id]
    assert "expanded" in dag.get_task("transform.transform_prices").doc_md
    assert facts(dag) != facts(pipeline_dags(project)[dag_id])


@pytest.mark.parametrize("name", ["default", "task_groups"])
def test_a_name_that_dag_factory_keeps_for_itself_is_refused(name: str, project: Path) -> None:
    add(project, DOLLARS.replace("pipeline: dollars", f"pipeline: {name}"), {"prices": SQL})
    done = CliRunner().invoke(app, ["--project", str(project), "render", name])
    assert done.exit_code == 2 and done.stdout == ""
    assert f"{name!r} is a reserved key in dag-factory" in done.stderr


def test_the_page_on_leaving_leads_to_a_dag_without_our_loader(project: Path) -> None:
    dag_id = add(project, DOLLARS.replace("dollars", "shop"), {"prices": SQL})
    (project / "pipelines" / "the_pipeline").rename(project / "pipelines" / dag_id)
    ours = pipeline_dags(project)[dag_id]
    (project / "shop.dag-factory.yml").write_text(rendered(project, dag_id), "utf-8")
    page = (REPO / "docs" / "leaving.md").read_text("utf-8")
    (project / "load_shop.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    hand_over = page.partition("```bash\nmkdir")[2].partition("```")[0]
    subprocess.run(["bash", "-e", "-c", f"mkdir{hand_over}"], cwd=project, check=True)
    assert pipeline_dags(project) == {}
    dag = runpy.run_path(str(project / "load_shop.py"))[dag_id]
    assert dag.task_ids == ours.task_ids
    specs = {task.partial_kwargs["spec"] if task.is_mapped else task.spec for task in dag.tasks}
    assert {load_pipeline(project / spec).name for spec in specs} == {dag_id}


def test_it_can_be_edited_by_hand(project: Path) -> None:
    dag_id = add(project, REPO / "pipelines" / "flights")
    text = rendered(project, dag_id)
    for before, after in (
        ("schedule: '@daily'", "schedule: '@hourly'"),
        ("owner: data-eng", "owner: somebody-else"),
        ("    extract_seats:\n", "    extract_seats:\n      priority_weight: 7\n"),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    text += (
        "    tell_everybody:\n      operator:"
        " airflow.providers.standard.operators.empty.EmptyOperator\n      dependencies:"
        " [transform_fct_boarding_pass]\n"
    )
    dag, ours = loaded(text, project)[dag_id], pipeline_dags(project)[dag_id]
    assert (dag.schedule, dag.default_args["owner"]) == ("@hourly", "somebody-else")
    assert dag.get_task("extract.extract_seats").priority_weight == 7
    assert dag.get_task("tell_everybody").upstream_task_ids == {
        "transform.transform_fct_boarding_pass"
    }
    assert set(dag.task_ids) == {*ours.task_ids, "tell_everybody"}
