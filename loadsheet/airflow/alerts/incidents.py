"""The failures that are still open: tasks that have failed and not worked since.

A task has recovered if it works after an open failure, which a Variable remembers. Airflow's
history cannot tell: triggered runs have no date to order them by, and clearing a task removes its
earlier result. XCom and the task's state store end with the run. A Variable can be read and written
by a task and, if the task's process was lost, by the DAG processor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from loadsheet.airflow.alerts.message import Thread
from loadsheet.airflow.operators import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

_PREFIX = "loadsheet_failed"
_LONGEST_KEY = 250  # of a Variable, in Airflow's database
_HASH_LENGTH = 20
_DESCRIPTION = (
    "{task_id} of {dag_id} has failed and not worked since; Loadsheet removes this when it does"
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The failures since the task last worked."""

    since: str
    run_id: str
    """The run in which it failed first."""
    heard: Sequence[str] = ()
    """The places that were told of it."""
    threads: Mapping[str, Thread] = field(default_factory=dict)
    """By the places of routes: where their message about the first failure is."""
    told: Sequence[str] = ()
    """The places that know that it works again, while others could not be told."""

    def heard_by(self, places: Sequence[str]) -> Failure:
        """The failure when these places were told of it, too."""
        return replace(self, heard=[*dict.fromkeys([*self.heard, *places])])


def open_failure(dag_id: str, task_id: str) -> Failure | None:
    """The task's failure, if it has not worked since. For a task without one, this is one small
    request to Airflow's API, and none to a secrets backend."""
    from airflow.sdk import Variable

    key = variable_key(dag_id, task_id)
    if key not in Variable.keys(prefix=key):
        return None
    try:
        return Failure(**json.loads(Variable.get(key)))
    except (ValueError, TypeError):  # edited, or of another version
        return Failure(since="not known", run_id="not known")


def open_failures(dag_id: str, task_ids: Sequence[str]) -> set[str]:
    """Those of the tasks that have failed and not worked since, by one request for all of them."""
    from airflow.sdk import Variable

    # A key that is too long ends with a hash, and begins as the others do.
    prefix = variable_key(dag_id, "")[: _LONGEST_KEY - _HASH_LENGTH - 1]
    failed = set(Variable.keys(prefix=prefix))
    return {task_id for task_id in task_ids if variable_key(dag_id, task_id) in failed}


def remember(dag_id: str, task_id: str, run_id: str, places: Sequence[str]) -> Failure:
    """Store the failure, or an earlier one that is still open, with the `places` that are about to
    be told: a process that dies meanwhile may have told them. Returns it without these."""
    known = open_failure(dag_id, task_id)
    # Where some routes know that the task works again, a new failure is a new trouble.
    if known is None or known.told:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        known = Failure(since=since, run_id=run_id)
    keep(dag_id, task_id, known.heard_by(places))
    return known


def keep(dag_id: str, task_id: str, failure: Failure) -> None:
    """Store the failure as it is."""
    from airflow.sdk import Variable

    description = _DESCRIPTION.format(task_id=task_id, dag_id=dag_id)
    Variable.set(
        variable_key(dag_id, task_id), json.dumps(asdict(failure)), description=description
    )


def forget(dag_id: str, task_id: str) -> None:
    """Remove the failure: the task works again."""
    from airflow.sdk import Variable

    Variable.delete(variable_key(dag_id, task_id))


def variable_key(dag_id: str, task_id: str) -> str:
    """The name of the task's Variable; if it is too long for Airflow, it ends with a hash."""
    key = f"{_PREFIX}__{dag_id}__{task_id}"
    if len(key) <= _LONGEST_KEY:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{key[: _LONGEST_KEY - _HASH_LENGTH - 1]}_{digest}"


def step_name(context: Context) -> str:
    """The task's id, followed by its table if it is a mapped task, or by its number if it is one of
    a DAG of the user's own."""
    ti, task = context["ti"], context["task"]
    if getattr(ti, "map_index", -1) < 0:
        return str(ti.task_id)
    # The `name` of another operator, such as a pod's, may be the same for all mapped tasks.
    own = task.name if isinstance(task, StepOperator) else ti.map_index
    return f"{ti.task_id} [{own}]"
