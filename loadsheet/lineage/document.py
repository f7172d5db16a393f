"""The lineage as one JSON document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadsheet.lineage.models import ROWS, Column, Lineage

FORMAT = 1
"""Rises when keys are renamed or removed; they may be added at any time."""


def document(
    lineage: Lineage, name: str, down: bool, shown: Callable[[str], str]
) -> dict[str, Any]:
    """The document for `--json`: tables with their columns, and edges between columns by name.
    `shown` is how a path is shown."""
    tables = []
    for dataset, types in lineage.datasets.items():
        file = lineage.files.get(dataset)
        tables.append(
            {
                "name": str(dataset),
                "kind": dataset.kind,
                "file": shown(file) if file else None,
                "not_traced": lineage.not_traced.get(dataset),
                "rows_unknown": lineage.unknown.get(Column(dataset, ROWS), []),
                "columns": [
                    _column(lineage, Column(dataset, name), type_name)
                    for name, type_name in types.items()
                ],
            }
        )
    edges = []
    for edge in lineage.edges:
        edges.append(
            {
                "from": _reference(edge.source),
                "to": _reference(edge.target),
                "how": list(edge.hows),
                "direct": edge.is_direct,
            }
        )
    return {
        "format": FORMAT,
        "pipeline": lineage.pipeline,
        "name": name,
        "direction": "down" if down else "up",
        "tables": tables,
        "edges": edges,
    }


def _column(lineage: Lineage, column: Column, type_name: str) -> dict[str, Any]:
    expressions = [
        {"text": one.text, "line": one.line, "within": one.within or None}
        for one in lineage.expressions.get(column, ())
    ]
    return {
        "name": column.name,
        "type": type_name,
        "expressions": expressions,
        "unknown": lineage.unknown.get(column, []),
        "note": lineage.notes.get(column),
    }


def _reference(column: Column) -> dict[str, Any]:
    """A column of an edge; null stands for the rows of its table."""
    return {
        "kind": column.dataset.kind,
        "table": str(column.dataset),
        "column": None if column.is_rows else column.name,
    }
