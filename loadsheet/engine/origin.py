"""Which source the rows of an extraction come from, and whether it is that of the last load."""

from __future__ import annotations

from loadsheet.engine.attempt import Attempt
from loadsheet.plan.gaps import is_read_by_interval
from loadsheet.postgres import Session
from loadsheet.source import identity
from loadsheet.source.rows import (
    INTERVAL_CURSOR,
    INTERVAL_TRANSACTION,
    OLDEST_TRANSACTION,
    SEEN_FACTS,
    WATERMARK_FACTS,
    Selection,
)
from loadsheet.source.table import SourceTable
from loadsheet.warehouse import foreign_rows


def identify_source(
    attempt: Attempt,
    source: Session,
    described: SourceTable,
    rows: Selection,
    before: identity.Identity | None,
) -> dict[str, str]:
    """The source's identity, asked in the snapshot's own session; `before` as for
    `identity.observe`.

    Raises SourceChanged where the watermark belongs to another source, unless the run accepts
    it or reads everything; one that rows would be deleted by, and that is behind, it cannot accept.
    Raises Refused where the load would harm another pipeline's rows.
    """
    now, difference = identity.observe(source, attempt.seen.source, before)
    attempt.source_is_durable = now.is_durable
    if not attempt.request.is_full(attempt.table.name):
        attempt.warehouse.use(
            lambda session: foreign_rows.refuse(
                session,
                attempt.pipeline.name,
                attempt.target,
                attempt.seen,
                now.facts,
                described.oid,
                rows.action == "append",
            )
        )
    facts = {**identity.table_facts(described), **rows.facts}
    last = attempt.seen.source or {}
    changes = [*difference.changes]
    changes += identity.table_changes(described, attempt.seen.source_oid, last, facts)
    if changes and _needs_the_same(attempt, rows):
        _accept(attempt, described, changes, difference)
    return _to_record(attempt, rows, now.facts | facts, bool(changes))


def _to_record(
    attempt: Attempt, rows: Selection, now: dict[str, str], is_another: bool
) -> dict[str, str]:
    """What the load is to leave of the facts of `now` and of those of the last load."""
    last = attempt.seen.source or {}
    origin = dict(now)
    if is_read_by_interval(attempt.table) and OLDEST_TRANSACTION in origin:
        origin[INTERVAL_TRANSACTION] = origin[OLDEST_TRANSACTION]
    if rows.action != "replace" and not rows.moves_watermark:
        for name in _kept_facts(attempt):
            origin.pop(name, None)
            # Another server numbers its transactions in its own way.
            if name in last and not (is_another and name == OLDEST_TRANSACTION):
                origin[name] = last[name]
        # A person may ask for an interval of a table that has a watermark now.
        if INTERVAL_CURSOR not in origin and attempt.last:
            origin |= attempt.last.of_intervals
        if "time_zone" in last:
            origin.setdefault("time_zone", last["time_zone"])
    # It stays, also where all rows are read by interval.
    if not rows.moves_watermark and attempt.last:
        origin |= attempt.last.of_watermark
    return origin


def _needs_the_same(attempt: Attempt, rows: Selection) -> bool:
    """Whether the rows are added to those of the last load, so that they must have one source. One
    that was restored lacks rows that were never deleted."""
    table = attempt.table
    builds_on_it = attempt.repairs or table.incremental or table.deletes
    return bool(builds_on_it) and rows.action != "replace"


def _accept(
    attempt: Attempt,
    described: SourceTable,
    changes: list[str],
    difference: identity.Difference,
) -> None:
    """Accept another source where the run was told to. Raises SourceChanged where it was not, or
    where rows would be deleted by one that is behind."""
    if not attempt.request.accept_source:
        identity.refuse(described, attempt.pipeline.name, changes, difference.lags)
    deletes = attempt.table.deletes
    if difference.is_behind and deletes and deletes.removes:
        identity.refuse_behind(described, changes, difference.lags)
    attempt.accepted = ", ".join(changes)


def wait_until_durable(attempt: Attempt, source: Session, origin: dict[str, str]) -> None:
    """As `identity.wait_until_durable`, for the `origin` that `attempt` has seen. Asks nothing
    where it was durable when it was seen."""
    if not attempt.source_is_durable:
        identity.wait_until_durable(source, origin)


def _kept_facts(attempt: Attempt) -> tuple[str, ...]:
    """What a load that leaves the watermark as it is leaves of the facts of the last one, because
    it does not read all that is new: of new leaves, for example, an interval reads some rows, and
    the watermark's next run all of them."""
    if attempt.repairs:
        return (*WATERMARK_FACTS, INTERVAL_TRANSACTION)
    if attempt.table.incremental is None:
        # Each load reads all rows.
        return tuple(name for name in WATERMARK_FACTS if name not in SEEN_FACTS)
    return WATERMARK_FACTS
