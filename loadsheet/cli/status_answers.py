"""How pipelines stand, or why that cannot be said: what each way of `loadsheet status` shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadsheet.cli.errors import describe, is_expected
from loadsheet.cli.places import find_pipeline, project_folder, project_specs, relative_problem, shown
from loadsheet.connections import project_connections
from loadsheet.errors import SpecError
from loadsheet.spec.load import load_pipeline

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loadsheet.standing import PipelineStanding


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


def asking(given: Path | None, name: str | None) -> Callable[[], list[Answer]]:
    """What asks about the pipeline `name`, or about all; the trouble of one does not hide the others, nor ends a watch.

    Raises InputError, also when it is called, where there is no such pipeline or none at all.
    """
    if name:
        file, project = find_pipeline(given, name)
        return lambda: [_answer(file, project)]
    project = project_folder(given)
    return lambda: [_answer(file, project) for file in project_specs(project)]


def _answer(file: Path, project: Path) -> Answer:
    # Here, so that commands that need no server start without a driver.
    from loadsheet.standing import standing

    name = shown(file)
    try:
        pipeline = load_pipeline(file)
        name = pipeline.name
        return Answer(name, standing(pipeline, project_connections(project)))
    except Exception as error:
        if not is_expected(error):
            raise
        return Answer(name, None, error)


def as_document(answers: list[Answer]) -> dict[str, Any]:
    """The document of `--json`."""
    from loadsheet.cli.status_json import FORMAT, document, failed_document

    return {
        "format": FORMAT,
        "pipelines": [
            document(answer.standing) if answer.standing else failed_document(answer.name, answer.words)
            for answer in answers
        ],
    }


def as_page(answers: list[Answer], errors: bool = False, brief: bool = False) -> RenderableType:
    """The page for people: with what went wrong, if `errors`; without what wants nothing, if `brief`."""
    from rich.console import Group
    from rich.text import Text

    from loadsheet.cli.status_view import view
    from loadsheet.visible import visible

    parts: list[RenderableType] = []
    for answer in answers:
        if answer.standing or errors:
            parts += [Text("")] if parts else []
            error = Text(visible(f"error: {answer.words}"), "red")
            parts.append(view(answer.standing, brief) if answer.standing else error)
    return Group(*parts)
