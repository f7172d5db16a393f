"""`loadsheet status`: the state of each table and mart, once or continuously."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from loadsheet.cli.errors import FAILED, WRONG_INPUT, describe_error, is_expected, say
from loadsheet.cli.output import (
    AsJson,
    EveryStep,
    PipelineOrAll,
    console,
    print_json,
    prints_every_step,
    rendered,
)
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, SpecError
from loadsheet.names import did_you_mean
from loadsheet.project.folder import (
    display_path,
    find_pipeline,
    open_pipeline,
    project_folder,
    project_specs,
    relative_problem,
)
from loadsheet.redact import hanging, json_safe
from loadsheet.spec.pipeline_file import load_pipeline

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loadsheet.status.models import PipelineStatus

_EVERY = 5
_LONGEST = 86_400  # a day: `time.sleep` cannot wait for any number of seconds
_FOOT_LINES = 2

Reader = Callable[[], "list[Answer]"]


class Command(TyperCommand):
    """Takes `--watch` with or without a number of seconds: to Typer, an option either always has a
    value or never."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer's, with the default number after a `--watch` without one."""
        completed = []
        for place, word in enumerate(args):
            if word == "--watch":
                following = "".join(args[place + 1 : place + 2])
                if not following.replace(".", "", 1).isdecimal():
                    word = f"--watch={_EVERY}"
            completed.append(word)
        return super().parse_args(ctx, completed)


def status(
    ctx: typer.Context,
    pipeline: PipelineOrAll = None,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="[SECONDS]",
            min=0.1,
            max=_LONGEST,
            help=f"Update every SECONDS seconds (default: {_EVERY}), until Ctrl-C.",
        ),
    ] = None,
    tables: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Only these tables and transforms of PIPELINE."),
    ] = None,
    fail_if_late: Annotated[
        bool,
        typer.Option(
            "--fail-if-late",
            help="Exit with 1 if a table or mart, or its last comparison, is late (fresh_within).",
        ),
    ] = False,
    verbose: EveryStep = False,
    as_json: AsJson = False,
    prometheus: Annotated[
        bool,
        typer.Option("--prometheus", help="Print gauges in Prometheus's text format."),
    ] = False,
) -> None:
    """Show each table's last load, rows, watermark, distance to the source, what holds it back, and
    failures.

    Reads only. Without access to the source, it shows what the warehouse knows.
    """
    if prometheus and (as_json or watch is not None):
        raise InputError("--prometheus prints one document: leave out --json and --watch")
    if watch is not None and math.isnan(watch):  # NaN passes the checks for min and max
        raise typer.BadParameter("expected a number of seconds", param_hint="'--watch'")
    read = status_reader(ctx.obj, pipeline)
    if tables is not None:
        read = _only(read, _chosen(ctx.obj, pipeline, tables))
    if watch is not None:
        watch_status(read, watch, as_json)
        return
    see_all = ""
    if not (tables or prints_every_step(ctx, verbose)):
        see_all = "loadsheet status {} -v lists all"
    answers = read()
    if as_json:
        print_json(as_document(answers))
    elif prometheus:
        answers = _without_namesakes(answers)
        typer.echo(as_gauges(answers), nl=False)
    elif pipeline and answers[0].error:
        raise answers[0].error
    else:
        print_page(answers, console(), see_all=see_all)
    for answer in answers:
        if answer.error and not as_json:
            say(hanging(f"error: {answer.error_text}"))
    errors = [answer.error for answer in answers if answer.error]
    if any(isinstance(error, InputError) for error in errors):
        raise typer.Exit(WRONG_INPUT)
    if errors or (fail_if_late and _is_late(answers)):
        raise typer.Exit(FAILED)


def _is_late(answers: list[Answer]) -> bool:
    for answer in answers:
        if answer.status is None:
            continue
        for target in (*answer.status.tables, *answer.status.transforms):
            if target.is_late:
                return True
    return False


def _chosen(explicit: Path | None, pipeline: str | None, wanted: str) -> set[str]:
    """The names that --tables gives. Raises InputError where the pipeline has no such table or
    transform."""
    if not pipeline:
        raise InputError("--tables chooses tables of one pipeline: loadsheet status PIPELINE")
    spec, _ = open_pipeline(explicit, pipeline)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    known = [table.name for table in spec.tables]
    known += [transform.name for transform in spec.transforms]
    if not names:
        raise InputError(f"--tables names no table{did_you_mean('', known)}")
    for name in names:
        # A pattern's table is known only to the source and the ledger.
        if name not in known and not spec.pattern_of(name):
            raise InputError(
                f"--tables: {spec.name} has no table or transform {name!r}"
                f"{did_you_mean(name, known)}"
            )
    return set(names)


def _only(read: Reader, names: set[str]) -> Reader:
    """The reader, with the tables and transforms of these names alone. Where none of them is known
    yet, it raises InputError."""

    def read_chosen() -> list[Answer]:
        answers = read()
        for answer in answers:
            if answer.status is None:
                continue
            found = answer.status
            found.tables = [table for table in found.tables if table.name in names]
            found.transforms = [one for one in found.transforms if one.name in names]
            missing = names - {target.name for target in (*found.tables, *found.transforms)}
            if missing:
                raise InputError(
                    f"--tables: {answer.name} has not loaded {', '.join(sorted(missing))}"
                )
        return answers

    return read_chosen


