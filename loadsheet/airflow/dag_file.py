"""What a DAG file of the bundle holds: the DAG of one pipeline file, with that file as its source
in Airflow's UI."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.policies import hookimpl
from airflow.sdk import DAG, get_parsing_context
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.settings import get_policy_plugin_manager

from loadsheet.airflow.dag_ids import taken, taken_by
from loadsheet.airflow.registry import attempt, relative
from loadsheet.airflow.stubs import mark


class PipelineProblems(Exception):
    """A pipeline file cannot become a DAG; the text has every problem with file:line:column."""


class BrokenPipeline(DAG):
    """Stands for a file with problems until Airflow looks at it, and then becomes an import error.

    An exception in `validate` is shown as its text alone; raised while the DAG file is imported, it
    would come with a traceback through our code, which helps no user.
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
    if get_parsing_context().dag_id:  # a worker: whose DAG it is was settled when it was scheduled
        return _dag(*attempt(spec, root), spec)
    began = time.time_ns()
    mark(Path(stub), began)
    name, made = attempt(spec, root)
    # before we ask who else has it: one of the two sees both
    mark(Path(stub), began, name if name != folder else "")
    if isinstance(made, DAG) and (owner := taken_by(spec, name, root)):
        made = taken(name, relative(owner, root))
    return _dag(name, made, spec)


def _dag(name: str, made: DAG | str, spec: Path) -> DAG:
    if isinstance(made, str):
        broken = BrokenPipeline(name, schedule=None)
        broken.problems = f"{relative(spec, spec.parents[2])} cannot become a DAG:\n{made}"
        return broken
    for task in made.tasks:  # the bundle's version of the file, not one beside our code
        if isinstance(task, MappedOperator):
            task.partial_kwargs["spec"] = str(spec)
        else:
            task.spec = str(spec)
    made.pipeline_file = str(spec)  # type: ignore[attr-defined]
    return made


class _YamlIsTheSource:
    """A cluster policy. Airflow has just noted the stub as the DAG's file; the Code tab shows
    whatever is noted."""

    @staticmethod
    @hookimpl
    def dag_policy(dag: DAG) -> None:
        dag.fileloc = getattr(dag, "pipeline_file", dag.fileloc)


get_policy_plugin_manager().register(_YamlIsTheSource)
