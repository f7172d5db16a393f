"""Which tasks have failed and not worked since: one Airflow Variable per such task, and none while all is well.

Airflow's own history cannot say it: runs that people trigger have no date to be ordered by, and clearing a task makes
it forget. XCom and the task's state store end with the run. A Variable can be read and written from a task and, where
a task's process was lost, from the DAG processor.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

_PREFIX = "loadsheet_failed"
_LONGEST_KEY = 250  # of a Variable, in Airflow's database
_DESCRIPTION = "{task_id} of {dag_id} has failed and not worked since; Loadsheet removes this when it does"


@dataclass(frozen=True)
class Failure:
    """The first failure since the task last worked."""

    since: str
    run_id: str


def find(dag_id: str, task_id: str) -> Failure | None:
    """The task's failure, if it has not worked since. One small query of Airflow's API, no secrets backend."""
    from airflow.sdk import Variable

    key = variable_key(dag_id, task_id)
    if key not in Variable.keys(prefix=key):
        return None
    return Failure(**json.loads(Variable.get(key)))


def remember(dag_id: str, task_id: str, run_id: str) -> None:
    """Note the failure, unless an earlier one is still open."""
    from airflow.sdk import Variable

    if find(dag_id, task_id):
        return
    failure = Failure(since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), run_id=run_id)
    description = _DESCRIPTION.format(task_id=task_id, dag_id=dag_id)
    Variable.set(variable_key(dag_id, task_id), json.dumps(asdict(failure)), description=description)


def forget(dag_id: str, task_id: str) -> None:
    """The task works again."""
    from airflow.sdk import Variable

    Variable.delete(variable_key(dag_id, task_id))


def variable_key(dag_id: str, task_id: str) -> str:
    """The Variable of a task; what is too long for Airflow ends with a hash instead."""
    key = f"{_PREFIX}__{dag_id}__{task_id}"
    return (
        key
        if len(key) <= _LONGEST_KEY
        else f"{key[: _LONGEST_KEY - 21]}_{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    )