@dataclass(frozen=True)
class Answer:
    """The status of one pipeline, or the error that prevents it."""

    name: str
    """The pipeline's; the path of its file where that has problems."""
    status: PipelineStatus | None
    error: Exception | None = None

    @property
    def error_text(self) -> str:
        """The error as users see it; empty where there is none."""
        if self.error is None:
            return ""
        if isinstance(self.error, SpecError):
            problems = [str(relative_problem(problem)) for problem in self.error.problems]
            return "\n".join(problems)
        return f"{self.name}: {describe_error(self.error)}"


def status_reader(explicit: Path | None, name: str | None) -> Reader:
    """A function that reads the status of the pipeline `name`, or of all, each time it is called.

    An error of one pipeline is part of its answer: it neither hides the others nor ends a watch.
    Raises InputError where there is no such pipeline, or none at all; so does the function.
    """
    if name:
        file, project = find_pipeline(explicit, name)
        return lambda: [_answer(file, project)]
    project = project_folder(explicit)

    def read_all() -> list[Answer]:
        # The files are listed each time: a watch shows a pipeline that is added meanwhile.
        return [_answer(file, project) for file in project_specs(project)]

    return read_all


def _answer(file: Path, project: Path) -> Answer:
    # Imported here: `--help` needs no driver.
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
    """The document for `--json`."""
    from loadsheet.status.document import FORMAT, document, failed_document

    pipelines = []
    for answer in answers:
        if answer.status:
            pipelines.append(document(answer.status))
        else:
            pipelines.append(failed_document(answer.name, answer.error_text))
    return {"format": FORMAT, "pipelines": pipelines}


def as_gauges(answers: list[Answer]) -> str:
    """The document for `--prometheus`."""
    from loadsheet.status.prometheus import exposition

    return exposition({answer.name: answer.status for answer in answers})


def _without_namesakes(answers: list[Answer]) -> list[Answer]:
    """The answers, where a name that several files have is an error: gauges are told apart by it,
    and Prometheus takes none of a document in which one is there twice."""
    counts = Counter(answer.name for answer in answers)
    told: dict[str, Answer] = {}
    for answer in answers:
        if counts[answer.name] > 1:
            error = InputError("several files have this name. Next: loadsheet check names them")
            answer = Answer(answer.name, None, error)
        told[answer.name] = answer
    return list(told.values())


def as_page(
    answers: list[Answer], errors: bool = False, brief: bool = False, see_all: str = ""
) -> RenderableType:
    """The page for people: with `errors`, or without them; `brief` leaves out the tables that need
    no attention. `see_all` is the command that lists all of a pipeline, in place of {}, where not
    all are listed."""
    from rich.console import Group
    from rich.text import Text

    from loadsheet.redact import visible
    from loadsheet.status.page import view

    sections: list[RenderableType] = []
    for answer in answers:
        section: RenderableType
        if answer.status:
            section = view(answer.status, brief, see_all.format(answer.name))
        elif errors:
            section = Text(visible(hanging(f"error: {answer.error_text}")), "red")
        else:
            continue
        if sections:
            sections.append(Text(""))
        sections.append(section)
    return Group(*sections)


def watch_status(read: Reader, every: float, as_json: bool) -> None:
    """Read and print until Ctrl-C: on a terminal a page that changes, elsewhere one page after the
    other, for scripts one JSON document per line."""
    out = console()
    # Ctrl-C is the normal end, and no failure.
    with suppress(KeyboardInterrupt):
        if as_json:
            for answers in _repeated(read, every):
                document = json.dumps(as_document(answers), ensure_ascii=False, default=str)
                typer.echo(json_safe(document))
        elif out.is_terminal:
            _watch_live(read, every, out)
        else:
            for answers in _repeated(read, every):
                typer.echo(_now())
                print_page(answers, out, errors=True)
                typer.echo()


def print_page(
    answers: list[Answer], out: Console, errors: bool = False, see_all: str = ""
) -> None:
    """Print the page, if there is anything on it."""
    page = as_page(answers, errors, see_all=see_all)
    text = rendered(out, page, soft_wrap=not out.is_terminal)
    if text:
        typer.echo(text)


def _watch_live(read: Reader, every: float, out: Console) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=out, auto_refresh=False) as live:
        for answers in _repeated(read, every):
            page = as_page(answers, errors=True)
            # Rich cuts a page that is longer than the screen, and failures are at the end.
            if len(out.render_lines(page)) + _FOOT_LINES > out.height:
                page = as_page(answers, errors=True, brief=True)
            foot = Text(f"{_now()}, every {every:g} s, Ctrl-C ends", style="dim")
            live.update(Group(page, Text(""), foot), refresh=True)


def _repeated(read: Reader, every: float) -> Iterator[list[Answer]]:
    while True:
        yield read()
        time.sleep(every)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
