"""The lineage as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loadsheet.lineage.models import ROWS, Column, Dataset, Edge, Lineage

_NO_TABLE = "no table: constants and functions alone"
_ABOVE = ", see above"
_INDENT = "  "


def lines_of(lineage: Lineage, start: Sequence[Column], down: bool) -> list[str]:
    """What `start` comes from, or reaches where it goes `down`."""
    lines: list[str] = []
    for column in start:
        if not column.is_rows:
            lines += _downwards(lineage, column) if down else _upwards(lineage, column)
    if down:
        for column in start:
            if column.is_rows:
                lines += _downwards(lineage, column)
        return lines
    for dataset in lineage.datasets:
        if dataset.kind == "mart" and dataset not in lineage.not_traced:
            lines += _rows(lineage, dataset)
    return lines + list(_not_traced(lineage))


def _upwards(lineage: Lineage, column: Column) -> Iterator[str]:
    yield _head(lineage, column)
    yield from _ways_up(lineage, column, 1, {column})


def _ways_up(lineage: Lineage, column: Column, depth: int, seen: set[Column]) -> Iterator[str]:
    pad = _INDENT * depth
    for expression in lineage.expressions.get(column, ()):
        if expression.within and not expression.is_name:
            yield f"{pad}{expression.within}: {expression.text}"
    for reason in lineage.unknown.get(column, ()):
        yield f"{pad}<- not known: {reason}"
    edges = lineage.into.get(column, ())
    is_traced = column.dataset not in lineage.not_traced
    if column.dataset.kind == "mart" and is_traced and not edges and column not in lineage.unknown:
        yield f"{pad}<- {_NO_TABLE}"
    if column.dataset.kind == "mart" and not is_traced:
        yield f"{pad}<- not known: {lineage.not_traced[column.dataset]}"
    for edge in edges:
        source = edge.source
        text = f"{pad}<- {_head(lineage, source)}{_how(edge)}"
        above = lineage.into.get(source, ())
        # A staging column and its source column share a line.
        if source.dataset.kind == "staging" and len(above) == 1:
            text += f" <- {_name(above[0].source)}"
        if source.dataset.kind != "mart":
            yield text
        elif source in seen:
            yield text + _ABOVE
        else:
            yield text
            seen.add(source)
            yield from _ways_up(lineage, source, depth + 1, seen)


def _downwards(lineage: Lineage, column: Column) -> Iterator[str]:
    yield _head(lineage, column)
    yield from _ways_down(lineage, column, 1, {column})


def _ways_down(lineage: Lineage, column: Column, depth: int, seen: set[Column]) -> Iterator[str]:
    pad = _INDENT * depth
    edges = list(lineage.out_of.get(column, ()))
    if not column.is_rows:
        of_table = lineage.out_of.get(Column(column.dataset, ROWS), ())
        edges += [edge for edge in of_table if edge.hows == ("unknown",)]
    for edge in edges:
        target = edge.target
        text = f"{pad}-> {_head(lineage, target)}{_how(edge)}"
        if edge.hows == ("unknown",):
            why = lineage.not_traced.get(target.dataset, "")
            text = f"{pad}-> {target.dataset}, in which columns is not known: {why}"
        yield text + (_ABOVE if target in seen and lineage.out_of.get(target) else "")
        if target not in seen:
            seen.add(target)
            yield from _ways_down(lineage, target, depth + 1, seen)


def _rows(lineage: Lineage, mart: Dataset) -> Iterator[str]:
    """What decides which rows a mart has, a line for each table."""
    rows = Column(mart, ROWS)
    by_table: dict[Dataset, list[str]] = {}
    for edge in lineage.into.get(rows, ()):
        if not edge.is_between_rows:
            name = "its rows" if edge.source.is_rows else edge.source.name
            by_table.setdefault(edge.source.dataset, []).append(name + _how(edge))
    reasons = lineage.unknown.get(rows, [])
    if not by_table and not reasons:
        return
    yield f"which rows {mart} has is decided by"
    for dataset, names in by_table.items():
        yield f"{_INDENT}{dataset}: {', '.join(names)}"
    for reason in reasons:
        yield f"{_INDENT}not known: {reason}"


def _not_traced(lineage: Lineage) -> Iterator[str]:
    for dataset, why in lineage.not_traced.items():
        edges = lineage.into.get(Column(dataset, ROWS), ()) if dataset.kind == "mart" else ()
        read = [str(edge.source.dataset) for edge in edges if edge.hows == ("unknown",)]
        text = f"not traced: {dataset}: {why}"
        yield f"{text}; it reads {', '.join(read)}" if read else text


def _head(lineage: Lineage, column: Column) -> str:
    """A column with its outermost expression, or what is to be said about it."""
    text = _name(column)
    outermost = next((one for one in lineage.expressions.get(column, ()) if not one.within), None)
    if outermost:
        text += f" = {outermost.text}"
    if column in lineage.notes:
        text += f" ({lineage.notes[column]})"
    return text


def _name(column: Column) -> str:
    return f"the rows of {column.dataset}" if column.is_rows else str(column)


def _how(edge: Edge) -> str:
    """How it decides; empty where its values arrive."""
    shown = [how.replace("_", " ") for how in edge.hows if how not in ("load", "reads")]
    if edge.is_direct:
        return ""
    return f" ({', '.join(shown)})" if shown else ""
