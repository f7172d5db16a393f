"""`loadsheet status` for people: two tables that fit 80 columns, and below them what needs a sentence."""

from __future__ import annotations

from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadsheet.cli.ages import age
from loadsheet.cli.status_json import watermark_age
from loadsheet.cli.status_notes import ONE_PER_TABLE, notes
from loadsheet.standing import PipelineStanding, Standing, TableStanding, TransformStanding
from loadsheet.visible import on_one_line, visible

_STYLES = {
    "failed": "bold red", "never": "dim", "gone": "yellow", "held_back": "yellow", "behind": "yellow", "due": "yellow",
    "current": "green", "loaded": "",
}  # fmt: skip
_CALM = ("current", "loaded")
# Of a watermark: a time with its seconds takes 19 characters, a UUID 36. More would leave no room for names.
_WIDEST = 36


def view(found: PipelineStanding, brief: bool = False) -> RenderableType:
    """One pipeline; `brief` leaves out tables and transforms that want nothing."""
    tables = [table for table in found.tables if not (brief and table.state in _CALM)]
    transforms = [transform for transform in found.transforms if not (brief and transform.state in _CALM)]
    parts: list[RenderableType] = [Text(_counts(found, len(tables) + len(transforms)), style="bold")]
    if tables:
        of_tables = ("table", "loaded", ">rows", "watermark", "data", "source")
        parts.append(_grid(of_tables, [_table_row(table, found) for table in tables]))
    if transforms:
        of_transforms = ("transform", "built", ">rows", "kind", "state")
        rows = [_transform_row(transform, found) for transform in transforms]
        parts += [Text(""), _grid(of_transforms, rows)]
    sentences = [Text(visible(note), style=style) for style, note in notes(found)]
    return Group(*parts, *([Text("")] if sentences else []), *sentences)


def _counts(found: PipelineStanding, shown: int) -> str:
    left_out = len(found.tables) + len(found.transforms) - shown
    more = f" ({left_out} that want nothing are left out)" if left_out else ""
    return f"{found.pipeline}: {len(found.tables)} tables, {len(found.transforms)} transforms{more}"


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
    return (
        Text(on_one_line(table.name)), Text(_ago(table, found)), Text(_rows(table)),
        Text(_short(table.watermark or "", is_time=old is not None)), Text("" if old is None else age(old)),
        Text(_source(table), style=_STYLES[table.state]),
    )  # fmt: skip


def _short(watermark: str, is_time: bool) -> str:
    """A watermark is a row's value: it may hold anything, and be of any length."""
    shown = on_one_line(watermark.split("+")[0].partition(".")[0] if is_time else watermark)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…"


def _source(table: TableStanding) -> str:
    if not table.in_spec:
        return "not in the spec"
    if table.failure:
        return "failed"
    if table.last is None:
        return ""
    if not table.rows.is_there:
        return "its table is gone"
    if table.lag is None:
        return "" if table.lag_unknown.startswith(ONE_PER_TABLE) else "unknown"
    if not table.lag.ahead:
        return "up to date"
    if table.lag.seconds is not None:
        return f"{age(table.lag.seconds)} ahead"
    return "ahead" if table.lag.distance is None else f"{table.lag.distance:,.0f} ahead"


def _transform_row(transform: TransformStanding, found: PipelineStanding) -> tuple[Text, ...]:
    state = {"failed": "failed", "never": "", "due": f"due: {transform.due}"}.get(transform.state, "up to date")
    return (
        Text(on_one_line(transform.name)), Text(_ago(transform, found)), Text(_rows(transform)),
        Text(transform.materialized), Text(state, style=_STYLES[transform.state]),
    )  # fmt: skip


def _ago(standing: Standing, found: PipelineStanding) -> str:
    return f"{age((found.at - standing.last.at).total_seconds())} ago" if standing.last else "never"


def _rows(standing: Standing) -> str:
    number = standing.rows.number
    return "" if number is None else f"{'' if standing.rows.exact else '~'}{number:,}"
