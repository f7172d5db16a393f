"""`loadsheet status --watch`: the same again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from loadsheet.cli.output import console
from loadsheet.cli.status_answers import Answer, as_document, as_page
from loadsheet.visible import json_safe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def keep_looking(look: Callable[[], list[Answer]], every: float, as_json: bool) -> None:
    """Until Ctrl-C, which is how this ends and no failure: one page that changes on a terminal, one after the other
    elsewhere, one JSON document a line for scripts."""
    out = console()
    with suppress(KeyboardInterrupt):
        if as_json:
            for answers in _repeated(look, every):
                typer.echo(json_safe(json.dumps(as_document(answers), ensure_ascii=False, default=str)))
        elif out.is_terminal:
            _live(look, every, out)
        else:
            for answers in _repeated(look, every):
                typer.echo(_now())
                print_page(answers, out, errors=True)
                typer.echo()


def print_page(answers: list[Answer], out: Console, errors: bool = False) -> None:
    """One page, without blanks at the ends of lines."""
    with out.capture() as captured:
        out.print(as_page(answers, errors), soft_wrap=not out.is_terminal)
    if text := "\n".join(line.rstrip() for line in captured.get().splitlines()):
        typer.echo(text)


def _live(look: Callable[[], list[Answer]], every: float, out: Console) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=out, auto_refresh=False) as live:
        for answers in _repeated(look, every):
            foot = Text(f"{_now()}, every {every:g} s, Ctrl-C ends", style="dim")
            live.update(Group(_fitting(answers, out), Text(""), foot), refresh=True)


def _fitting(answers: list[Answer], out: Console) -> RenderableType:
    """What is below the screen cannot be scrolled to, and failures stand at the end: then without what is well."""
    page = as_page(answers, errors=True)
    foot = 2
    return page if len(out.render_lines(page)) + foot <= out.height else as_page(answers, errors=True, brief=True)


def _repeated(look: Callable[[], list[Answer]], every: float) -> Iterator[list[Answer]]:
    while True:
        yield look()
        time.sleep(every)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
