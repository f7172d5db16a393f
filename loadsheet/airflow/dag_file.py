"""The DAG in a DAG file of the bundle: that of one pipeline file, which Airflow's UI shows as its
source."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.policies import hookimpl
from airflow.sdk import DAG, get_parsing_context
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.settings import get_policy_plugin_manager

from loadsheet.airflow.dag_ids import name_taken, owner_of
from loadsheet.airflow.pools import missing_pools
from loadsheet.airflow.registry import attempt, relative
from loadsheet.airflow.spec_alerts import report_problems, report_repair
from loadsheet.airflow.stubs import mark


class PipelineProblems(Exception):
    """A pipeline file cannot become a DAG; the text has every problem with file:line:column."""


class BrokenPipeline(DAG):
    """Stands for a file with problems until Airflow validates it, which is then an import error.

    Airflow shows an exception of `validate` as its text alone. An exception while the DAG file is
    imported is shown with a traceback through our code, which helps no user.
    """

    problems: str

    def validate(self) -> None:
        """Raises PipelineProblems."""
        raise PipelineProblems(self.problems)


def dag_of(stub: str, project: str, folder: str) -> DAG:
    """The DAG of `pipelines/<folder>/pipeline.yml`, or one that becomes an import error. `stub` is
    the DAG file."""
    root = Path(project)
    spec = root / "pipelines" / folder / "pipeline.yml"
    # In a worker: which file owns the name was decided when the DAG was scheduled.
    if get_parsing_context().dag_id:
        name, dag = attempt(spec, root)
        return _finished(name, dag, spec)
    began = time.time_ns()
    mark(Path(stub), began)
    name, dag = attempt(spec, root)
    # Before looking for another owner: of two parses at once, at least one then sees both names.
    mark(Path(stub), began, name if name != folder else "")
    if isinstance(dag, DAG):
        owner = owner_of(name, spec, root)
        if owner:
            dag = name_taken(name, relative(owner, root))
    if isinstance(dag, DAG):
        dag = missing_pools(dag, Path(stub)) or dag
    if isinstance(dag, DAG):
        report_repair(Path(stub), relative(spec, root), dag)
    else:
        report_problems(Path(stub), spec, relative(spec, root), dag)
    return _finished(name, dag, spec)


def _finished(name: str, dag: DAG | str, spec: Path) -> DAG:
    """The DAG, whose tasks read the file `spec`; or one that reports the problems in `dag`."""
    if isinstance(dag, str):
        broken = BrokenPipeline(name, schedule=None)
        broken.problems = f"{relative(spec, spec.parents[2])} cannot become a DAG:\n{dag}"
        return broken
    # the file of the bundle's version, not the one in another copy of the project
    for task in dag.tasks:
        if isinstance(task, MappedOperator):
            task.partial_kwargs["spec"] = str(spec)
        else:
            task.spec = str(spec)
    dag.pipeline_file = str(spec)  # type: ignore[attr-defined]
    return dag


class _YamlIsTheSource:
    """A cluster policy. Airflow has just set the stub as the DAG's file, and the Code tab shows
    that file."""

    @staticmethod
    @hookimpl
    def dag_policy(dag: DAG) -> None:
        dag.fileloc = getattr(dag, "pipeline_file", dag.fileloc)


get_policy_plugin_manager().register(_YamlIsTheSource)
