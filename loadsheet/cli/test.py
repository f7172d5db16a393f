"""`loadsheet test`: builds transforms from the rows of a test and compares the result with the
expected rows."""

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
from loadsheet.cli.output import AsJson, PipelineOrAll, console, print_json, print_labelled
from loadsheet.connections.lookup import project_connections
from loadsheet.errors import InputError, LoadsheetError, SpecError
from loadsheet.problem import Problem
from loadsheet.project.folder import display_path, open_pipelines
from loadsheet.spec.models import Pipeline
from loadsheet.wording import counted

if TYPE_CHECKING:
    from loadsheet.connections.lookup import Connection
    from loadsheet.sqltest.compare import Difference
    from loadsheet.sqltest.models import Case
    from loadsheet.sqltest.run import Verdict

    Tests = list[tuple[Pipeline, list[Case], Any]]


_INDENT = " " * 8


def test(
    ctx: typer.Context,
    pipeline: PipelineOrAll = None,
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="TEXT", help="Only tests whose names contain TEXT."),
    ] = None,
    warehouse: Annotated[
        str | None,
        typer.Option(
            metavar="CONN_ID",
            help="Connection to a server on which databases may be created, instead of the embedded"
            " PostgreSQL. Its existing databases are not touched.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build transforms from the rows of tests and compare the results with the expected rows.

    Tests are in tests/*.yml next to the pipeline file. The exit code is 1 when a test fails.
    """
    specs, project = open_pipelines(ctx.obj, pipeline)
    tests = _read_tests(specs)
    chosen: Tests = []
    for spec, cases, tables in tests:
        matching = [case for case in cases if only is None or only in case.name]
        chosen.append((spec, matching, tables))
    if not any(cases for _, cases, _ in chosen):
        raise InputError(_why_no_tests(tests, only))
    started = time.monotonic()
    connection: Connection | None = None
    if warehouse:
        connection = project_connections(project)(warehouse)
    with as_ctrl_c():
        verdicts = _run(chosen, connection, quiet=as_json)
    failed = sum(not verdict.passed for verdict in verdicts)
    if as_json:
        print_json({"tests": [verdict_document(verdict) for verdict in verdicts]})
    else:
        result = f"{failed} failed" if failed else "all passed"
        seconds = time.monotonic() - started
        typer.echo(f"{counted(len(verdicts), 'test')}, {result}, in {seconds:.1f} s")
    if failed:
        raise typer.Exit(FAILED)


def _read_tests(specs: Sequence[Pipeline]) -> Tests:
    """The tests of each pipeline, and what they know of its tables. Raises SpecError with the
    problems of all."""
    from loadsheet.sqltest.files import read_tests

    tests: Tests = []
    problems: list[Problem] = []
    for spec in specs:
        try:
            cases, tables = read_tests(spec)
        except SpecError as error:
            problems += error.problems
        else:
            tests.append((spec, cases, tables))
    if problems:
        raise SpecError(problems)
    return tests


def _why_no_tests(tests: Tests, only: str | None) -> str:
    if only is not None and any(cases for _, cases, _ in tests):
        return f"--only {only}: no test has this in its name"
    folders = ", ".join(display_path(spec.file.parent / "tests") for spec, _, _ in tests)
    return f"there are no tests in {folders}: write one as docs/testing.md shows"


def _run(tests: Tests, connection: Connection | None, quiet: bool) -> list[Verdict]:
    """Run each test in a separate database, on the server of `connection` or an embedded one."""
    # Imported here: `--help` needs no driver.
    from loadsheet.sqltest.embedded import embedded, throwaway_database
    from loadsheet.sqltest.run import Verdict, run_case

    verdicts = []
    with nullcontext(connection) if connection else embedded() as server:
        for spec, cases, tables in tests:
            for case in cases:
                with throwaway_database(server, confined=connection is None) as session:
                    try:
                        verdict = run_case(session, spec, case, tables)
                    # An error of one test fails that test; the others still run.
                    except LoadsheetError as error:
                        verdict = Verdict(case=case, error=str(error))
                verdicts.append(verdict)
                # At once, so that a person sees how far a long run is.
                if not quiet:
                    print_verdict(spec.name, verdict)
    return verdicts


def print_verdict(pipeline: str, verdict: Verdict) -> None:
    """Print the test and whether it passed; of a failed one also each row that differs, or the
    error."""
    out = console()
    label, style = ("ok      ", "green") if verdict.passed else ("failed  ", "bold red")
    print_labelled(out, label, f"{pipeline}: {verdict.case.name}", style, _INDENT)
    if verdict.passed:
        return
    place = _place(verdict.case.where)
    if verdict.step and len(verdict.case.steps) > 1:
        place += f" (step {verdict.step})"
    print_labelled(out, _INDENT, place, "", f"{_INDENT}  ")
    # Files are shown relative to the current folder.
    for line in verdict.error.replace(f"{Path.cwd()}/", "").splitlines():
        print_labelled(out, _INDENT, line, "", f"{_INDENT}  ")
    table = ""
    for difference in verdict.differences:
        if difference.table != table:
            table = difference.table
            out.print(Text(f"        {table}:"), soft_wrap=True)
        for line, style in _lines(difference):
            out.print(Text(f"          {line}", style=style), soft_wrap=True)


def _lines(difference: Difference) -> list[tuple[str, str]]:
    """The lines of a difference, each with its style: a missing row starts with `-`, an extra row
    with `+`, and of a row that differs each cell is a line."""
    expected = difference.expected
    actual = difference.actual
    where = f"   {_place(difference.where)}" if difference.where else ""
    if expected is None:
        return [(f"+ {_row(actual or {})}", "green")]
    if actual is None:
        return [(f"- {_row(expected)}{where}", "red")]
    # The row is named by its key; without one by all cells that agree.
    names = [name for name in difference.key if name in expected]
    if not names:
        names = [name for name in expected if name not in difference.cells]
    row = _row({name: expected[name] for name in names})
    lines = [(f"~ {row}{where}", "yellow")]
    for cell in difference.cells:
        values = f"expected {_value(expected[cell])}, found {_value(actual[cell])}"
        lines.append((f"    {cell}: {values}", ""))
    return lines


def _row(values: dict[str, str | None]) -> str:
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items())


def _value(value: str | None) -> str:
    """The value, in quotes where it could be mistaken: an empty text, `null`, blanks around it, two
    lines."""
    if value is None:
        return "null"
    if value in ("", "null") or value != value.strip() or not value.isprintable():
        return repr(value)
    return value


def _place(where: str) -> str:
    file, line, column = where.rsplit(":", 2)
    return f"{display_path(file)}:{line}:{column}"


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """The verdict for `--json`."""
    differences = []
    for difference in verdict.differences:
        differences.append(
            {
                "table": difference.table,
                "expected": difference.expected,
                "actual": difference.actual,
                "where": difference.where,
            }
        )
    return {
        "name": verdict.case.name,
        "where": verdict.case.where,
        "passed": verdict.passed,
        "step": verdict.step,
        "error": verdict.error,
        "differences": differences,
    }
