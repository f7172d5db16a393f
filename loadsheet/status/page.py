"""The status of a pipeline as tables and notes for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadsheet.freshness.models import Age
from loadsheet.redact import hanging, on_one_line, visible
from loadsheet.status.document import open_for, search_age, watermark_age
from loadsheet.status.models import (
    BY_DATA_INTERVAL,
    NO_CURSOR,
    NO_WATERMARK,
    NOT_IN_SPEC,
    PipelineStatus,
    Search,
    TableStatus,
    TargetStatus,
    TransformStatus,
)
from loadsheet.warehouse.verified import Verified
from loadsheet.wording import age, counted

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
_LEVEL_STYLES = {"fresh": "green", "warn": "yellow", "late": "bold red", "never": "bold red"}
_VERDICT_STYLES = {"equal": "green", "differs": "bold red", "not proven": "yellow"}
MOST_TARGETS = 50
"""Tables and transforms that have a line each unless all are asked for."""
_MOST_ROWS = 20
_HEALTHY = ("current", "loaded")
# Nothing is wrong with such a table, and its line shows the same.
_EXPECTED_WITHOUT_LAG = (NOT_IN_SPEC, NO_CURSOR, BY_DATA_INTERVAL, NO_WATERMARK)
# A time with its seconds takes 19 characters, a UUID 36. A longer watermark would leave no room
# for names.
_WIDEST_WATERMARK = 36


def view(status: PipelineStatus, brief: bool = False, see_all: str = "") -> RenderableType:
    """The page of one pipeline; `brief` leaves out tables and transforms without a problem. Of very
    many only the first ones are shown, unless `see_all`, the command that lists all, is empty."""
    total = len(status.tables) + len(status.transforms)
    tables = status.tables
    transforms = status.transforms
    is_long = bool(see_all) and total > MOST_TARGETS
    if brief or is_long:
        tables = [table for table in tables if not _is_healthy(table)]
        transforms = [transform for transform in transforms if not _is_healthy(transform)]
    healthy = total - len(tables) - len(transforms)
    if is_long:
        # Failures first, so that none of them is cut off.
        tables = sorted(tables, key=_is_no_failure)[:_MOST_ROWS]
        transforms = sorted(transforms, key=_is_no_failure)[:_MOST_ROWS]
    title = (
        f"{status.pipeline}: {counted(len(status.tables), 'table')},"
        f" {counted(len(status.transforms), 'transform')}"
    )
    if healthy:
        how = f": {see_all}" if is_long else ""
        title += f" (left out: {healthy} without a problem{how})"
    parts: list[RenderableType] = [Text(title, style="bold")]
    if tables:
        table_heads = ["table", "loaded", ">rows", "watermark", "data", "source"]
        rows = [_table_cells(table, status) for table in tables]
        _add_ages(table_heads, rows, tables)
        _add_searches(table_heads, rows, tables, status)
        _add_verdicts(table_heads, rows, tables, status)
        parts.append(_grid(table_heads, rows))
    if transforms:
        transform_heads = ["transform", "built", ">rows", "kind", "state"]
        rows = [_transform_cells(transform, status) for transform in transforms]
        _add_ages(transform_heads, rows, transforms)
        _add_verdicts(transform_heads, rows, transforms, status)
        parts.append(Text(""))
        parts.append(_grid(transform_heads, rows))
    cut_off = total - healthy - len(tables) - len(transforms)
    if cut_off:
        parts += [Text(""), Text(f"{cut_off:,} more: {see_all}")]
    sentences = [Text(visible(note), style=style) for style, note in notes(status)]
    if is_long and len(sentences) > _MOST_ROWS:
        more = Text(f"{len(sentences) - _MOST_ROWS:,} more: {see_all}")
        sentences = [*sentences[:_MOST_ROWS], more]
    if sentences:
        parts += [Text(""), *sentences]
    return Group(*parts)


def _is_healthy(target: TargetStatus) -> bool:
    is_fresh = target.age is None or target.age.level == "fresh"
    return target.state in _HEALTHY and is_fresh and not target.is_late and not _differs(target)


def _differs(target: TargetStatus) -> bool:
    return target.verdict is not None and target.verdict.verdict == "differs"


def _is_no_failure(target: TargetStatus) -> bool:
    return target.failure is None


def notes(status: PipelineStatus) -> Iterator[tuple[str, str]]:
    """Style and text of what needs a sentence, the worst first."""
    for target in [*status.tables, *status.transforms]:
        failure = target.failure
        if failure is None:
            continue
        when = f"{age((status.at - failure.at).total_seconds())} ago"
        if failure.since != failure.at:
            when += f", first {age((status.at - failure.since).total_seconds())} ago"
        what = f"{failure.step} of {target.name} failed {when} (run {failure.run_id})"
        # The message keeps its lines; a name must not look like one.
        yield "red", f"{on_one_line(what)}: {hanging(failure.message)}"
    for target in [*status.tables, *status.transforms]:
        if target.verdict and _differs(target):
            yield "red", on_one_line(_difference(target, target.verdict, status))
    for target in [*status.tables, *status.transforms]:
        for found in (target.age, target.proof):
            if found and found.is_late and not found.differs:  # what differs has its sentence
                yield "red", on_one_line(_lateness(found))
    for text in status.gap_notes:
        yield "yellow", on_one_line(text)
    for text in _held_back_now(status):
        yield "yellow", text
    for table in status.tables:
        if table.last is None or not table.last.held_by:
            continue
        # Of no interest where the session still holds the table back, or where the table has caught
        # up since.
        has_caught_up = table.lag is not None and not table.lag.ahead
        if not table.held_back_by and not has_caught_up:
            text = f"{table.name}: its last load was held back by {table.last.held_by}"
            yield "yellow", on_one_line(text)
    if status.source_unknown:
        yield "yellow", f"The source could not be asked: {status.source_unknown}"
        return
    for table in status.tables:
        reason = table.lag_unknown
        if table.last and reason and reason not in _EXPECTED_WITHOUT_LAG:
            yield "", f"{on_one_line(table.name)}: {reason}"


def _difference(target: TargetStatus, look: Verified, status: PipelineStatus) -> str:
    counts = {"missing": look.missing, "extra": look.extra, "different": look.different}
    found = [f"{count:,} {kind}" for kind, count in counts.items() if count]
    where = f" in {look.part}" if look.part else ""
    when = f"{age((status.at - look.verified_at).total_seconds())} ago"
    since = ", before its last load" if target.is_loaded_since(look) else ""
    return (
        f"{target.name}: {', '.join(found)}{where}, found {when}{since}:"
        f" `loadsheet verify {status.pipeline} {target.name}`"
    )


def _lateness(found: Age) -> str:
    limit = f"fresh_within {age(found.limits.fail.total_seconds())}" if found.limits.fail else ""
    if found.age is None:
        return f"{found.name} was never loaded or built: {limit}"
    cause = f": {found.cause.text}" if found.cause else ""
    if found.of == "verify":
        return f"{found.name} is not verified, {limit.replace(' ', '.verified ')}{cause}"
    return f"{found.name} is {age(found.age.total_seconds())} old, {limit}{cause}"


def _held_back_now(status: PipelineStatus) -> list[str]:
    """One line per session, with the tables that it holds back."""
    tables_of: dict[str, list[str]] = {}
    for table in status.tables:
        holder = table.held_back_by
        if holder is None:
            continue
        seconds = open_for(holder, status)
        session = holder.who
        if seconds is not None:
            session += f", {age(seconds)} ago"
        tables_of.setdefault(session, []).append(table.name)
    lines = []
    for session, names in tables_of.items():
        lines.append(on_one_line(f"{', '.join(names)}: held back by {session}"))
    return lines


def _add_ages(
    heads: list[str], rows: list[tuple[Text, ...]], targets: Sequence[TargetStatus]
) -> None:
    """Add the column of the ages that `fresh_within` limits, if there is one."""
    if not any(target.age for target in targets):
        return
    heads.append("fresh")
    for place, target in enumerate(targets):
        rows[place] = (*rows[place], _age_cell(target.age))


def _age_cell(found: Age | None) -> Text:
    if found is None:
        return Text("")
    text = "late" if found.is_late else ("warn" if found.level == "warn" else "yes")
    if found.age is not None:
        text += f", {age(found.age.total_seconds())} old"
    return Text(text, style=_LEVEL_STYLES[found.level])


def _add_searches(
    heads: list[str],
    rows: list[tuple[Text, ...]],
    tables: list[TableStatus],
    status: PipelineStatus,
) -> None:
    """Add the column of the last searches for deleted rows, if there is one."""
    if not any(table.search for table in tables):
        return
    heads.append("deletes")
    for place, table in enumerate(tables):
        rows[place] = (*rows[place], Text(_search_text(table.search, status)))


def _search_text(search: Search | None, status: PipelineStatus) -> str:
    if search is None:
        return ""
    when = f"{age(search_age(search, status))} ago"
    if search.gone is None:
        return f"searched {when}"
    return f"{search.gone:,} gone {when}"


def _add_verdicts(
    heads: list[str],
    rows: list[tuple[Text, ...]],
    targets: Sequence[TargetStatus],
    status: PipelineStatus,
) -> None:
    """Add the column of verdicts, if there is one."""
    if not any(target.verdict for target in targets):
        return
    heads.append("verified")
    for place, target in enumerate(targets):
        rows[place] = (*rows[place], _verdict_cell(target, status))


def _verdict_cell(target: TargetStatus, status: PipelineStatus) -> Text:
    look = target.verdict
    if look is None:
        return Text("")
    part = "" if look.is_whole else " in part"
    text = f"{look.verdict}{part} {age((status.at - look.verified_at).total_seconds())} ago"
    if target.is_loaded_since(look):
        text += ", loaded since"
    return Text(text, style=_VERDICT_STYLES.get(look.verdict, ""))


def _grid(heads: Sequence[str], rows: list[tuple[Text, ...]]) -> Table:
    """A column whose head begins with `>` is aligned to the right. In a narrow terminal the
    wider of the names, in the first column, and the watermarks is folded."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for place, head in enumerate(heads):
        side: Literal["left", "right"] = "right" if head.startswith(">") else "left"
        is_kept = place > 0 and head != "watermark"
        grid.add_column(head.lstrip(">"), justify=side, overflow="fold", no_wrap=is_kept)
    for row in rows:
        grid.add_row(*row)
    return grid


