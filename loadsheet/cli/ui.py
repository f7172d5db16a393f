"""`loadsheet ui`: the page of all tables and marts, on this machine."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from loadsheet.cli.errors import report_bug
from loadsheet.cli.output import PipelinesOrAll, show
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError
from loadsheet.project.folder import find_pipeline, project_folder, project_specs


def ui(
    ctx: typer.Context,
    pipelines: PipelinesOrAll = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65_535, help="The port on 127.0.0.1; 0: one that is free."),
    ] = 0,
) -> None:
    """Show all tables and marts on a page in the browser: state, lag, loads, SQL, lineage.

    Reads only. It serves this machine alone, and the address that it prints has a token, without
    which it answers nothing. Ctrl-C ends it.
    """
    # Imported here: `--help` needs no driver.
    from loadsheet.page.project import ProjectDocuments
    from loadsheet.page.server import PageServer

    found = [find_pipeline(ctx.obj, name) for name in pipelines or ()]
    projects = {project for _, project in found}
    if len(projects) > 1:
        raise InputError("these pipelines are in several projects: name those of one")
    project = projects.pop() if projects else project_folder(ctx.obj)
    chosen = [file for file, _ in found]
    project_specs(project)  # a project without pipelines is refused before the page opens

    def files() -> list[Path]:
        # Listed each time: the page shows a pipeline that is added meanwhile.
        return chosen or project_specs(project)

    documents = ProjectDocuments(files, project_connections(project))
    try:
        server = PageServer(port, documents.answer, report_bug)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise InputError(f"--port: {port} cannot be used: {error.strerror}") from None
    show(server.url, wrap=False)
    show("reads only, on this machine alone; Ctrl-C ends it", err=True)
    # Ctrl-C is the normal end, and no failure.
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
