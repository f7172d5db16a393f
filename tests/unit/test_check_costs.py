"""No file of one author keeps those of the others from being checked: the work of a check grows
with the size of the file and not with its square, and past a limit the file is refused with a
position.

Work is counted in steps of Python (calls and lines), which no busy machine disturbs; a regular
expression or the C parser is one step, so their CPU time is measured besides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from loadsheet.names import closest, covers, matches
from loadsheet.problem import Problem
from loadsheet.project.conflicts import duplicates
from loadsheet.project.folder import find_pipeline
from loadsheet.spec import budget, pipeline_file, sql_reading
from loadsheet.spec.models import Lake, Pattern, Pipeline, Source, Table, Warehouse
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.rules.sizes import MOST_ENTRIES
from loadsheet.spec.yaml_text import MAX_NODES
from loadsheet.sql.tokens import MAX_TOKENS, tokenize

HEAD = """\
version: 1
source: {conn_id: s}
lake: {conn_id: l, bucket: lake}
warehouse: {conn_id: w}
"""
Make = Callable[[int], str]
# Twice the size may take this much more work, with what is the same for every size.
MOST_RATIO = 2.6


@pytest.fixture(autouse=True)
def _uncached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADSHEET_CACHE", "")


def repeated(text: str, count: int, between: str = ", ") -> str:
    """`text` that often, with its number in place of {i}."""
    return between.join(text.replace("{i}", str(i)) for i in range(count))


SQL: dict[str, Make] = {
    "signs": lambda n: "SELECT " + "a ? " * n + "a FROM t",
    "unknown columns": lambda n: "SELECT " + "t.zz ? " * n + "1 FROM t",
    "columns": lambda n: f"SELECT {repeated('t.z{i} AS q{i}', n)} FROM t",
    "doubled columns": lambda n: f"SELECT {repeated('t.a', n)} FROM t",
    "unions": lambda n: "SELECT a FROM t" + " UNION SELECT a FROM t" * n,
    "common tables": lambda n: (
        f"WITH c AS (SELECT 1), {repeated('c{i} AS (SELECT a FROM t)', n)} SELECT 1 FROM c"
    ),
    "laterals": lambda n: f"SELECT 1 FROM t, {repeated('LATERAL (SELECT t.a) x{i}', n)}",
    "joins": lambda n: "SELECT t.a FROM t" + repeated(" JOIN t x{i} ON x{i}.a = t.a", n, ""),
    "parentheses": lambda n: "SELECT " + "(" * (n // 8) + "a" + ")" * (n // 8) + " FROM t",
    "cases": lambda n: "SELECT CASE " + "WHEN a THEN a " * n + "END FROM t",
    "lists": lambda n: f"SELECT a FROM t WHERE a IN ({repeated('a', n)})",
    "subqueries": lambda n: f"SELECT a FROM {'(SELECT a FROM ' * (n // 8)}t{') x' * (n // 8)}",
    "scalar subqueries": lambda n: f"SELECT {repeated('(SELECT a FROM t x{i})', n)} FROM t",
    "unknown tables": lambda n: f"SELECT 1 FROM {repeated('unknown_{i}', n)}",
    "unknown parameters": lambda n: f"SELECT {repeated(':p{i}', n)}",
    "order": lambda n: f"SELECT a + 1 FROM t ORDER BY {repeated('a', n)}",
    "values": lambda n: f"VALUES {repeated('(1, null)', n)}",
    "a mistake at the end": lambda n: "SELECT a FROM t WHERE " + "a = 1 AND " * n + " FROM",
}

YAML: dict[str, Make] = {
    "tables": lambda n: f"{HEAD}tables:\n{repeated('  t{i}:', n, chr(10))}\n",
    "unknown keys": lambda n: repeated("k{i}: 1", n, "\n"),
    "doubled keys": lambda n: f"{HEAD}tables:\n" + "  t:\n" * n,
    "a list": lambda n: f"[{repeated('a', n)}]",
    "a list of lists": lambda n: f"[{repeated('[]', n)}]",
    "doubled items": lambda n: f"{HEAD}tags: [{repeated('t', n)}]\ntables: {{t: }}\n",
    "a key that is not included": lambda n: (
        f"{HEAD}tables: {{t: {{primary_key: [{repeated('a{i}', n)}],"
        f" columns: {{include: [{repeated('b{i}', n)}]}}}}}}\n"
    ),
    "aliases": lambda n: f"a: &a 1\nb: [{repeated('*a', n)}]\n",
    "anchors": lambda n: f"b: [{repeated('&a{i} x', n)}]\n",
    "tags": lambda n: f"b: [{repeated('!!str x', n)}]\n",
    "ambiguous values": lambda n: f"a: [{repeated('no', n)}]\n",
    "transforms without files": lambda n: (
        f"{HEAD}tables: {{t: }}\ntransforms:\n{repeated('  x{i}:', n, chr(10))}\n"
    ),
    "wrong values": lambda n: f"{HEAD}tables:\n{repeated('  t{i}: {mode: upsrt}', n, chr(10))}\n",
    "never closed": lambda n: f"{HEAD}tables:\n  - {{" + "a: b, " * n,
    "columns of all tables": lambda n: (
        f"{HEAD}defaults: {{columns: {{exclude: [{repeated('c{i}', 300)}]}}}}\n"
        f"tables:\n{repeated('  t{i}:', n, chr(10))}\n"
    ),
}


def written(folder: Path, sql: str) -> Path:
    """A pipeline whose one transform is `sql`."""
    (folder / "sql").mkdir(parents=True, exist_ok=True)
    (folder / "sql" / "x.sql").write_text(sql)
    file = folder / "pipeline.yml"
    file.write_text(
        f"{HEAD}tables: {{t: {{columns: {{include: [a, b]}}}}}}\n"
        "transforms: {x: {materialized: view}}\n"
    )
    return file


def steps(work: Callable[[], object]) -> int:
    """How many calls and lines of Python `work` takes in this thread."""
    count = 0

    def line(_: FrameType, __: str, ___: Any) -> Any:
        nonlocal count
        count += 1
        return line

    before = sys.gettrace()
    sys.settrace(line)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def cost(file: Path) -> int:
    tokenize.cache_clear()
    return steps(lambda: check_file(file))


@pytest.mark.parametrize("make", SQL.values(), ids=SQL)
def test_twice_the_sql_takes_twice_the_work(tmp_path: Path, make: Make) -> None:
    check_file(written(tmp_path, "SELECT a FROM t"))  # what is imported is imported
    small, large = (cost(written(tmp_path, make(n))) for n in (800, 1_600))
    assert large / small < MOST_RATIO


@pytest.mark.parametrize("make", YAML.values(), ids=YAML)
def test_twice_the_yaml_takes_twice_the_work(tmp_path: Path, make: Make) -> None:
    file = tmp_path / "pipeline.yml"
    costs = []
    for n in (2, 400, 800):
        file.write_text(make(n))
        costs.append(cost(file))
    assert costs[2] / costs[1] < MOST_RATIO


def test_quadratic_work_is_seen() -> None:
    """The negative control."""

    def compare(names: list[str]) -> int:
        return sum(1 for one in names for other in names if one == other)

    small, large = (steps(lambda n=n: compare(["a"] * n)) for n in (100, 200))
    assert large / small > 3


def problems_of(file: Path) -> list[Problem]:
    began = time.process_time()
    problems = check_file(file)[1]
    assert time.process_time() - began < 30  # the budget is 10 s, and a busy machine is slow
    return problems


@pytest.mark.parametrize("kind", ["signs", "unknown columns", "unknown tables", "values"])
def test_the_largest_sql_file_is_judged_in_its_budget(tmp_path: Path, kind: str) -> None:
    make = SQL[kind]
    unit = (len(make(2_000)) - len(make(1_000))) / 1_000
    problems = problems_of(written(tmp_path, make(int(250_000 / unit))))
    assert len(problems) <= 201


def test_sql_past_the_budget_of_tokens_is_refused_where_it_is_passed(tmp_path: Path) -> None:
    rows = ",\n".join(["(1)"] * (MAX_TOKENS // 4 + 10))
    (problem,) = problems_of(written(tmp_path, f"VALUES {rows}"))
    assert (problem.line, problem.column) == (25_000, 4)
    assert problem.message == "the file has more than 100,000 words, values and signs"


def test_yaml_past_the_budget_of_values_is_refused_where_it_is_passed(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yml"
    file.write_text(f"{HEAD}tables:\n" + "".join(f"  t{i}:\n" for i in range(MAX_NODES)))
    (problem,) = problems_of(file)
    assert problem.code == "too-much" and problem.line > MAX_NODES // 2 - 100
    assert problem.message == "the file has more than 100,000 keys and values"


def test_a_pipeline_of_5000_tables_with_the_usual_keys_is_accepted(tmp_path: Path) -> None:
    """The limits of keys and of tables fit together: 50,000 keys and values were too few."""
    table = (
        "  t{i}:\n    primary_key: [company_id, id]\n    incremental: {cursor: updated_at}\n"
        "    lookback: 15m\n    columns: {exclude: [photo]}\n    max_shrink: 0.5\n"
    )
    file = tmp_path / "pipeline.yml"
    file.write_text(f"{HEAD}tables:\n{repeated(table, MOST_ENTRIES, '')}")
    assert problems_of(file) == []


def test_thousands_of_transforms_are_not_compared_each_with_each(tmp_path: Path) -> None:
    """Each looked at all tables and transforms for those that it reads."""
    file = tmp_path / "pipeline.yml"
    seconds = []
    for n in (4_000, 16_000):
        file.write_text(YAML["transforms without files"](n))
        began = time.process_time()
        check_file(file)
        seconds.append(time.process_time() - began)
    assert seconds[1] / seconds[0] < 8


def test_patterns_are_compared_once_with_each_table_of_another_pipeline() -> None:
    """For each pattern, each table was compared with all patterns."""
    empty = Pipeline(
        name="tables",
        file=Path("tables/pipeline.yml"),
        source=Source(conn_id="s"),
        lake=Lake(conn_id="l", bucket="lake"),
        warehouse=Warehouse(conn_id="w"),
    )
    named = replace(empty, tables=tuple(Table(name=f"t{i}") for i in range(50)))

    def work(count: int) -> int:
        patterns = tuple(Pattern(name=f"p{i}_*", table=Table(name="*")) for i in range(count))
        matching = replace(empty, name="patterns", patterns=patterns)
        return steps(lambda: duplicates([named], [matching]))

    work(40)  # the patterns are compiled once
    assert work(40) / work(20) < MOST_RATIO


def test_a_check_past_its_time_stops_with_a_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_file(written(tmp_path, "SELECT a FROM t"))[1] == []
    monkeypatch.setattr(budget, "MOST_SECONDS", -1)
    file = written(tmp_path, "SELECT b FROM t")
    (problem,) = check_file(file)[1]
    assert problem.code == "too-much" and problem.file.endswith("x.sql") and problem.line == 1
    assert sql_reading.is_spent() is False  # only within a check


def test_many_problems_of_one_file_are_cut_and_it_is_said(tmp_path: Path) -> None:
    problems = check_file(written(tmp_path, SQL["unknown tables"](500)))[1]
    assert len(problems) == 201
    assert "more than 200 problems; the others are not shown" in {p.message for p in problems}


STARS = {
    "no match": ("*a" * 30 + "*b", "a" * 63),
    "a match": ("*a" * 30 + "*", "a" * 63),
    "one letter each": ("?*" * 30 + "b", "a" * 63),
    "a long name": ("*aa*" * 8 + "b", "a" * 4_000),
}


@pytest.mark.parametrize(("pattern", "name"), STARS.values(), ids=STARS)
def test_a_pattern_of_many_stars_is_matched_in_no_time(pattern: str, name: str) -> None:
    """Eight stars never came to an end."""
    began = time.process_time()
    found = matches(pattern, name)
    covers(pattern, name.replace("a", "*"))
    assert time.process_time() - began < 1
    assert found == (not pattern.endswith("b"))


def test_thousands_of_excluded_names_cost_nothing_for_each_table() -> None:
    """Each was compiled to a regular expression, for each table of each other pipeline."""
    excluded = tuple(f"log_{i}" for i in range(20_000))
    pattern = Pattern(name="*", table=Table(name="*"), exclude=(*excluded, "tmp_*", "odd[*]"))
    assert not pattern.matches("log_7") and pattern.matches("log_x")  # both are built once
    work = steps(lambda: [pattern.matches(f"t{i}") for i in range(200)])
    assert work < 20_000
    assert not pattern.matches("tmp_1") and not pattern.matches("odd*")


def test_patterns_match_as_one_expects() -> None:
    """All patterns of up to 4 signs with all names of up to 5, against the plain definition."""

    def plain(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return any(plain(pattern[1:], name[at:]) for at in range(len(name) + 1))
        return bool(name) and pattern[0] in ("?", name[0]) and plain(pattern[1:], name[1:])

    words = [""]
    for _ in range(5):
        words += [word + letter for word in words for letter in "ab" if word + letter not in words]
    patterns = [""]
    for _ in range(4):
        patterns = list(dict.fromkeys([*patterns, *(p + s for p in patterns for s in "ab*?")]))
    for pattern in patterns:
        for word in words:
            assert matches(pattern, word) == plain(pattern, word), (pattern, word)


def test_a_name_as_long_as_a_file_is_compared_with_none() -> None:
    names = ["ab" * 100_000 + str(i) for i in range(20)]
    began = time.process_time()
    assert closest("ba" * 100_000, names) is None
    assert time.process_time() - began < 1
    assert closest("flihgts", [*names, "flights"]) == "flights"


def test_a_name_among_5000_is_suggested() -> None:
    """Only the first 2,000 were compared."""
    names = [*(f"table_{i}" for i in range(5_000)), "flights"]
    assert closest("flihgts", names) == closest("FLIGHTS", names) == "flights"


def test_a_pipeline_is_found_without_checking_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folder and name differ, each file before it was checked."""
    for folder, name in {"aa_slow": "slow", "folder": "wanted"}.items():
        home = tmp_path / "pipelines" / folder
        home.mkdir(parents=True)
        (home / "pipeline.yml").write_text(f"{HEAD}pipeline: {name}\ntables: {{{name}: }}\n")
    checked = []

    def check(path: Path) -> Any:
        checked.append(path.parent.name)
        return pipeline_file._check(path)

    monkeypatch.setattr(pipeline_file, "cached_check", lambda path, _: check(path))
    file, _ = find_pipeline(tmp_path, "wanted")
    assert file.parent.name == "folder" and checked == ["folder"]
