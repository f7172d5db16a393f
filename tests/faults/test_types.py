"""Hard values: each arrives letter by letter in every format, under any session's settings, in
every mode."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import psycopg
import pytest

from loadsheet.sql.text import Relation, ident
from tests.faults.fidelity import look, silent
from tests.faults.hard_values import HARD, TYPES, Hard
from tests.faults.hostile import PROFILES, TRAP, hostile
from tests.faults.oracle import Verdict, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

FORMATS = ("auto", "csv", "binary")
MODES: dict[str, dict[str, Any] | None] = {
    "replace": None,
    # A lookback of a day reads every row again: what has not changed must not be touched.
    "merge": {"incremental": {"cursor": "at", "lookback": "1d"}},
    "append": {"mode": "append", "incremental": "at"},
}
# Without libxml a server takes no xml; told that any text is xml already, it holds what others
# would send.
XML = """
SET allow_system_table_mods = on;
UPDATE pg_cast SET castfunc = 0, castmethod = 'b'
WHERE castsource = 'text'::regtype AND casttarget = 'xml'::regtype;
"""
TABLES = {"exact": [h for h in HARD if h.exact], "textual": [h for h in HARD if not h.exact]}


CASES = scaled(
    [("csv", "german", 18), ("auto", "traps", 16), ("binary", "postgres", 16)],
    list(product(FORMATS, PROFILES, (16, 18))),
)


@pytest.mark.timeout(scaled(300, 1200))
@pytest.mark.parametrize(("wire", "profile", "version"), CASES)
def test_every_hard_value_arrives_letter_by_letter(
    project: Project,
    request: pytest.FixtureRequest,
    tally: Callable[[str], Tally],
    wire: str,
    profile: str,
    version: int,
) -> None:
    if version != 16:
        project.source = request.getfixturevalue("newer").create_database(f"hard_{wire}_{profile}")
    _fill(project)
    project.spec(
        {f"{table}_{mode}": deepcopy(MODES[mode]) for table in TABLES for mode in MODES},
        lake={"format": wire},
    )
    problems: list[str] = []
    for change in ("", "nothing", "values"):
        if change == "values":
            _change(project)
        with hostile(profile, project.source, project.warehouse):
            states = project.run()
            verdicts = project.verify()
        failed = {
            name: str(r.result) for name, r in states.items() if isinstance(r.result, Exception)
        }
        assert not failed, failed
        found = _touched(project) if change == "nothing" else _silent(project)
        for verdict in verdicts.values():
            # A regclass shows another name when its table is renamed, and no row is written.
            left_out = [
                why
                for why in verdict.left_out
                if verdict.mode != "replace" or "shows names" not in why
            ]
            if verdict.state != "equal" or left_out:
                found.append(f"verify: {verdict}")
        problems += [f"{change or 'first run'}: {problem}" for problem in found]
    _check_formats(project, wire)
    tally("hard values, carried").add(
        Verdict(rows=0, lost=len(problems)), tried=len(HARD) * len(MODES)
    )
    assert not problems, "\n".join(problems)
    assert violations(project) == []


@pytest.mark.timeout(scaled(300, 1200))
@pytest.mark.parametrize("common", ["record", "md5"])
def test_a_hard_value_is_told_from_the_one_near_it(
    project: Project, monkeypatch: pytest.MonkeyPatch, common: str
) -> None:
    """Row 3 has the near values: put in the place of those of row 1, each is a difference."""
    monkeypatch.setattr("loadsheet.comparison.pairs.shared_hash", lambda *servers: common)
    _fill(project)
    project.spec({f"{table}_merge": deepcopy(MODES["merge"]) for table in TABLES})
    project.succeed()
    for table, values in TABLES.items():
        # percent is numeric(5, 2): 12.5 becomes 12.50.
        names = [hard.name for hard in values if hard.name != "domain"]
        columns = ", ".join(map(ident, names))
        project.in_warehouse(
            f"UPDATE staging.{table}_merge SET ({columns}) = (SELECT {columns}"
            f" FROM staging.{table}_merge WHERE id = 3) WHERE id = 1"
        )
        verdict = project.verify(f"{table}_merge")[f"{table}_merge"]
        assert verdict.counts == {"missing": 0, "extra": 0, "different": 1}
        [row] = verdict.named["different"]
        found = {change.column for change in row.changes}
        assert found == set(names), set(names) - found


@pytest.mark.timeout(scaled(300, 1200))
@pytest.mark.parametrize("profile", scaled(["german"], list(PROFILES)))
def test_without_pinned_settings_values_change_silently(
    project: Project, tally: Callable[[str], Tally], profile: str
) -> None:
    """The control: column by column through csv, as the sessions come, and once more through
    Python's csv module."""
    _fill(project)
    for way in ("COPY", "csv module"):
        changed = [
            name
            for table in TABLES
            for name in _naive(project, table, profile, through_python=way != "COPY")
        ]
        tally("hard values, carried").control(
            f"{profile}, {way}: {len(changed)} of {len(HARD)} changed silently"
        )
        assert len(changed) >= 15


