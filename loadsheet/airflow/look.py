"""The task `look`: the first of a run, which skips the tasks of all that has nothing to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import DownstreamTasksSkipped

from loadsheet.airflow.operators import StepOperator
from loadsheet.redact import summary

if TYPE_CHECKING:
    from airflow.sdk import Context

_log = logging.getLogger(__name__)

# Airflow skips them in one statement with two values for each; SQLite takes 32,766 values.
_MOST_SKIPPED = 10_000


class LookOperator(StepOperator):
    """Makes sure that the lake's bucket exists, and looks at all tables and transforms. Airflow
    then skips the tasks of those that have nothing to do, without a process for any of them."""

    kind = "look"
    ui_color = "#d9d9d9"

    def execute(self, context: Context) -> None:
        """Raises DownstreamTasksSkipped, with which this task is a success, for the tasks that have
        nothing to do; otherwise as every StepOperator.

        The tasks of a pattern are not among them: they do not exist yet.
        """
        names = self._outcome(context).names
        if self._was_cleared(context):
            # Its transforms were cleared with it, and that builds them in full.
            names = tuple(name for name in names if not name.startswith("transform."))
        names = self._without_open_failures(names)
        if names:
            # Extracts come first and loads last: a task that is left over never follows one that
            # runs, and Airflow skips a load after its extract anyway.
            skipped = list(names[:_MOST_SKIPPED])
            raise DownstreamTasksSkipped(tasks=skipped)  # type: ignore[no-untyped-call]

    def _without_open_failures(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The tasks without those that have failed and not worked since, and without all that
        follows them: only a task that runs reports that it works again."""
        if not self.on_skipped_callback:
            return names
        from loadsheet.airflow.alerts.incidents import (
            open_failures,
        )  # not needed to parse a DAG file

        try:
            failed = open_failures(self.dag_id, names)
        except Exception as error:
            _log.warning("No task is skipped, as some may have failed before: %s", summary(error))
            return ()
        if not failed:
            return names
        dag = self.get_dag()
        assert dag
        running = set(failed)
        for name in failed:
            running |= dag.get_task(name).get_flat_relative_ids(upstream=False)
        return tuple(name for name in names if name not in running)
