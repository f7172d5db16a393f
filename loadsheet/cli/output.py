"""Output for people and for scripts, and the options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.redact import json_safe, on_one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# A pipe has no width; a table must not be cut to 80 columns for it.
_WIDTH_OF_A_PIPE = 1000


def console() -> Console:
    """A console that is as wide as the terminal, or wide enough when there is none."""
    from rich.console import Console  # imported here: a command with --json is spared 30 ms

    out = Console(highlight=False)
    if out.is_terminal:
        return out
    return Console(highlight=False, width=_WIDTH_OF_A_PIPE)


def print_json(document: Any) -> None:
    """Print `document` as JSON; values that JSON does not have, such as times, as their text."""
    typer.echo(json_safe(json.dumps(document, indent=2, ensure_ascii=False, default=str)))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. Cells are plain text: nothing in them is taken for markup."""
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
    typer.echo(rendered(out, table))


def rendered(out: Console, content: RenderableType, **options: Any) -> str:
    """What `out` would print, without the blanks that Rich pads lines with. `options` are those of
    its `print`."""
    with out.capture() as captured:
        out.print(content, **options)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


PipelineArgument = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