def _naive(project: Project, table: str, profile: str, through_python: bool) -> list[str]:
    """The columns that the servers let pass, and that are not what they were."""
    truth, passed = Relation("public", f"{table}_replace"), {}
    with (
        hostile(profile, project.source),
        psycopg.connect(project.source, client_encoding="UTF8") as source,
        psycopg.connect(project.warehouse, autocommit=True) as warehouse,
    ):
        for number, hard in enumerate(TABLES[table]):
            query = f"SELECT id, {ident(hard.name)} FROM {truth.sql}"
            with source.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv)") as out:
                data = b"".join(out)
            warehouse.execute(
                f"CREATE TEMPORARY TABLE n{number} (id int, v {hard.lands or hard.type})"
            )
            try:
                with warehouse.cursor().copy(f"COPY n{number} FROM STDIN (FORMAT csv)") as into:
                    into.write(_read_and_written(data) if through_python else data)
                passed[hard.name] = (
                    f"(SELECT v FROM n{number} n WHERE n.id = s.id) AS {ident(hard.name)}"
                )
            except psycopg.DataError:
                continue
        columns = ", ".join(passed.values())
        warehouse.execute(
            f"DROP TABLE IF EXISTS naive; CREATE TABLE naive AS SELECT id, {columns} FROM"
            " generate_series(1, 4) s (id)"
        )
    shown = {hard.name: hard.shown for hard in TABLES[table]}
    found = look(project.warehouse, Relation("public", "naive"), list(passed))
    problems = silent(look(project.source, truth, list(passed), shown=shown), found)
    return [name for name in passed if any(f", {name}: " in problem for problem in problems)]


def _read_and_written(data: bytes) -> bytes:
    csv.field_size_limit(1 << 30)
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows(csv.reader(io.StringIO(data.decode(), newline="")))
    return rows.getvalue().encode()


def _fill(project: Project) -> None:
    project.in_source(XML)
    project.in_source(TYPES)
    project.in_source(TRAP)
    project.in_warehouse(TRAP)
    for table, values in TABLES.items():
        columns = ", ".join(f"{ident(h.name)} {h.type}" for h in values)
        first = f"{table}_replace"
        project.in_source(
            f"CREATE TABLE {first} (id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT"
            f" clock_timestamp(), {columns})"
        )
        for number, pick in enumerate((_value, _nothing, _near, _value), 1):
            project.in_source(
                f"INSERT INTO {first} VALUES ({number}, DEFAULT, {', '.join(map(pick, values))})"
            )
        for mode in ("merge", "append"):
            project.in_source(
                f"CREATE TABLE {table}_{mode} AS TABLE {first}; ALTER TABLE {table}_{mode} ADD"
                " PRIMARY KEY (id)"
            )


def _value(hard: Hard) -> str:
    return hard.value


def _near(hard: Hard) -> str:
    return hard.near


def _nothing(hard: Hard) -> str:
    return "NULL" if hard.nullable else hard.near


def _change(project: Project) -> None:
    """Each value comes, goes, and takes the place of one that looks like it; what is appended to
    only gets new rows."""
    for table, values in TABLES.items():
        for mode in MODES:
            for number, pick in {1: _near, 2: _value, 3: _value, 4: _nothing}.items():
                if mode != "append":
                    new = ", ".join(f"{ident(h.name)} = {pick(h)}" for h in values)
                    project.in_source(
                        f"UPDATE {table}_{mode} SET at = clock_timestamp(), {new} WHERE id ="
                        f" {number}"
                    )
            for number, pick in {5: _value, 6: _near}.items():
                project.in_source(
                    f"INSERT INTO {table}_{mode} VALUES ({number}, clock_timestamp(),"
                    f" {', '.join(map(pick, values))})"
                )


def _silent(project: Project) -> list[str]:
    problems = []
    for (table, values), mode in product(TABLES.items(), MODES):
        name, columns = f"{table}_{mode}", ["id", "at", *(h.name for h in values)]
        same = [h.name for h in values if not h.lands]
        truth = look(
            project.source,
            Relation("public", name),
            columns,
            same,
            {h.name: h.shown for h in values},
        )
        found = look(project.warehouse, Relation("staging", name), columns, same, {})
        problems += [f"{mode}: {problem}" for problem in silent(truth, found)]
        problems += [
            f"{mode}: {h.name} arrived as {found.types[h.name]}, not"
            f" {h.lands or truth.types[h.name]}"
            for h in values
            if found.types[h.name] != (h.lands or truth.types[h.name])
        ]
    return problems


def _touched(project: Project) -> list[str]:
    """Loads after which nothing should have been written, and was."""
    return [
        f"{table} was written though nothing had changed: {counts}"
        for table, *counts in project.in_warehouse(
            "SELECT table_name, inserted, updated, deleted FROM loadsheet.load l WHERE inserted +"
            " updated + deleted > 0 AND EXISTS (SELECT FROM loadsheet.load f WHERE f.table_name ="
            " l.table_name AND f.load_no < l.load_no)"
        )
    ]


def _check_formats(project: Project, wire: str) -> None:
    used = set(
        project.in_warehouse("SELECT split_part(table_name, '_', 1), format FROM loadsheet.load")
    )
    auto = {("exact", "binary"), ("textual", "csv")}
    assert used == (auto if wire == "auto" else {(table, wire) for table in TABLES})
