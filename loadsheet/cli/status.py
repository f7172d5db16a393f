"""`loadsheet status`: how each table and mart stands, once or continuously."""

from __future__ import annotations

import json
import math
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
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, SpecError
from loadsheet.project.folder import (
    display_path,
    find_pipeline,
    project_folder,
    project_specs,
    relative_problem,
)
from loadsheet.redact import json_safe
from loadsheet.spec.pipeline_file import load_pipeline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loadsheet.status.models import PipelineStatus

_EVERY = 5
_MOST = 86_400  # a day; a system's clock cannot wait for ever


class Command(TyperCommand):
    """Takes `--watch` with a number of seconds or without; an option of Typer's has a value always
    or never."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's."""
        completed = []
        for place, word in enumerate(args):
            if word == "--watch" and not _is_number(args[place + 1 :]):
                word = f"--watch={_EVERY}"
            completed.append(word)
        return super().parse_args(ctx, completed)


def _is_number(words: list[str]) -> bool:
    return bool(words) and words[0].replace(".", "", 1).isdecimal()


def status(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all."),
    ] = None,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]",
            min=0.1,
            max=_MOST,
            help=f"Look again every so many seconds ({_EVERY}), until Ctrl-C.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each table's last load, rows, watermark, distance to the source, and what holds it back
    or has failed.

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
    errors = [answer.error for answer in answers if answer.error]
    if any(isinstance(error, InputError) for error in errors):
        raise typer.Exit(WRONG_INPUT)
    if errors:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class Answer:
    """A pipeline, or its file where that is broken: how it stands, or why that cannot be said."""

    name: str
    status: PipelineStatus | None
    error: Exception | None = None

    @property
    def words(self) -> str:
        """What went wrong."""
        if isinstance(self.error, SpecError):
            return "\n".join(str(relative_problem(problem)) for problem in self.error.problems)
        return f"{self.name}: {describe(self.error)}" if self.error else ""


def asking(given: Path | None, name: str | None) -> Callable[[], list[Answer]]:
    """What asks about the pipeline `name`, or about all; the trouble of one does not hide the
    others, nor ends a watch.

    Raises InputError, also when it is called, where there is no such pipeline or none at all.
    """
    if name:
        file, project = find_pipeline(given, name)
        return lambda: [_answer(file, project)]
    project = project_folder(given)

    def ask_all() -> list[Answer]:
        return [_answer(file, project) for file in project_specs(project)]

    return ask_all


def _answer(file: Path, project: Path) -> Answer:
    # Here, so that commands that need no server start without a driver.
    from loadsheet.status.pipeline import pipeline_status

    name = display_path(file)
    try:
        pipeline = load_pipeline(file)
        name = pipeline.name
        return Answer(name, pipeline_status(pipeline, project_connections(project)))
    except Exception as error:
        if not is_expected(error):
            raise
        return Answer(name, None, error)


def as_document(answers: list[Answer]) -> dict[str, Any]:
    """The document of `--json`."""
    from loadsheet.status.document import FORMAT, document, failed_document

    pipelines = []
    for answer in answers:
        if answer.status:
            pipelines.append(document(answer.status))
        else:
            pipelines.append(failed_document(answer.name, answer.words))
    return {"format": FORMAT, "pipelines": pipelines}


def as_page(answers: list[Answer], errors: bool = False, brief: bool = False) -> RenderableType:
    """The page for people: with what went wrong, if `errors`; without what wants nothing, if
    `brief`."""
    from rich.console import Group
    from rich.text import Text

    from loadsheet.redact import visible
    from loadsheet.status.page import view

    parts: list[RenderableType] = []
    for answer in answers:
        if answer.status or errors:
            parts += [Text("")] if parts else []
            error = Text(visible(f"error: {answer.words}"), "red")
            parts.append(view(answer.status, brief) if answer.status else error)
    return Group(*parts)


def keep_looking(look: Callable[[], list[Answer]], every: float, as_json: bool) -> None:
    """Until Ctrl-C, which is how this ends and no failure: one page that changes on a terminal, one
    after the other elsewhere, one JSON document a line for scripts."""
    out = console()
    with suppress(KeyboardInterrupt):
        if as_json:
            for answers in _repeated(look, every):
                typer.echo(
                    json_safe(json.dumps(as_document(answers), ensure_ascii=False, default=str))
                )
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
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    if text:
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
    """What is below the screen cannot be scrolled to, and failures stand at the end: then without
    what is well."""
    page = as_page(answers, errors=True)
    foot = 2
    return (
        page
        if len(out.render_lines(page)) + foot <= out.height
        else as_page(answers, errors=True, brief=True)
    )


def _repeated(look: Callable[[], list[Answer]], every: float) -> Iterator[list[Answer]]:
    while True:
        yield look()
        time.sleep(every)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
