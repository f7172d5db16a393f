"""Changed columns that loads have followed, kept as Variables until each digest has told them: the
ledger does not have them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)
_PREFIX = "loadsheet_drift__"
_MOST_CHANGES = 50  # a Variable is read as a whole
_DESCRIPTION = "Changed columns that {dag_id} has followed; Loadsheet's digest removes this"


@dataclass(frozen=True, kw_only=True)
class Note:
    """What one task has followed."""

    key: str
    pipeline: str
    at: datetime
    changes: Sequence[str]


def remember(context: Context, drift: Mapping[str, Sequence[str]]) -> None:
    """Note the changes, by table, that this try of the task has followed."""
    from airflow.sdk import Variable

    ti = context["ti"]
    task = f"{ti.dag_id}\n{context['run_id']}\n{ti.task_id}\n{getattr(ti, 'map_index', -1)}"
    task += f"\n{getattr(ti, 'try_number', 1)}"
    changes = [f"{table}: {change}" for table, found in drift.items() for change in found]
    note = {
        "pipeline": ti.dag_id,
        "at": datetime.now(UTC).isoformat(),
        "changes": changes[:_MOST_CHANGES],
    }
    key = f"{_PREFIX}{hashlib.sha256(task.encode()).hexdigest()[:20]}"
    Variable.set(key, json.dumps(note), description=_DESCRIPTION.format(dag_id=ti.dag_id))


def read_notes() -> list[Note]:
    """All notes, in the order of their times; one that was edited to something else is left out."""
    from airflow.sdk import Variable

    notes: list[Note] = []
    for key in Variable.keys(prefix=_PREFIX):
        try:
            found = json.loads(Variable.get(key))
            at = datetime.fromisoformat(found["at"])
            notes.append(Note(key=key, pipeline=found["pipeline"], at=at, changes=found["changes"]))
        except (ValueError, KeyError, TypeError):
            _log.warning("the Variable %s cannot be read", key)
    return sorted(notes, key=lambda note: note.at)


def forget(note: Note) -> None:
    """Remove a note that all digests have told."""
    from airflow.sdk import Variable

    Variable.delete(note.key)
