"""The step `verify` of a run: the tables and marts that are due, compared with their source and
their SELECT."""

from __future__ import annotations

import logging
from collections import Counter
from shlex import quote

from loadsheet.checks import Check, Checked
from loadsheet.connections.lookup import Connections
from loadsheet.engine.due import Due, due_now
from loadsheet.engine.resolve import resolved
from loadsheet.engine.sessions import Servers
from loadsheet.errors import Differs
from loadsheet.outcome import EVERYTHING, Outcome, RunRequest, skipped
from loadsheet.plan.steps import verified_marts
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


def verify_due(
    pipeline: Pipeline, request: RunRequest, connections: Connections, servers: Servers
) -> Outcome:
    """Compare the tables and marts that are due by the pipeline's `verify`; in a run of chosen
    tables only those. A run that names what to verify compares that, due or not.

    The ledger records each verdict at once, so a retry compares only the rest. Raises Differs,
    which names tables, marts and rows; what `verify_pipeline` raises.
    """
    pipeline = resolved(pipeline, servers)
    with servers.warehouse() as warehouse:
        ledger.ensure(warehouse)  # else the verdicts would not be recorded
        due = due_now(warehouse, pipeline, pipeline.verify or "")
    if request.verify:
        due = _asked(pipeline, request.verify)
    elif request.only is not None:
        due = Due(tables=due.tables & request.only, marts=frozenset())
    if not due:
        return skipped(f"nothing is due ({pipeline.verify})")
    found = verify_pipeline(pipeline, connections, (), _log_verdict, due=due, servers=servers)
    verdicts: Counter[str] = Counter(verdict.state for verdict in found.verdicts)
    if found.differs:
        raise Differs(_message(found), verdicts, _checked(found))
    remarks = [f"{verdict.table}: {verdict.why}" for verdict in found.verdicts if verdict.why]
    message = states_text(found)
    if remarks:
        message += f". {'. '.join(remarks)}"
    return Outcome(
        status="done",
        message=message,
        remarks=tuple(remarks),
        verdicts=verdicts,
        checked=_checked(found),
    )


def _checked(found: Verification) -> tuple[Checked, ...]:
    """The verdicts as checks; without those that prove nothing."""
    checked: list[Checked] = []
    for verdict in found.verdicts:
        if verdict.state not in ("equal", "differs"):
            continue
        check = Check(
            assertion="equals_source" if verdict.kind == "table" else "equals_select",
            success=verdict.state == "equal",
            found=", ".join(f"{number:,} {kind}" for kind, number in verdict.counts.items()),
        )
        rows = None if verdict.is_gone else verdict.target_rows
        checked.append(Checked(kind=verdict.kind, name=verdict.table, checks=(check,), rows=rows))
    return tuple(checked)


def _asked(pipeline: Pipeline, names: frozenset[str]) -> Due:
    tables = frozenset(table.name for table in pipeline.tables)
    marts = frozenset(verified_marts(pipeline))
    if EVERYTHING in names:
        return Due(tables=tables, marts=marts)
    return Due(tables=tables & names, marts=marts & names)


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


def _message(found: Verification) -> str:
    tables = [verdict for verdict in found.tables if verdict.state == "differs"]
    marts = [verdict for verdict in found.marts if verdict.state == "differs"]
    sentences = []
    if tables:
        share = f"{len(tables):,} of {counted(len(found.tables), 'table')}"
        sentences.append(f"{share} compared differ from the source")
        sentences.append(differences_text(tables, _MOST_TABLES, _MOST_ROWS))
    if marts:
        share = f"{len(marts):,} of {counted(len(found.marts), 'mart')}"
        sentences.append(f"{share} compared differ from what their SELECT returns")
        sentences.append(differences_text(marts, _MOST_TABLES, _MOST_ROWS))
    names = ""  # the command repairs all of them
    if len(tables) + len(marts) <= _MOST_TABLES:
        names = "".join(f" {quote(verdict.table)}" for verdict in [*tables, *marts])
    repairs = " and ".join(
        ["reads them again"] * bool(tables) + ["builds the marts in full"] * bool(marts)
    )
    sentences.append(
        f"Next: `loadsheet verify {found.pipeline}` names more rows; `loadsheet verify"
        f" {found.pipeline}{names} --repair` {repairs}"
    )
    return on_one_line(". ".join(sentences))
