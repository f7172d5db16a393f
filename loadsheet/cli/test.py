"""`loadsheet test`: builds transforms from given rows and compares the result with expected rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from loadsheet.cli.errors import FAILED
from loadsheet.cli.interrupt import as_ctrl_c
from loadsheet.cli.output import AsJson, console, print_json
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.problem import Problem
from loadsheet.project.folder import display_path, open_pipeline, project_folder, project_specs
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

if TYPE_CHECKING:
    from loadsheet.connections.lookup import Connection
    from loadsheet.sqltest.compare import Difference
    from loadsheet.sqltest.models import Case
    from loadsheet.sqltest.run import Verdict


def test(
    ctx: typer.Context,
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="[PIPELINE]", help="A pipeline's name, or its file. Default: all."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="TEXT", help="Only tests that have this in their name."),
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
    """Build transforms from given rows and compare them with expected ones; exit code 1 when they
    differ.

    Tests are in tests/*.yml beside the pipeline file.
    """
    specs = [open_pipeline(ctx.obj, pipeline)] if pipeline else _all(project_folder(ctx.obj))
    found = _read([spec for spec, _ in specs])
    chosen = [
        (spec, [case for case in cases if only is None or only in case.name], tables)
        for spec, cases, tables in found
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
    from loadsheet.sqltest.files import read_tests

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
    folders = ", ".join(display_path(spec.file.parent / "tests") for spec, _, _ in found)
    return f"there are no tests in {folders}: write one as docs/testing.md shows"


def _run(chosen: list[Any], connection: Connection | None, quiet: bool) -> list[Verdict]:
    # Here, so that `loadsheet test --help` needs no driver.
    from loadsheet.sqltest.embedded import embedded, throwaway_database
    from loadsheet.sqltest.run import run_case

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
    from loadsheet.sqltest.run import Verdict

    try:
        verdict: Verdict = run()
    except LoadsheetError as error:
        return Verdict(case=case, error=str(error))
    return verdict


def print_verdict(pipeline: str, verdict: Verdict) -> None:
    """The test with its mark; of one that failed, each row that is not as expected, or what kept it
    from being run."""
    out = console()
    mark = ("ok    ", "green") if verdict.passed else ("failed", "bold red")
    out.print(Text.assemble(mark, f"  {pipeline}: {verdict.case.name}"), soft_wrap=True)
    if verdict.passed:
        return
    step = f" (step {verdict.step})" if len(verdict.case.steps) > 1 and verdict.step else ""
    out.print(Text(f"        {_place(verdict.case.where)}{step}"), soft_wrap=True)
    if verdict.error:
        out.print(Text(_indented(_shortened(verdict.error))), soft_wrap=True)
    table = ""
    for difference in verdict.differences:
        if difference.table != table:
            table = difference.table
            out.print(Text(f"        {table}:"), soft_wrap=True)
        for line, style in _lines(difference):
            out.print(Text(f"          {line}", style=style), soft_wrap=True)


def _lines(difference: Difference) -> list[tuple[str, str]]:
    """A missing row has a `-` before it, one too many a `+`, and each cell that differs a line with
    both."""
    expected, actual = difference.expected, difference.actual
    where = f"   {_place(difference.where)}" if difference.where else ""
    if expected is None:
        return [(f"+ {_row(actual or {})}", "green")]
    if actual is None:
        return [(f"- {_row(expected)}{where}", "red")]
    key = tuple(c for c in difference.key if c in expected) or tuple(
        c for c in expected if c not in difference.cells
    )
    lines = [(f"~ {_row({c: expected[c] for c in key})}{where}", "yellow")]
    for cell in difference.cells:
        lines += [
            (f"    {cell}: expected {_value(expected[cell])}, found {_value(actual[cell])}", "")
        ]
    return lines


def _row(values: dict[str, str | None]) -> str:
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: str | None) -> str:
    """As it is, in quotes where it would be taken for something else: NULL, nothing, two lines."""
    if value is None:
        return "null"
    is_plain = value and value == value.strip() and value.isprintable() and value != "null"
    return value if is_plain else repr(value)


def _place(where: str) -> str:
    file, line, column = where.rsplit(":", 2)
    return f"{display_path(file)}:{line}:{column}"


def _shortened(text: str) -> str:
    """Files as seen from here."""
    return text.replace(f"{Path.cwd()}/", "")


def _indented(text: str) -> str:
    return "\n".join(f"        {line}" for line in text.splitlines())


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict for `--json`."""
    return {
        "name": verdict.case.name,
        "where": verdict.case.where,
        "passed": verdict.passed,
        "step": verdict.step,
        "error": verdict.error,
        "differences": [
            {"table": d.table, "expected": d.expected, "actual": d.actual, "where": d.where}
            for d in verdict.differences
        ],
    }
