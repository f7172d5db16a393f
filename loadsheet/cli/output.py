"""Output for people and for scripts, and the options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.redact import json_safe, on_one_line

if TYPE_CHECKING:
    from rich.console import Console

# A pipe has no width; a table must not be cut to 80 columns for it.
_WIDTH_OF_A_PIPE = 1000


def console() -> Console:
    """A console that is as wide as the terminal, or wide enough when there is none."""
    from rich.console import Console  # here: a script that asks for JSON is spared 30 ms

    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def print_json(document: Any) -> None:
    """`document` on stdout; values JSON does not know, such as times, as their text."""
    typer.echo(json_safe(json.dumps(document, indent=2, ensure_ascii=False, default=str)))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose cells are plain text, whatever characters they hold, without blanks at the ends
    of lines."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console()
    table = Table(
        *heads,
        box=box.SIMPLE_HEAD if out.is_terminal else None,
        header_style="bold",
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*(Text(on_one_line(cell), overflow="fold") for cell in row))
    with out.capture() as captured:
        out.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


PipelineArgument = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
