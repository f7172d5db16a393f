"""What the tests of `loadsheet restore` share: tables that change from day to day, a copy of each
after each of its loads, and the command."""

from __future__ import annotations

import json
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.sql.text import ident, idents, literal
from tests.project import Project

SOURCE = """
CREATE TABLE merged (
    id int PRIMARY KEY, what text, small int, old text DEFAULT 'old',
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE log (n bigserial, what text);
CREATE TABLE whole (id int PRIMARY KEY, what text);
INSERT INTO merged (id, what, small) SELECT n, 'a' || n, n FROM generate_series(1, 60) n;
INSERT INTO log (what) SELECT 'a' || n FROM generate_series(1, 60) n;
INSERT INTO whole SELECT n, 'a' || n FROM generate_series(1, 60) n;
"""
TABLES: dict[str, Any] = {
    "merged": {"incremental": {"cursor": "at", "hold_back": "0s"}},
    "log": {"incremental": {"cursor": "n", "hold_back": "0s"}, "mode": "append"},
}
WHOLE: dict[str, Any] = {"whole": None}
MARTS: dict[str, Any] = {
    "sums": "SELECT count(*) AS rows, max(_load_id) AS newest FROM merged",
    "doubled": "SELECT rows * 2 AS rows FROM sums",
}
A_DAY = """
UPDATE merged SET small = small + 1, at = clock_timestamp() WHERE id % 7 = {day};
INSERT INTO merged (id, small) SELECT max(id) + 1, {day} FROM merged;
INSERT INTO log (what) SELECT 'day {day}' FROM generate_series(1, 3);
DELETE FROM whole WHERE id = {day};
"""
DRIFT = {
    2: "ALTER TABLE merged ADD added numeric(8,2); UPDATE merged SET added = id WHERE id % 7 = 2;",
    3: "ALTER TABLE merged RENAME what TO said; ALTER TABLE merged ALTER small TYPE bigint;",
    4: "ALTER TABLE merged DROP old;",
}
Copies = dict[str, dict[int, str]]
"""By table, a copy of it after each of its loads."""


def command(project: Project, *arguments: str) -> Result:
    """`loadsheet` in this process, which is faster than one of its own."""
    return CliRunner().invoke(
        app, ["--project", str(project.folder), *arguments], env=project.environment()
    )


def restore(project: Project, table: str, *options: str) -> dict[str, Any]:
    """What a restore that succeeds prints."""
    result = command(project, "restore", project.name, table, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(project: Project, table: str, *options: str, code: int = 1) -> str:
    """The message of a restore that fails."""
    result = command(project, "restore", project.name, table, *options)
    assert result.exit_code == code, result.output
    return result.stderr


def load_numbers(project: Project, table: str) -> list[int]:
    rows = project.in_warehouse(
        "SELECT load_no FROM loadsheet.load WHERE table_name = %s ORDER BY 1", table
    )
    return [number for (number,) in rows]


def keep_copies(project: Project, copies: Copies) -> None:
    """Copy what each table is now, under the number of its last load."""
    project.in_warehouse("CREATE SCHEMA IF NOT EXISTS kept")
    tables = project.in_warehouse("SELECT DISTINCT table_name FROM loadsheet.load")
    for (table,) in tables:
        number = load_numbers(project, table)[-1]
        name = f"kept.{table}_{number}"
        project.in_warehouse(f"CREATE TABLE IF NOT EXISTS {name} AS TABLE staging.{table}")
        copies.setdefault(table, {})[number] = name


def a_day(project: Project, copies: Copies, day: int, **request: Any) -> None:
    project.in_source(DRIFT.get(day, "") + A_DAY.format(day=day))
    project.succeed(**request)
    keep_copies(project, copies)


def opened(project: Project, copies: Copies, days: int, tables: dict[str, Any]) -> Project:
    project.in_source(SOURCE)
    project.spec(tables)
    project.succeed()
    keep_copies(project, copies)
    for day in range(1, days + 1):
        a_day(project, copies, day)
    return project


def columns(project: Project, table: str) -> dict[str, str]:
    schema, _, name = table.partition(".")
    rows = project.in_warehouse(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid ="
        f" to_regclass({literal(f'{schema}.{ident(name)}')}) AND attnum > 0 AND NOT attisdropped"
    )
    return dict(rows)


def difference(project: Project, one: str, other: str) -> Any:
    """How two tables differ: in types, or in the number of rows that only one has.

    A column without values may be in one alone: a full refresh leaves those that the source has no
    longer, and a restore in place those that came later.
    """
    left, right = columns(project, one), columns(project, other)
    for table, name in [(one, n) for n in left.keys() - right.keys()] + [
        (other, n) for n in right.keys() - left.keys()
    ]:
        if project.in_warehouse(f"SELECT count({ident(name)}) FROM {table}") != [(0,)]:
            return f"only {table} has {name}"
    common = sorted(left.keys() & right.keys())
    if [left[name] for name in common] != [right[name] for name in common]:
        return left, right
    rows = f"SELECT ROW({idents(common)})::text FROM"
    return project.in_warehouse(
        f"SELECT (SELECT count(*) FROM ({rows} {one} EXCEPT ALL {rows} {other}) a)"
        f" + (SELECT count(*) FROM ({rows} {other} EXCEPT ALL {rows} {one}) b)"
    )[0][0]


def leftovers(project: Project) -> list[Any]:
    return project.in_warehouse("SELECT relname FROM pg_class WHERE relname LIKE '\\_loadsheet%'")
