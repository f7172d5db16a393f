"""The lineage as a Mermaid flowchart, which GitHub and many wikis draw."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.lineage.models import Column, Lineage

_ROWS = "its rows"


def mermaid(lineage: Lineage) -> Iterator[str]:
    """Its lines: a box for each table, a node for each column that is on the way. A dotted arrow
    decides; a solid one carries values."""
    yield "flowchart LR"
    nodes: dict[Column, str] = {}
    for number, (dataset, types) in enumerate(lineage.datasets.items()):
        yield f'  subgraph t{number}["{_quoted(str(dataset))}"]'
        for column in lineage.columns_of(dataset):
            if column.is_rows and not _has_arrows(lineage, column) and types:
                continue
            nodes[column] = f"c{len(nodes)}"
            label = _ROWS if column.is_rows else column.name
            yield f'    {nodes[column]}["{_quoted(label)}"]'
        yield "  end"
    for edge in lineage.edges:
        if edge.source in nodes and edge.target in nodes:
            arrow = "-->" if edge.is_direct else "-.->"
            yield f"  {nodes[edge.source]} {arrow} {nodes[edge.target]}"


def _has_arrows(lineage: Lineage, column: Column) -> bool:
    """Whether anything but the loading of a table is drawn at its rows."""
    edges = [*lineage.into.get(column, ()), *lineage.out_of.get(column, ())]
    return any(edge.hows not in (("load",), ("reads",)) for edge in edges)


def _quoted(text: str) -> str:
    """Text in a label: Mermaid takes `#code;` for a character, and some words for its own."""
    return "".join(one if one.isalnum() or one in " _." else f"#{ord(one)};" for one in text)
