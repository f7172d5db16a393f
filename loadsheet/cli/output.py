"""Output for people and for scripts, and the options that several commands share."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.redact import json_safe, on_one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# A pipe has no width; a table must not be cut to 80 columns for it.
_WIDTH_OF_A_PIPE = 1000
_NARROWEST = 20
# A line of a file and the carets below it: broken, neither could be read.
_EXCERPT = re.compile(r" *\d* \| ")


def show(text: str, err: bool = False, wrap: bool = True) -> None:
    """Print `text`, to stderr where `err`. On a terminal its lines end between words: what is cut
    in two cannot be copied. Elsewhere lines stay whole, so that `grep` finds them."""
    width = screen_width(sys.stderr if err else sys.stdout) if wrap else None
    typer.echo(fitted(text, width), err=err)


def screen_width(stream: IO[str] | None) -> int | None:
    """The columns of the terminal that `stream` is; None where it is none, or closed (`>&-`)."""
    if stream is None or not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal():
        return max(int(columns), _NARROWEST)
    try:
        return max(os.get_terminal_size(stream.fileno()).columns, _NARROWEST)
    except (OSError, ValueError):
        return None


def fitted(text: str, width: int | None, indent: str | None = None) -> str:
    """`text` with its lines broken between words where they are longer than `width`; the rest of a
    line begins with `indent`, else two blanks deeper than the line. Excerpts of files stay."""
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        if len(line) <= width or _EXCERPT.match(line):
            lines.append(line)
            continue
        own_indent = " " * (len(line) - len(line.lstrip(" ")) + 2)
        broken = textwrap.wrap(
            line,
            width,
            subsequent_indent=own_indent if indent is None else indent,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += broken or [line]
    return "\n".join(lines)


def print_labelled(out: Console, label: str, text: str, style: str, indent: str) -> None:
    """Print a label in its style, and its text. On a terminal the rest of a long line begins with
    `indent`."""
    from rich.text import Text

    whole = fitted(f"{label}{text}", out.width if out.is_terminal else None, indent)
    out.print(Text.assemble((whole[: len(label)], style), whole[len(label) :]), soft_wrap=True)


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
PipelineOrAll = Annotated[
    str | None,
    typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all."),
]
PipelinesOrAll = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PIPELINE]...", help="A pipeline's name, or its file. Default: all."),
]
EveryStep = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print a line for each step, not only what changes and fails."
    ),
]


def prints_every_step(ctx: typer.Context, verbose: bool) -> bool:
    """Whether `-v` stands after the command (`verbose`) or before it, where it also logs."""
    return verbose or bool(ctx.find_root().params.get("verbose"))


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