def _table_cells(table: TableStatus, status: PipelineStatus) -> tuple[Text, ...]:
    # A watermark is a row's value: any text, of any length.
    watermark = on_one_line(table.watermark or "")
    seconds = watermark_age(table, status)
    data_age = ""
    if seconds is not None:
        data_age = age(seconds)
        # a time: without its fraction and its zone
        watermark = watermark.partition("+")[0].partition(".")[0]
    if len(watermark) > _WIDEST_WATERMARK:
        watermark = f"{watermark[: _WIDEST_WATERMARK - 1]}…"
    return (
        Text(on_one_line(table.name)),
        Text(_last_commit(table, status)),
        Text(_row_count(table)),
        Text(watermark),
        Text(data_age),
        Text(_source_state(table), style=_STYLES[table.state]),
    )


def _source_state(table: TableStatus) -> str:
    if not table.in_spec:
        return "not in the spec"
    if table.failure:
        return "failed"
    if table.last is None:
        return ""
    if not table.rows.target_exists:
        return "its table is gone"
    if table.lag is None:
        return "" if table.lag_unknown in _EXPECTED_WITHOUT_LAG else "unknown"
    if not table.lag.ahead:
        return "up to date"
    if table.lag.seconds is not None:
        return f"{age(table.lag.seconds)} ahead"
    if table.lag.distance is not None:
        return f"{table.lag.distance:,.0f} ahead"
    return "ahead"


def _transform_cells(transform: TransformStatus, status: PipelineStatus) -> tuple[Text, ...]:
    states = {"failed": "failed", "never": "", "due": f"due: {transform.due}"}
    return (
        Text(on_one_line(transform.name)),
        Text(_last_commit(transform, status)),
        Text(_row_count(transform)),
        Text(transform.materialized),
        Text(states.get(transform.state, "up to date"), style=_STYLES[transform.state]),
    )


def _last_commit(target: TargetStatus, status: PipelineStatus) -> str:
    if target.last is None:
        return "never"
    return f"{age((status.at - target.last.at).total_seconds())} ago"


def _row_count(target: TargetStatus) -> str:
    if target.rows.number is None:
        return ""
    sign = "" if target.rows.exact else "~"
    return f"{sign}{target.rows.number:,}"
