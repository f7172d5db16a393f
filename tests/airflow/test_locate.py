"""A task finds its pipeline file wherever Airflow has put the project, and its DAG is stored
without a path of the machine that has parsed it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.bundles.local import LocalDagBundle
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.providers.git.bundles.git import GitDagBundle
from airflow.sdk import DAG
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.serialization.serialized_objects import DagSerialization

import loadsheet
from loadsheet.airflow import locate
from loadsheet.airflow.locate import pipeline_file
from loadsheet.airflow.operators import PostgresToMinioOperator
from loadsheet.airflow.registry import pipeline_dags
from loadsheet.errors import InputError
from loadsheet.plan.dag_config import render_dag
from loadsheet.project.scaffold import create_project
from loadsheet.spec.pipeline_file import load_pipeline
from tests.git import commit_all, new_repository

SHOP = """\
version: 1
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables: {orders: , "item_*": }
"""
RENDERED = """\
# Airflow looks for its own name in a file before it reads it.
from pathlib import Path

from dagfactory import load_yaml_dags

load_yaml_dags(globals(), config_filepath=str(Path(__file__).with_name("shop.dag-factory.yml")))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What `loadsheet init` makes, with the pipeline `shop`."""
    folder = create_project(tmp_path / "project").folder
    shutil.rmtree(folder / "pipelines" / "example")
    write(folder)
    return folder


def write(project: Path, text: str = SHOP) -> Path:
    """The pipeline file of `shop` in a project."""
    file = project / "pipelines" / "shop" / "pipeline.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def parse(folder: Path, root: Path | None = None) -> DAG:
    """The DAG `shop` as a worker gets it: by Airflow, from the files in a bundle's folder."""
    bag = BundleDagBag(dag_folder=folder, bundle_path=root or folder, bundle_name="project")
    assert bag.import_errors == {}
    return bag.dags["shop"]


def files(dag: DAG) -> set[Path]:
    """The pipeline files that the tasks of a DAG read."""
    return {
        pipeline_file(
            task.partial_kwargs["spec"] if isinstance(task, MappedOperator) else task.spec,
            task.get_dag(),
        )
        for task in dag.tasks
    }


def stored(dag: DAG) -> str:
    """What Airflow stores of a DAG, apart from the place of the DAG file, which it needs."""
    document: dict[str, Any] = DagSerialization.to_dict(dag)
    assert document["dag"].pop("fileloc")
    return json.dumps(document)


@pytest.mark.parametrize("folder", [".", "dags"])
def test_in_a_folder_of_dags(project: Path, folder: str) -> None:
    bundle = LocalDagBundle(name="project", path=str(project / folder))
    bundle.initialize()
    dag = parse(bundle.path)
    assert files(dag) == {project / "pipelines" / "shop" / "pipeline.yml"}
    assert str(project) not in stored(dag)


def test_the_code_is_somewhere_else(project: Path) -> None:
    assert not project.is_relative_to(Path(loadsheet.__file__).parents[1])


def test_a_project_that_has_moved_since_it_was_parsed(project: Path, tmp_path: Path) -> None:
    """Scheduler and worker may see it in different places; what is stored is the same."""
    before = parse(project)
    moved = project.rename(tmp_path / "elsewhere")
    after = parse(moved)
    assert stored(before) == stored(after)
    assert files(after) == {moved / "pipelines" / "shop" / "pipeline.yml"}


def test_a_loader_that_names_a_project_elsewhere(project: Path, tmp_path: Path) -> None:
    dags = tmp_path / "airflow" / "dags"
    dags.mkdir(parents=True)
    # A pipeline of the same name near the DAG file is not the one that the DAG was made from.
    write(dags.parent)
    loader = (project / "dags" / "load_pipelines.py").read_text()
    named = loader.replace("Path(__file__).resolve().parents[1]", f"Path({str(project)!r})")
    assert named != loader
    (dags / "loader.py").write_text(named)
    assert files(parse(dags)) == {project / "pipelines" / "shop" / "pipeline.yml"}


def test_a_linked_loader(project: Path, tmp_path: Path) -> None:
    dags = tmp_path / "linked"
    dags.mkdir()
    (dags / "load_pipelines.py").symlink_to(project / "dags" / "load_pipelines.py")
    assert files(parse(dags)) == {project / "pipelines" / "shop" / "pipeline.yml"}


def test_a_run_reads_the_file_of_its_own_commit(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "storage"
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(storage))
    new_repository(project)
    first = commit_all(project)
    write(project, f"{SHOP}tags: [second]\n")
    second = commit_all(project)
    found, documents = {}, []
    for version in (first, second):
        bundle = GitDagBundle(
            name="project", repo_url=f"file://{project}", tracking_ref="main", version=version
        )
        bundle.initialize()
        dag = parse(bundle.path)
        (file,) = files(dag)
        assert file.is_relative_to(bundle.path.resolve())
        found[version] = load_pipeline(file).tags
        documents.append(stored(dag))
    assert found == {first: (), second: ("second",)}
    assert not any(str(tmp_path) in document for document in documents)


def rendered(project: Path, dags: Path) -> None:
    """A DAG file made by `loadsheet render`, as docs/leaving.md shows."""
    dags.mkdir(parents=True, exist_ok=True)
    text = render_dag(load_pipeline(project / "pipelines" / "shop" / "pipeline.yml"))
    old = text.replace(
        "loadsheet.airflow.operators.PostgresToMinioOperator",
        "operators.extract.PostgresToMinioOperator",
    )
    assert old != text
    (dags / "shop.dag-factory.yml").write_text(old)
    (dags / "shop.py").write_text(RENDERED)


@pytest.mark.parametrize("dags", ["dags", "dags/rendered", "."])
def test_a_rendered_dag_below_the_project(project: Path, dags: str) -> None:
    (project / "dags" / "load_pipelines.py").unlink()
    (project / ".airflowignore").unlink()
    rendered(project, project / dags)
    assert files(parse(project / dags)) == {project / "pipelines" / "shop" / "pipeline.yml"}


def test_a_rendered_dag_whose_pipeline_file_is_beside_our_code(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This was the only place before the package could be installed."""
    rendered(project, tmp_path / "airflow" / "dags")
    monkeypatch.setattr(locate, "CODE_ROOT", project)
    dag = parse(tmp_path / "airflow" / "dags")
    assert files(dag) == {project / "pipelines" / "shop" / "pipeline.yml"}


def test_a_rendered_dag_without_its_pipeline_file_says_where_it_looked(
    project: Path, tmp_path: Path
) -> None:
    dags = tmp_path / "airflow" / "dags"
    rendered(project, dags)
    with pytest.raises(InputError, match=r"no pipeline file 'pipelines/shop/pipeline.yml'") as said:
        files(parse(dags))
    assert all(str(folder) in str(said.value) for folder in (dags, tmp_path, locate.CODE_ROOT))


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert pipeline_file(str(tmp_path / "any.yml"), None) == tmp_path / "any.yml"


def test_a_copy_of_a_task_still_knows_its_project(project: Path) -> None:
    """The task that runs is a copy; a mapped one is made when it runs."""
    task = pipeline_dags(project)["shop"].get_task("extract.extract_orders")
    assert isinstance(task, PostgresToMinioOperator)
    copy = task.prepare_for_execution()
    assert copy is not task
    found = pipeline_file(copy.spec, copy.get_dag())
    assert found == project / "pipelines" / "shop" / "pipeline.yml"
