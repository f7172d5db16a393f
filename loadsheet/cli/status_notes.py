"""What needs a sentence below the tables of `loadsheet status`."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.cli.ages import age
from loadsheet.cli.status_json import open_for
from loadsheet.standing import PipelineStanding
from loadsheet.visible import on_one_line

ONE_PER_TABLE = ("it is copied whole", "it has no watermark yet", "it is not in the spec", "it is read by data")
"""Beginnings of reasons why a lag is unknown that the table's line says already, or that are as they should be."""


def notes(found: PipelineStanding) -> Iterator[tuple[str, str]]:
    """Style and text of what needs a sentence, the worst first."""
    yield from (("red", text) for text in _failures(found))
    yield from (("yellow", text) for text in (*_held(found), *_were_held(found)))
    if found.source_unknown:
        yield "yellow", f"The source could not be asked: {found.source_unknown}"
    else:
        yield from (("", text) for text in _unknown(found))


def _failures(found: PipelineStanding) -> Iterator[str]:
    for standing in [*found.tables, *found.transforms]:
        if failure := standing.failure:
            ago, first = (age((found.at - moment).total_seconds()) for moment in (failure.at, failure.since))
            when = f"{ago} ago" + ("" if failure.since == failure.at else f", first {first} ago")
            what = on_one_line(f"{failure.step} of {standing.name} failed {when} (run {failure.run_id})")
            yield f"{what}: {failure.message}"


def _held(found: PipelineStanding) -> Iterator[str]:
    """Per session that holds tables back, which."""
    held: dict[str, list[str]] = {}
    for table in found.tables:
        if holder := table.held_back_by:
            seconds = open_for(holder, found)
            who = holder.who if seconds is None else f"{holder.who}, {age(seconds)} ago"
            held.setdefault(who, []).append(table.name)
    return (on_one_line(f"{', '.join(names)}: held back by {who}") for who, names in held.items())


def _were_held(found: PipelineStanding) -> Iterator[str]:
    for table in found.tables:
        if table.last and table.last.held_by and not table.held_back_by and not (table.lag and not table.lag.ahead):
            yield on_one_line(f"{table.name}: its last load was held back by {table.last.held_by}")


def _unknown(found: PipelineStanding) -> Iterator[str]:
    for table in found.tables:
        if table.last and table.lag_unknown and not table.lag_unknown.startswith(ONE_PER_TABLE):
            yield f"{on_one_line(table.name)}: {table.lag_unknown}"
