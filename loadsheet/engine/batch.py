"""Many tables in one process, one after the other, as `tasks: {granularity: batch}` asks for.

First those with nothing new are found, in a few statements for all. The others are extracted and
loaded, each as by a task of its own (`engine.both_steps`): the smallest first, by the source's
catalogs, so that no small one waits for a large one. A table that fails stops no other.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import psycopg

from loadsheet.connections.lookup import Connections
from loadsheet.engine import details
from loadsheet.engine.both_steps import extract_and_load, servers_for_both
from loadsheet.engine.diagnosis import told
from loadsheet.engine.execute import Progress
from loadsheet.engine.nothing_new import find_nothing_new
from loadsheet.engine.sessions import Servers
from loadsheet.errors import LoadsheetError, TablesFailed, Unavailable
from loadsheet.lake.manifest import load_prefix
from loadsheet.outcome import Outcome, RunRequest, left_out
from loadsheet.redact import on_one_line, summary
from loadsheet.spec.models import Pipeline
from loadsheet.wording import counted, shortened

_log = logging.getLogger(__name__)

# As VACUUM and the statistics know them: pg_relation_size would wait for a table that is locked. Of
# those without storage, such as views and partitioned tables, nothing is known: they come last.
_SIZES = """
SELECT relname, CASE WHEN relkind IN ('r', 'm') THEN greatest(
    relpages * current_setting('block_size')::bigint, pg_stat_get_live_tuples(pg_class.oid) * 64)
    END
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %s AND relname = ANY(%s)
"""
_LARGE = 1_000_000_000
Ended = Callable[[str, Outcome | Exception, float | None], None]
"""Is given a table's name, how it has ended, and the seconds that it took; None where it was
skipped together with others."""
MOST_REASONS = 10
"""Reasons that the error of a batch quotes."""
_LONGEST_REASON = 500


def run_batch(
    batch: str,
    tables: Sequence[str],
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    progress: Callable[[str], Progress],
    ended: Ended,
) -> dict[str, Outcome]:
    """Extract and load the tables; their outcomes by name. The log has a line for each. `progress`
    gives what is called with a table's rows and bytes, and `ended` is called when it has ended.

    Tables among those that the request `resumes` are resumed as in `extract_and_load`. Raises
    TablesFailed when all have had their turn and some have failed.
    """
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, Exception] = {}

    def skip(table: str, outcome: Outcome) -> None:
        outcomes[table] = outcome
        _show(table, outcome)
        ended(table, outcome, None)

    for table in tables:
        outcome = left_out(request, table)
        if outcome:
            skip(table, outcome)
    with servers_for_both(pipeline, connections) as servers:
        own = [pipeline.table(table) for table in tables if table not in outcomes]
        few = replace(pipeline, tables=tuple(own), patterns=(), transforms=())
        for table, outcome in find_nothing_new(few, request, servers).items():
            skip(table, outcome)
        left = _by_size(pipeline, [table for table in tables if table not in outcomes], servers)
        away = ""
        for table in left:
            started = time.monotonic()
            try:
                if away:
                    raise Unavailable(f"not tried: {away}")
                with details.group(table):
                    outcomes[table] = extract_and_load(
                        table, pipeline, request, connections, servers, progress(table)
                    )
                _show(table, outcomes[table])
                ended(table, outcomes[table], time.monotonic() - started)
            except Exception as error:
                errors[table] = error
                _show(table, error)
                ended(table, error, time.monotonic() - started)
                if isinstance(error, Unavailable):
                    away = away or _who_is_away(pipeline, servers)
    statuses = Counter(map(_status, outcomes.values()))
    statuses.update(map(_status, errors.values()))
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    _log.info("batch %s of %s: %s", on_one_line(batch), pipeline.name, counts)
    if errors:
        raise _failed(batch, pipeline, request, len(tables), errors)
    return outcomes


def _by_size(pipeline: Pipeline, tables: Sequence[str], servers: Servers) -> list[str]:
    """The tables, the smallest first; in their own order where the source does not tell."""
    if len(tables) < 2:
        return list(tables)
    schema = pipeline.source.schema
    try:
        with servers.source() as source:
            rows = source.execute(_SIZES, (schema, list(tables))).fetchall()
    except (LoadsheetError, psycopg.Error) as error:
        _log.info("the tables in the order of the file: %s", summary(error))
        return list(tables)
    sizes: dict[str, int | None] = dict(rows)
    for table, size in sizes.items():
        if size and size > _LARGE:
            _log.warning(
                "%s has %.1f GB, and what reads the other tables of this batch waits for it. Next:"
                " give it `granularity: table`",
                on_one_line(table),
                size / 1e9,
            )
    unknown = float("inf")

    def size_of(table: str) -> float:
        size = sizes.get(table)
        return unknown if size is None else size

    return sorted(tables, key=size_of)


def _who_is_away(pipeline: Pipeline, servers: Servers) -> str:
    """What a server says that does not answer; empty where all do. Asked after a failure: each
    table that is left would wait for that server, too."""
    try:
        servers.lake.create_bucket(load_prefix(pipeline))
        with servers.source(), servers.warehouse():
            return ""
    except Exception as error:
        return told(error) or summary(error)


def _show(table: str, result: Outcome | Exception) -> None:
    """Log how the table has ended, in one line."""
    name = on_one_line(table)
    if isinstance(result, Outcome):
        _log.info("%s: %s, %s", name, _status(result), on_one_line(result.message))
    else:
        _log.error("%s: failed, %s", name, _reason(result))


def _status(result: Outcome | Exception) -> str:
    if isinstance(result, Outcome):
        return "skipped" if result.skipped else "loaded"
    return "failed"


def _reason(error: Exception) -> str:
    text = summary(error)
    if isinstance(error, LoadsheetError):
        text = error.reason  # its place is the table, which is named
    return on_one_line(shortened(text, _LONGEST_REASON))


def _failed(
    batch: str,
    pipeline: Pipeline,
    request: RunRequest,
    number: int,
    errors: dict[str, Exception],
) -> TablesFailed:
    """The error that names the tables that failed."""
    by_reason: dict[str, list[str]] = {}
    for table, error in errors.items():
        by_reason.setdefault(_reason(error), []).append(on_one_line(table))
    lines = [f"{', '.join(tables)}: {reason}" for reason, tables in by_reason.items()]
    if len(lines) > MOST_REASONS:
        names = [name for tables in list(by_reason.values())[MOST_REASONS:] for name in tables]
        lines[MOST_REASONS:] = [f"and, as the log says: {', '.join(names)}"]
    text = "\n".join(lines)
    others = "" if len(errors) == number else ", and the others are done"
    failed = TablesFailed(
        f"{pipeline.name}: batch {batch} failed in run {request.run_id}: {len(errors)} of"
        f" {counted(number, 'table')} failed{others}\n{text}",
        list(errors),
        _may_work_later(errors.values()),
    )
    checks = [getattr(error, "check", "") for error in errors.values()]
    failed.check = ", ".join(dict.fromkeys(filter(None, checks)))
    failed.pipeline = pipeline.name
    failed.run_id = request.run_id
    return failed


def _may_work_later(errors: Iterable[Exception]) -> bool:
    return any(isinstance(error, LoadsheetError) and error.retryable for error in errors)
