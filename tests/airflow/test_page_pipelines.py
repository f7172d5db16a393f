"""Which pipeline file belongs to a DAG, by the file that Airflow has stored for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.models.dag import DagModel
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from loadsheet.airflow.page_pipelines import pipeline_files

TEXT = """\
version: 1
pipeline: {name}
source: {{conn_id: source}}
lake: {{conn_id: lake, bucket: lake}}
warehouse: {{conn_id: warehouse}}
tables: {{item: }}
"""


@pytest.fixture
def session() -> Iterator[Session]:
    """Airflow's table of DAGs, empty."""
    engine = create_engine("sqlite://")
    DagModel.__table__.create(engine)  # type: ignore[attr-defined]
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Pipelines named as their folders, otherwise, and broken ones."""
    texts = {
        "shop": TEXT.format(name="shop"),
        "folder": TEXT.format(name="renamed"),
        "aaa": TEXT.format(name="shop"),  # the folder of that name owns it
        "broken": TEXT.format(name="half") + "nonsense: 1\n",
    }
    for folder, text in texts.items():
        (tmp_path / "pipelines" / folder).mkdir(parents=True)
        (tmp_path / "pipelines" / folder / "pipeline.yml").write_text(text)
    return tmp_path


def store(session: Session, file: Path, *dag_ids: str, stale: bool = False) -> None:
    for dag_id in dag_ids:
        session.add(
            DagModel(dag_id=dag_id, fileloc=str(file), bundle_name="project", is_stale=stale)
        )
    session.flush()


def found(session: Session, project: Path, *dag_ids: str) -> dict[str, str]:
    """The pipelines' folders by DAG id."""
    files = pipeline_files(session, dag_ids)
    return {dag_id: file.relative_to(project).parts[1] for dag_id, file in files.items()}


def test_with_the_bundle_it_is_the_dags_own_file_on_whichever_machine_it_is(
    session: Session, project: Path
) -> None:
    store(session, project / "pipelines/shop/pipeline.yml", "shop")
    store(session, project / "pipelines/elsewhere/pipeline.yml", "elsewhere")
    ids = ("shop", "elsewhere", "unknown")
    assert found(session, project, *ids) == {"shop": "shop", "elsewhere": "elsewhere"}


def test_with_the_loader_it_is_the_file_of_that_name(session: Session, project: Path) -> None:
    ids = ("shop", "renamed", "half", "foreign")
    store(session, project / "dags/load_pipelines.py", *ids)
    assert found(session, project, *ids) == {
        "shop": "shop",
        "renamed": "folder",
        "half": "broken",
    }


def test_only_dags_that_are_asked_for_and_still_there_are_found(
    session: Session, project: Path
) -> None:
    loader = project / "dags/load_pipelines.py"
    store(session, loader, "shop")
    store(session, loader, "renamed", stale=True)
    assert found(session, project, "renamed") == {}
    assert found(session, project, "shop") == {"shop": "shop"}
    assert pipeline_files(session, []) == {}


def test_a_dag_of_another_project_is_not_taken_for_a_pipeline(
    session: Session, project: Path
) -> None:
    store(session, Path("/opt/others/dags/jobs.py"), "shop")
    assert pipeline_files(session, ["shop"]) == {}
