"""`loadsheet lineage`: where a mart's columns come from, and what a source column reaches."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadsheet.cli.output import AsJson, print_json, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, SpecError
from loadsheet.names import closest, did_you_mean
from loadsheet.project.folder import (
    display_path,
    open_pipeline,
    project_folder,
    project_specs,
)
from loadsheet.redact import json_safe, on_one_line
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

if TYPE_CHECKING:
    from loadsheet.lineage.naming import Asked


def lineage(
    ctx: typer.Context,
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[PIPELINE] [NAME]",
            help="NAME is a mart, a staging table, a source table, or a column of one:"
            " mart.fct_sales.amount. PIPELINE alone shows all its marts; it may be left out where"
            " only one pipeline has NAME.",
        ),
    ],
    down: Annotated[
        bool, typer.Option("--down", help="Show what is made of it, not what it comes from.")
    ] = False,
    as_json: AsJson = False,
    as_mermaid: Annotated[
        bool, typer.Option("--mermaid", help="Print a Mermaid flowchart instead.")
    ] = False,
    as_openlineage: Annotated[
        bool,
        typer.Option("--openlineage", help="Print OpenLineage events instead, one to a line."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Draw it into an HTML file, which needs no network."
        ),
    ] = None,
) -> None:
    """Show which source columns a mart's columns come from, and through which expressions; or, with
    --down, which marts a column reaches.

    The warehouse explains the marts' SQL. Nothing is written there. What cannot be traced, such as
    the columns of a script, is shown as not known.
    """
    if sum([as_json, as_mermaid, as_openlineage, html is not None]) > 1:
        raise InputError(
            "--json, --mermaid, --openlineage and --html are ways to show it: choose one"
        )
    pipeline, project, asked = _asked(ctx.obj, names)
    # Imported here: `--help` needs no driver.
    from loadsheet.lineage.graph import pipeline_lineage
    from loadsheet.lineage.naming import start_of, transforms_for
    from loadsheet.postgres import connect_warehouse

    only = transforms_for(pipeline, asked.dataset, down) if asked else None
    connections = project_connections(project)
    warehouse = connections(pipeline.warehouse.conn_id)
    with connect_warehouse(warehouse) as session:
        whole = pipeline_lineage(session, pipeline, only)
    if asked:
        start = start_of(whole, pipeline, asked, down)
    else:
        kinds = ("source", "external") if down else ("mart",)
        tables = [dataset for dataset in whole.datasets if dataset.kind in kinds]
        start = [column for dataset in tables for column in whole.columns_of(dataset)]
    found = whole.reached(start, down)
    title = str(asked or pipeline.name)
    if as_json:
        from loadsheet.lineage.document import document

        print_json(document(found, title, down, display_path))
    elif as_mermaid:
        from loadsheet.lineage.mermaid import mermaid

        typer.echo("\n".join(mermaid(found)))
    elif as_openlineage:
        from loadsheet.lineage.openlineage import Names, job_events

        # As Airflow's provider reads it, so that a task is one job to both.
        namespace = os.environ.get("OPENLINEAGE_NAMESPACE") or "default"
        server_names = Names(namespace, connections(pipeline.source.conn_id), warehouse)
        targets = [one for one in found.datasets if one.kind in ("staging", "mart")]
        for event in job_events(whole, pipeline, server_names, targets):
            typer.echo(json_safe(json.dumps(event, ensure_ascii=False)))
    elif html:
        from loadsheet.lineage.page import page

        try:
            html.write_text(page(found, title), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--html: {html} cannot be written: {error.strerror}") from None
        show(f"drawn: {html}")
    else:
        from loadsheet.lineage.text import lines_of

        for line in lines_of(found, start, down):
            show(on_one_line(line), wrap=False)


def _asked(explicit: Path | None, names: list[str]) -> tuple[Pipeline, Path, Asked | None]:
    """The pipeline, its project, and what of it is asked for; None for all.

    Raises InputError where there is nothing of that name, or where several pipelines have it.
    """
    from loadsheet.lineage.naming import find_asked, known_names

    if len(names) > 2:
        raise InputError("lineage takes a pipeline and one name: loadsheet lineage PIPELINE NAME")
    name = names[-1]
    if len(names) == 2:
        pipeline, project = open_pipeline(explicit, names[0])
        candidates = [pipeline]
    else:
        project = project_folder(explicit)
        candidates = _readable(project)
        for pipeline in candidates:
            if pipeline.name == name:
                return pipeline, project, None
    found = [(one, asked) for one in candidates if (asked := find_asked(one, name))]
    if not found:
        known = [known for one in candidates for known in known_names(one)]
        if len(names) == 1 and "." not in name:
            known += [one.name for one in candidates]
        raise InputError(f"there is no table or mart {name!r}{_meant(name, known)}")
    if len(found) > 1:
        pipelines = ", ".join(one.name for one, _ in found)
        raise InputError(
            f"{name!r} is in several pipelines ({pipelines}): name one, as in"
            f" loadsheet lineage {found[0][0].name} {name}"
        )
    [(pipeline, asked)] = found
    return pipeline, project, asked


def _meant(name: str, known: list[str]) -> str:
    """What may have been meant, also in the quotes of SQL or without a schema: of a column's name,
    its table's part is compared, too."""
    plain = name.replace('"', "")
    full_names = {full.partition(".")[2]: full for full in reversed(known)}
    for word in (plain, plain.rpartition(".")[0]):
        meant = closest(word, known) or full_names.get(closest(word, full_names) or "")
        if meant:
            return f" (did you mean {meant!r}?)"
    return did_you_mean(name, known)


def _readable(project: Path) -> list[Pipeline]:
    """The pipelines of the project whose files have no problems; where all have, raises the first
    one's SpecError."""
    found = []
    first = None
    for file in project_specs(project):
        try:
            found.append(load_pipeline(file))
        except SpecError as error:
            first = first or error
    if first and not found:
        raise first
    return found
