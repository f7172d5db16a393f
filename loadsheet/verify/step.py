"""The step `verify` of a run: the tables that are due, compared with their source."""

from __future__ import annotations

import logging
from shlex import quote

from loadsheet.connections.lookup import Connections
from loadsheet.engine.due import due_tables
from loadsheet.engine.resolve import resolved
from loadsheet.engine.sessions import Servers
from loadsheet.errors import Differs
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.verify.models import TableVerdict, Verification
from loadsheet.verify.pipeline import verify_pipeline
from loadsheet.verify.text import differences_text, row_text, states_text, verdict_text
from loadsheet.warehouse import ledger
from loadsheet.wording import counted

_log = logging.getLogger(__name__)
# What fits a message in Slack; the log has more.
_MOST_TABLES = 5
_MOST_ROWS = 3
_MOST_LOGGED = 10


def verify_due(pipeline: Pipeline, request: RunRequest, connections: Connections) -> Outcome:
    """Compare the tables that are due by the pipeline's `verify`, of those that the run loads.

    The ledger records each verdict at once, so a retry compares only the rest. Raises Differs,
    which names tables and rows; what `verify_pipeline` raises.
    """
    pipeline = resolved(pipeline, connections)
    with Servers(pipeline, connections).warehouse() as warehouse:
        ledger.ensure(warehouse)  # else the verdicts would not be recorded
        due = due_tables(warehouse, pipeline, pipeline.verify or "")
    names = [name for name in pipeline.tables_in_order(due) if request.wants(name)]
    if not names:
        return skipped(f"no table is due ({pipeline.verify})")
    found = verify_pipeline(pipeline, connections, names, _log_verdict)
    differing = [verdict for verdict in found.tables if verdict.state == "differs"]
    if differing:
        raise Differs(_message(found, differing))
    remarks = [f"{verdict.table}: {verdict.why}" for verdict in found.tables if verdict.why]
    message = states_text(found)
    if remarks:
        message += f". {'. '.join(remarks)}"
    return Outcome(status="done", message=message, remarks=tuple(remarks))


def _log_verdict(verdict: TableVerdict) -> None:
    _log.info("%s", on_one_line(verdict_text(verdict)))
    if verdict.why:
        _log.info("%s: %s", on_one_line(verdict.table), on_one_line(verdict.why))
    if verdict.not_recorded:
        # So the table stays due.
        _log.warning(
            "%s: the verdict is not recorded: %s",
            on_one_line(verdict.table),
            on_one_line(verdict.not_recorded),
        )
    for kind, rows in verdict.named.items():
        for row in rows[:_MOST_LOGGED]:
            _log.info("%s: %s: %s", on_one_line(verdict.table), kind, on_one_line(row_text(row)))


def _message(found: Verification, differing: list[TableVerdict]) -> str:
    tables = ""  # the command repairs all of them
    if len(differing) <= _MOST_TABLES:
        tables = "".join(f" {quote(verdict.table)}" for verdict in differing)
    return on_one_line(
        f"{len(differing):,} of {counted(len(found.tables), 'table')} compared differ from the"
        f" source. {differences_text(differing, _MOST_TABLES, _MOST_ROWS)}. Next: `loadsheet verify"
        f" {found.pipeline}` names more rows; `loadsheet verify {found.pipeline}{tables} --repair`"
        " reads them again"
    )
