"""`loadsheet status`: where each table and transform stands, by the ledger in the warehouse and by the source."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from loadsheet.cli.errors import FAILED, WRONG_INPUT, say
from loadsheet.cli.options import AsJson
from loadsheet.cli.output import console, print_json
from loadsheet.cli.status_answers import as_document, asking
from loadsheet.cli.status_watch import keep_looking, print_page
from loadsheet.errors import InputError

_EVERY = 5
_MOST = 86_400  # a day; a system's clock cannot wait for ever


class Command(TyperCommand):
    """Takes `--watch` with a number of seconds or without; an option of Typer's has a value always or never."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's."""
        bare = [place for place, word in enumerate(args) if word == "--watch" and not _is_number(args[place + 1 :])]
        return super().parse_args(ctx, [f"--watch={_EVERY}" if n in bare else word for n, word in enumerate(args)])


def _is_number(words: list[str]) -> bool:
    return bool(words) and words[0].replace(".", "", 1).isdecimal()


def status(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all.")
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]", min=0.1, max=_MOST,
            help=f"Look again every so many seconds ({_EVERY}), until Ctrl-C.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show each table's last load, rows, watermark, distance to the source, and what holds it back or has failed.

    Reads only. Without access to the source it shows what the warehouse knows.
    """
    if watch is not None and math.isnan(watch):  # neither below the least nor above the most
        raise typer.BadParameter("expected a number of seconds", param_hint="'--watch'")
    look = asking(ctx.obj, pipeline)
    if watch is not None:
        keep_looking(look, watch, as_json)
        return
    answers = look()
    if as_json:
        print_json(as_document(answers))
    elif pipeline and answers[0].error:
        raise answers[0].error
    else:
        print_page(answers, console())
    for answer in answers:
        if answer.error and not as_json:
            say(f"error: {answer.words}")
    if errors := [answer.error for answer in answers if answer.error]:
        raise typer.Exit(WRONG_INPUT if any(isinstance(error, InputError) for error in errors) else FAILED)
