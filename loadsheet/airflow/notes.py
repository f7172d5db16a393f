"""The note of a run: a line about what it has loaded and built, which Airflow's grid shows.

Airflow 3.4 lets a task write it (`update_dagrun_note`); 3.3 has nothing of the kind. No version
lets a task read the note that there is. So none is written where a person may have written one: in
a run that a person has started, and in one that was cleared.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from loadsheet.redact import summary

if TYPE_CHECKING:
    from airflow.sdk import Context

    from loadsheet.connections.lookup import Connections
    from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)
_PREFIX = "Loadsheet: "
_STARTED_BY_NOBODY = ("scheduled", "asset_triggered")
_LONGEST_WAIT = "5s"


def write_note(pipeline: Pipeline, context: Context, connections: Connections) -> None:
    """Write what the run has done so far into its note. The work is committed, so an error is a
    line in the log."""
    update = getattr(context["ti"], "update_dagrun_note", None)
    if update is None or not _is_untouched(context):
        return
    from loadsheet.engine.sessions import Servers
    from loadsheet.warehouse.published import run_summary

    try:
        with Servers(pipeline, connections).warehouse() as session, session.transaction():
            session.execute(f"SET LOCAL lock_timeout = '{_LONGEST_WAIT}'")
            update(_PREFIX + run_summary(session, pipeline.name, context["run_id"]))
    except Exception as error:
        _log.info("the run has no note of this task: %s", summary(error))


def _is_untouched(context: Context) -> bool:
    run = context["dag_run"]
    return run.run_type in _STARTED_BY_NOBODY and not run.clear_number
