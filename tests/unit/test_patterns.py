"""Patterns in the place of a table's name: what they match, and what a plan makes of them, without
any server."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.names import covers, escape_wildcards, is_pattern, matches, slug, unescape_wildcards
from loadsheet.plan.steps import build_plan
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import check_file, load_pipeline

SPEC = """\
version: 1
source: {conn_id: shop}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tasks: {retries: 1}
tables:
  orders: {incremental: at}
  "log_*": {retries: 5}
  "*": {exclude: [tmp_*]}
transforms:
  sums:
  report:
external: [public.elsewhere]
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "sums.sql").write_text(
        "SELECT 1 FROM staging.orders, staging.lines, staging.log_web"
    )
    (tmp_path / "sql" / "report.sql").write_text("SELECT 1 FROM sums, elsewhere")
    (tmp_path / "pipeline.yml").write_text(SPEC)
    return load_pipeline(tmp_path / "pipeline.yml")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "any thing", True),
        ("log_*", "log_", True),
        ("log_*", "catalog_x", False),
        ("?", "a", True),
        ("?", "ab", False),
        ("a[b]*", "a[b]c", True),
        ("a[b]*", "ab", False),
        ("*.x", "axx", False),
        ("Log*", "log", False),
        ("*", "line\nbreak", True),
        ("a[*]b*", "a*bc", True),
        ("a[*]b*", "axbc", False),
        ("a[?]", "a?", True),
        ("a[?]", "ab", False),
        ("[a]*", "a", False),
    ],
)
def test_a_pattern_knows_two_signs_and_takes_all_others_as_they_are(
    pattern: str, name: str, expected: bool
) -> None:
    assert matches(pattern, name) == expected


@pytest.mark.parametrize("table", ["odd*name", "what?", "x[*]", "[?]*", "a[b]", "plain"])
def test_a_name_with_the_signs_of_a_pattern_can_be_spelled_and_means_that_table_alone(
    table: str,
) -> None:
    assert (
        not is_pattern(escape_wildcards(table))
        and unescape_wildcards(escape_wildcards(table)) == table
    )
    assert matches(escape_wildcards(table), table) and not matches(
        escape_wildcards(table), table.replace("*", "x").replace("?", "x") + "x"
    )


@pytest.mark.parametrize(
    ("pattern", "other", "expected"),
    [
        ("*", "log_*", True),
        ("log_*", "*", False),
        ("log_*", "log_web_*", True),
        ("log_?", "log_a", True),
        ("log_?", "log_*", False),
        ("log_*", "log_?", True),
        ("*_2024", "log_*", False),
        ("log_?", "log_?", True),
        ("odd*", "odd[*]", True),
        ("odd[*]", "odd*", False),
        ("?*", "*", False),
    ],
)
def test_whether_one_pattern_takes_all_that_another_does(
    pattern: str, other: str, expected: bool
) -> None:
    assert covers(pattern, other) == expected


def test_a_table_with_a_star_in_its_name_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yml").write_text(
        SPEC.split("transforms:")[0] + '  "odd[*]name": {primary_key: id}\n'
    )
    made = load_pipeline(tmp_path / "pipeline.yml")
    assert made.table("odd*name").primary_key == ("id",) and not made.table("odd*name").matched
    steps = {step.id: step for step in build_plan(made)}
    assert steps[f"extract.extract_{slug('odd*name')}"].name == "odd*name"
    assert made.table("oddxname").matched


def test_sql_beside_a_spec_with_errors_may_read_what_a_pattern_matches(tmp_path: Path) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "sums.sql").write_text(
        "SELECT 1 AS x FROM staging.orders, staging.lines, staging.log_web"
    )
    spec = SPEC.replace("{retries: 1}", "{retries: many}").replace("  report:\n", "")
    (tmp_path / "pipeline.yml").write_text(spec)
    problems = check_file(tmp_path / "pipeline.yml")[1]
    assert [problem.path for problem in problems] == ["tasks.retries"]


def test_the_entry_of_its_own_wins_then_the_first_pattern(pipeline: Pipeline) -> None:
    found = {name: pipeline.pattern_of(name) for name in ("orders", "log_web", "lines", "tmp_1")}
    assert {name: pattern and pattern.name for name, pattern in found.items()} == {
        "orders": None,
        "log_web": "log_*",
        "lines": "*",
        "tmp_1": None,
    }
    assert pipeline.table("log_web").tasks.retries == 5 and pipeline.table("log_web").matched
    assert pipeline.table("lines").tasks.retries == 1 and not pipeline.table("orders").matched
    with pytest.raises(KeyError):
        pipeline.table("tmp_1")


def test_a_transform_waits_for_the_whole_of_each_pattern_it_reads(pipeline: Pipeline) -> None:
    steps = {step.id: step for step in build_plan(pipeline)}
    every, logs = slug("*"), slug("log_*")
    assert steps["transform.transform_sums"].upstream == (
        "load.load_orders",
        f"extract.extract_{every}",
        f"load.load_{every}",
        f"extract.extract_{logs}",
        f"load.load_{logs}",
    )
    assert steps[f"extract.extract_{every}"].upstream == ("create_bucket", f"resolve_{every}")
    assert [step.name for step in steps.values() if step.mapped] == ["log_*", "*"] * 2


def test_what_is_read_without_a_schema_is_a_transform_and_no_match(pipeline: Pipeline) -> None:
    assert transform_inputs(pipeline)["report"].transforms == ("sums",)
    assert transform_inputs(pipeline)["report"].tables == ()


def test_what_a_pattern_would_match_is_to_be_read_with_its_schema(pipeline: Pipeline) -> None:
    (pipeline.transforms[1].file).write_text("SELECT 1 AS x FROM lines")
    (problem,) = check_file(pipeline.file)[1]
    assert problem.hint == "write staging.lines if it is a table of the pattern '*'"


def test_a_run_puts_the_tables_it_found_in_the_place_of_patterns(pipeline: Pipeline) -> None:
    found = pipeline.with_matched(["log_web", "lines"])
    assert [table.name for table in found.tables] == [
        "orders",
        "log_web",
        "lines",
    ] and not found.patterns
    assert not [step for step in build_plan(found) if step.mapped or step.kind == "resolve"]
