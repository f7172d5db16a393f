"""`loadsheet status` for people: two tables that fit 80 columns, and below them what needs a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadsheet.cli.ages import age
from loadsheet.cli.status_json import open_for, watermark_age
from loadsheet.standing import PipelineStanding, Standing, TableStanding, TransformStanding

_STYLES = {
    "failed": "bold red", "never": "dim", "held_back": "yellow", "behind": "yellow", "due": "yellow",
    "current": "green", "loaded": "",
}  # fmt: skip
_ONE_PER_TABLE = ("it is copied whole", "it has no watermark yet", "it is not in the spec", "it is read by data")


def view(found: PipelineStanding) -> RenderableType:
    """One pipeline."""
    counts = f"{found.pipeline}: {len(found.tables)} tables, {len(found.transforms)} transforms"
    parts: list[RenderableType] = [Text(counts, style="bold")]
    if found.tables:
        of_tables = ("table", "loaded", ">rows", "watermark", "data", "source")
        parts.append(_grid(of_tables, [_table_row(table, found) for table in found.tables]))
    if found.transforms:
        of_transforms = ("transform", "built", ">rows", "kind", "state")
        rows = [_transform_row(transform, found) for transform in found.transforms]
        parts += [Text(""), _grid(of_transforms, rows)]
    notes = [Text(note, style=style) for style, note in _notes(found)]
    return Group(*parts, *([Text("")] if notes else []), *notes)


def _grid(heads: tuple[str, ...], rows: list[tuple[Text, ...]]) -> Table:
    """Where the terminal is too narrow the names, which come first, give way. `>` in a head is to the right."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for place, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if head.startswith(">") else "left"
        grid.add_column(head.lstrip(">"), justify=side, overflow="fold", no_wrap=place > 0)
    for row in rows:
        grid.add_row(*row)
    return grid


def _table_row(table: TableStanding, found: PipelineStanding) -> tuple[Text, ...]:
    old = watermark_age(table, found)
    watermark = (table.watermark or "").split("+")[0].partition(".")[0] if old is not None else table.watermark or ""
    return (
        Text(table.name), Text(_ago(table, found)), Text(_rows(table)), Text(watermark),
        Text("" if old is None else age(old)), Text(_source(table), style=_STYLES[table.state]),
    )  # fmt: skip


def _source(table: TableStanding) -> str:
    if table.failure:
        return "failed"
    if table.last is None:
        return ""
    if table.lag is None:
        return "" if table.lag_unknown.startswith(_ONE_PER_TABLE) else "unknown"
    if not table.lag.ahead:
        return "up to date"
    if table.lag.seconds is not None:
        return f"{age(table.lag.seconds)} ahead"
    return "ahead" if table.lag.distance is None else f"{table.lag.distance:,.0f} ahead"


def _transform_row(transform: TransformStanding, found: PipelineStanding) -> tuple[Text, ...]:
    state = {"failed": "failed", "never": "", "due": f"due: {transform.due}"}.get(transform.state, "up to date")
    return (
        Text(transform.name), Text(_ago(transform, found)), Text(_rows(transform)), Text(transform.materialized),
        Text(state, style=_STYLES[transform.state]),
    )  # fmt: skip


def _ago(standing: Standing, found: PipelineStanding) -> str:
    return f"{age((found.at - standing.last.at).total_seconds())} ago" if standing.last else "never"


def _rows(standing: Standing) -> str:
    return "" if standing.rows is None else f"{'' if standing.rows_exact else '~'}{standing.rows:,}"


def _notes(found: PipelineStanding) -> Iterator[tuple[str, str]]:
    """Style and text of what needs a sentence, the worst first."""
    for standing in [*found.tables, *found.transforms]:
        if failure := standing.failure:
            began = (
                "" if failure.since == failure.at else f", first {age((found.at - failure.since).total_seconds())} ago"
            )
            ago = f"{age((found.at - failure.at).total_seconds())} ago{began}"
            yield "red", f"{failure.step} of {standing.name} failed {ago} (run {failure.run_id}): {failure.message}"
    held: dict[str, list[str]] = {}
    for table in found.tables:
        if holder := table.held_back_by:
            seconds = open_for(holder, found)
            held.setdefault(holder.who + (f", {age(seconds)} ago" if seconds is not None else ""), []).append(
                table.name
            )
    for who, names in held.items():
        yield "yellow", f"{', '.join(names)}: held back by {who}"
    for table in found.tables:
        if table.last and table.last.held_by and not table.held_back_by and not (table.lag and not table.lag.ahead):
            yield "yellow", f"{table.name}: its last load was held back by {table.last.held_by}"
    if found.source_unknown:
        yield "yellow", f"The source could not be asked: {found.source_unknown}"
        return
    for table in found.tables:
        if table.last and table.lag_unknown and not table.lag_unknown.startswith(_ONE_PER_TABLE):
            yield "", f"{table.name}: {table.lag_unknown}"
