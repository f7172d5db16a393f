"""`loadsheet test`: transforms on small given rows, in a database made for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loadsheet.cli.errors import FAILED
from loadsheet.cli.interrupt import as_ctrl_c
from loadsheet.cli.options import AsJson
from loadsheet.cli.output import print_json
from loadsheet.cli.places import open_pipeline, project_folder, project_specs, shown
from loadsheet.cli.verdicts import document, print_verdict
from loadsheet.connections import project_connections
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.spec.load import load_pipeline
from loadsheet.spec.models import Pipeline
from loadsheet.spec.problem import Problem

if TYPE_CHECKING:
    from loadsheet.connections import Connection
    from loadsheet.testing.models import Case
    from loadsheet.testing.run import Verdict


def test(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="TEXT", help="Only tests that have this in their name.")
    ] = None,
    warehouse: Annotated[
        str | None,
        typer.Option(
            metavar="CONN_ID",
            help="A server on which databases may be created, in place of the embedded PostgreSQL. "
            "What is in its databases is not touched.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build transforms from given rows and compare them with expected ones; exit code 1 when they differ.

    Tests are in tests/*.yml beside the pipeline file.
    """
    specs = [open_pipeline(ctx.obj, pipeline)] if pipeline else _all(project_folder(ctx.obj))
    found = _read([spec for spec, _ in specs])
    chosen = [
        (spec, [case for case in cases if only is None or only in case.name], tables) for spec, cases, tables in found
    ]
    if not any(cases for _, cases, _ in chosen):
        raise InputError(_no_tests(found, only))
    started = time.monotonic()
    connection = project_connections(specs[0][1])(warehouse) if warehouse else None
    with as_ctrl_c():
        verdicts = _run(chosen, connection, quiet=as_json)
    failed = sum(not verdict.passed for verdict in verdicts)
    if as_json:
        print_json({"tests": [document(verdict) for verdict in verdicts]})
    else:
        count = f"{len(verdicts)} tests" if len(verdicts) != 1 else "1 test"
        result = f"{failed} failed" if failed else "all as expected"
        typer.echo(f"{count}, {result}, in {time.monotonic() - started:.1f} s")
    if failed:
        raise typer.Exit(FAILED)


def _all(project: Path) -> list[tuple[Pipeline, Path]]:
    return [(load_pipeline(spec), project) for spec in project_specs(project)]


def _read(specs: Sequence[Pipeline]) -> list[Any]:
    """The tests of each. Raises SpecError with the problems of all."""
    from loadsheet.testing.files import read_tests

    found: list[Any] = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            found.append((spec, *read_tests(spec)))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return found


def _no_tests(found: list[Any], only: str | None) -> str:
    if only is not None and any(cases for _, cases, _ in found):
        return f"--only {only}: no test has this in its name"
    folders = ", ".join(shown(spec.file.parent / "tests") for spec, _, _ in found)
    return f"there are no tests in {folders}: write one as docs/testing.md shows"


def _run(chosen: list[Any], connection: Connection | None, quiet: bool) -> list[Verdict]:
    # Here, so that `loadsheet test --help` needs no driver.
    from loadsheet.testing.run import run_case
    from loadsheet.testing.server import embedded, throwaway_database

    verdicts = []
    with nullcontext(connection) if connection else embedded() as server:
        for spec, cases, tables in chosen:
            for case in cases:
                with throwaway_database(server) as session:
                    verdicts.append(_tried(lambda: run_case(session, spec, case, tables), case))  # noqa: B023
                if not quiet:
                    print_verdict(spec.name, verdicts[-1])
    return verdicts


def _tried(run: Any, case: Case) -> Verdict:
    from loadsheet.testing.run import Verdict

    try:
        verdict: Verdict = run()
    except LoadsheetError as error:
        return Verdict(case=case, error=str(error))
    return verdict
