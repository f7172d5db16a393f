"""`loadsheet status`: where each table and transform stands, by the ledger in the warehouse and by the source."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from loadsheet.cli.errors import FAILED, WRONG_INPUT, describe, is_expected, say
from loadsheet.cli.output import AsJson, console, print_json
from loadsheet.cli.places import open_pipeline, project_folder, project_specs, relative_problem, shown
from loadsheet.connections import project_connections
from loadsheet.errors import InputError, SpecError
from loadsheet.spec.load import load_pipeline
from loadsheet.spec.models import Pipeline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loadsheet.standing import PipelineStanding

_EVERY = 5


class StatusCommand(TyperCommand):
    """Takes `--watch` with a number of seconds or without; an option of Typer's has a value always or never."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's."""
        bare = [place for place, word in enumerate(args) if word == "--watch" and not _is_number(args[place + 1 :])]
        return super().parse_args(ctx, [f"--watch={_EVERY}" if n in bare else word for n, word in enumerate(args)])


def _is_number(words: list[str]) -> bool:
    return bool(words) and words[0].replace(".", "", 1).isdecimal()


@dataclass(frozen=True)
class Answer:
    """A pipeline, or its file where that is broken: how it stands, or why that cannot be said."""

    name: str
    standing: PipelineStanding | None
    error: Exception | None = None

    @property
    def words(self) -> str:
        """What went wrong."""
        if isinstance(self.error, SpecError):
            return "\n".join(str(relative_problem(problem)) for problem in self.error.problems)
        return f"{self.name}: {describe(self.error)}" if self.error else ""


def status(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all.")
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(metavar="[SECONDS]", min=0.1, help=f"Look again every so many seconds ({_EVERY}), until Ctrl-C."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each table's last load, rows, watermark, distance to the source, and what holds it back or has failed.

    Reads only. Without access to the source it shows what the warehouse knows.
    """
    if watch is not None:
        _watch(lambda: _answers(ctx.obj, pipeline), watch, as_json)
        return
    answers = _answers(ctx.obj, pipeline)
    if pipeline and answers[0].error:
        raise answers[0].error
    if as_json:
        print_json(_document(answers))
    else:
        _print(answers, console())
    for answer in answers:
        if answer.error and not as_json:
            say(f"error: {answer.words}")
    if errors := [answer.error for answer in answers if answer.error]:
        raise typer.Exit(WRONG_INPUT if any(isinstance(error, InputError) for error in errors) else FAILED)


def _answers(given: Path | None, name: str | None) -> list[Answer]:
    """What is known of the pipeline `name`, or of all; the trouble of one does not hide the others."""
    if name:
        spec, project = open_pipeline(given, name)
        return [_answer(spec.name, lambda: spec, project)]
    project = project_folder(given)
    return [_answer(shown(file), lambda file=file: load_pipeline(file), project) for file in project_specs(project)]  # type: ignore[misc]


def _answer(name: str, load: Callable[[], Pipeline], project: Path) -> Answer:
    # Here, so that commands that need no server start without a driver.
    from loadsheet.standing import standing

    try:
        pipeline = load()
        name = pipeline.name
        return Answer(name, standing(pipeline, project_connections(project)))
    except Exception as error:
        if not is_expected(error):
            raise
        return Answer(name, None, error)


def _document(answers: list[Answer]) -> dict[str, Any]:
    from loadsheet.cli.status_json import FORMAT, document, failed_document

    return {
        "format": FORMAT,
        "pipelines": [
            document(answer.standing) if answer.standing else failed_document(answer.name, answer.words)
            for answer in answers
        ],
    }


def _page(answers: list[Answer], errors: bool = False) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from loadsheet.cli.status_view import view

    parts: list[RenderableType] = []
    for answer in answers:
        if answer.standing or errors:
            parts += [Text("")] if parts else []
            parts.append(view(answer.standing) if answer.standing else Text(f"error: {answer.words}", "red"))
    return Group(*parts)


def _print(answers: list[Answer], out: Console, errors: bool = False) -> None:
    with out.capture() as captured:
        out.print(_page(answers, errors), soft_wrap=not out.is_terminal)
    if text := "\n".join(line.rstrip() for line in captured.get().splitlines()):
        typer.echo(text)


def _watch(look: Callable[[], list[Answer]], every: float, as_json: bool) -> None:
    """Until Ctrl-C, which is how this ends and no failure: one page that changes on a terminal, one after the other
    elsewhere, one JSON document a line for scripts."""
    out = console()
    with suppress(KeyboardInterrupt):
        if as_json:
            for answers in _repeated(look, every):
                typer.echo(json.dumps(_document(answers), ensure_ascii=False, default=str))
        elif out.is_terminal:
            _live(look, every, out)
        else:
            for answers in _repeated(look, every):
                typer.echo(_now())
                _print(answers, out, errors=True)
                typer.echo()


def _live(look: Callable[[], list[Answer]], every: float, out: Console) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=out, auto_refresh=False) as live:
        for answers in _repeated(look, every):
            foot = Text(f"{_now()}, every {every:g} s, Ctrl-C ends", style="dim")
            live.update(Group(_page(answers, errors=True), Text(""), foot), refresh=True)


def _repeated(look: Callable[[], list[Answer]], every: float) -> Iterator[list[Answer]]:
    while True:
        yield look()
        time.sleep(every)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
