"""The status of pipelines as tables and notes for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadsheet.redact import on_one_line, visible
from loadsheet.status.document import open_for, watermark_age
from loadsheet.status.models import PipelineStatus, TableStatus, TargetStatus, TransformStatus

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def age(seconds: float) -> str:
    """The two largest units that matter: `42s`, `12m`, `3h 5m`, `2d 4h`, `30d`; never below zero."""
    whole = max(int(seconds), 0)
    unit, size = next(((unit, size) for unit, size in _UNITS if whole >= size), ("s", 1))
    first, rest = divmod(whole, size)
    following = {"d": ("h", 3_600), "h": ("m", 60)}.get(unit)
    if following and first < 10 and (second := rest // following[1]):
        return f"{first}{unit} {second}{following[0]}"
    return f"{first}{unit}"


ONE_PER_TABLE = (
    "it is copied whole",
    "it has no watermark yet",
    "it is not in the spec",
    "it is read by data",
)
"""Beginnings of reasons why a lag is unknown that the table's line says already, or that are as
they should be."""


def notes(found: PipelineStatus) -> Iterator[tuple[str, str]]:
    """Style and text of what needs a sentence, the worst first."""
    yield from (("red", text) for text in _failures(found))
    yield from (("yellow", text) for text in (*_held(found), *_were_held(found)))
    if found.source_unknown:
        yield "yellow", f"The source could not be asked: {found.source_unknown}"
    else:
        yield from (("", text) for text in _unknown(found))


def _failures(found: PipelineStatus) -> Iterator[str]:
    for standing in [*found.tables, *found.transforms]:
        if failure := standing.failure:
            ago, first = (
                age((found.at - moment).total_seconds()) for moment in (failure.at, failure.since)
            )
            when = f"{ago} ago" + ("" if failure.since == failure.at else f", first {first} ago")
            what = on_one_line(
                f"{failure.step} of {standing.name} failed {when} (run {failure.run_id})"
            )
            yield f"{what}: {failure.message}"


def _held(found: PipelineStatus) -> Iterator[str]:
    """Per session that holds tables back, which."""
    held: dict[str, list[str]] = {}
    for table in found.tables:
        if holder := table.held_back_by:
            seconds = open_for(holder, found)
            who = holder.who if seconds is None else f"{holder.who}, {age(seconds)} ago"
            held.setdefault(who, []).append(table.name)
    return (on_one_line(f"{', '.join(names)}: held back by {who}") for who, names in held.items())


def _were_held(found: PipelineStatus) -> Iterator[str]:
    for table in found.tables:
        if (
            table.last
            and table.last.held_by
            and not table.held_back_by
            and not (table.lag and not table.lag.ahead)
        ):
            yield on_one_line(f"{table.name}: its last load was held back by {table.last.held_by}")


def _unknown(found: PipelineStatus) -> Iterator[str]:
    for table in found.tables:
        if table.last and table.lag_unknown and not table.lag_unknown.startswith(ONE_PER_TABLE):
            yield f"{on_one_line(table.name)}: {table.lag_unknown}"


_STYLES = {
    "failed": "bold red",
    "never": "dim",
    "gone": "yellow",
    "held_back": "yellow",
    "behind": "yellow",
    "due": "yellow",
    "current": "green",
    "loaded": "",
}
_CALM = ("current", "loaded")
# Of a watermark: a time with its seconds takes 19 characters, a UUID 36. More would leave no room
# for names.
_WIDEST = 36


def view(found: PipelineStatus, brief: bool = False) -> RenderableType:
    """One pipeline; `brief` leaves out tables and transforms that want nothing."""
    tables = [table for table in found.tables if not (brief and table.state in _CALM)]
    transforms = [
        transform for transform in found.transforms if not (brief and transform.state in _CALM)
    ]
    parts: list[RenderableType] = [
        Text(_counts(found, len(tables) + len(transforms)), style="bold")
    ]
    if tables:
        of_tables = ("table", "loaded", ">rows", "watermark", "data", "source")
        parts.append(_grid(of_tables, [_table_row(table, found) for table in tables]))
    if transforms:
        of_transforms = ("transform", "built", ">rows", "kind", "state")
        rows = [_transform_row(transform, found) for transform in transforms]
        parts += [Text(""), _grid(of_transforms, rows)]
    sentences = [Text(visible(note), style=style) for style, note in notes(found)]
    return Group(*parts, *([Text("")] if sentences else []), *sentences)


def _counts(found: PipelineStatus, shown: int) -> str:
    left_out = len(found.tables) + len(found.transforms) - shown
    more = f" ({left_out} that want nothing are left out)" if left_out else ""
    return f"{found.pipeline}: {len(found.tables)} tables, {len(found.transforms)} transforms{more}"


def _grid(heads: tuple[str, ...], rows: list[tuple[Text, ...]]) -> Table:
    """Where the terminal is too narrow the names, which come first, give way. `>` in a head is to
    the right."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for place, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if head.startswith(">") else "left"
        grid.add_column(head.lstrip(">"), justify=side, overflow="fold", no_wrap=place > 0)
    for row in rows:
        grid.add_row(*row)
    return grid


def _table_row(table: TableStatus, found: PipelineStatus) -> tuple[Text, ...]:
    old = watermark_age(table, found)
    return (
        Text(on_one_line(table.name)),
        Text(_ago(table, found)),
        Text(_rows(table)),
        Text(_short(table.watermark or "", is_time=old is not None)),
        Text("" if old is None else age(old)),
        Text(_source(table), style=_STYLES[table.state]),
    )


def _short(watermark: str, is_time: bool) -> str:
    """A watermark is a row's value: it may hold anything, and be of any length."""
    shown = on_one_line(watermark.split("+")[0].partition(".")[0] if is_time else watermark)
    return shown if len(shown) <= _WIDEST else f"{shown[: _WIDEST - 1]}…"


def _source(table: TableStatus) -> str:
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


def _transform_row(transform: TransformStatus, found: PipelineStatus) -> tuple[Text, ...]:
    state = {"failed": "failed", "never": "", "due": f"due: {transform.due}"}.get(
        transform.state, "up to date"
    )
    return (
        Text(on_one_line(transform.name)),
        Text(_ago(transform, found)),
        Text(_rows(transform)),
        Text(transform.materialized),
        Text(state, style=_STYLES[transform.state]),
    )


def _ago(standing: TargetStatus, found: PipelineStatus) -> str:
    return f"{age((found.at - standing.last.at).total_seconds())} ago" if standing.last else "never"


def _rows(standing: TargetStatus) -> str:
    number = standing.rows.number
    return "" if number is None else f"{'' if standing.rows.exact else '~'}{number:,}"
