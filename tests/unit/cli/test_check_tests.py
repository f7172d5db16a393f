"""`loadsheet check` reads the tests of transforms beside a pipeline file, and runs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Cli

GIVEN = "given: {staging.orders: [{id: 1}], staging.customers: [{id: 1}]}"
GOOD = f"tests:\n  all: {{{GIVEN}, expect: {{mart.report: []}}}}\n"


@pytest.fixture
def tests(project: Path) -> Path:
    """The folder of the pipeline's tests, with one that is right."""
    folder = project / "pipelines/shop/tests"
    folder.mkdir()
    (folder / "good.yml").write_text(GOOD)
    return folder


def test_tests_that_are_right_change_nothing(cli: Cli, tests: Path) -> None:
    assert cli("check").out == "1 file checked: no problems\n"


def test_all_problems_of_tests_come_with_those_of_the_pipeline(
    cli: Cli, project: Path, tests: Path
) -> None:
    (tests / "a.yml").write_text(
        GOOD.replace("mart.report", "mart.reprot").replace("given:", "givn:")
    )
    (tests / "b.yml").write_text("tests: [1\n")
    (project / "connections/connections.yml").write_text("source: {host: h}\nlake: {host: h}\n")
    result = cli("check")
    assert result.code == 2
    assert "pipelines/shop/pipeline.yml:5:22 warehouse.conn_id" in result.out
    assert "pipelines/shop/tests/a.yml:2:9 tests.all.givn: unknown key 'givn'" in result.out
    assert "  hint: did you mean 'mart.report'?" in result.out
    assert "  see: docs/rules.md#test-file, docs/testing.md" in result.out
    assert "pipelines/shop/tests/b.yml:" in result.out
    codes = {problem["code"] for problem in cli("check", "--format", "json").json["problems"]}
    assert codes == {"unknown-connection", "test-file", "yaml-syntax"}
    assert "test-file" in cli("check", "--format", "sarif").out


def test_a_table_of_which_a_test_says_nothing_is_told(cli: Cli, tests: Path) -> None:
    (tests / "good.yml").write_text(GOOD.replace(", staging.customers: [{id: 1}]", ""))
    told = (
        "pipelines/shop/tests/good.yml:2:3 tests.all: report reads staging.customers, which this"
        " test does not have"
    )
    assert told in cli("check").out
    (tests / "types.yml").write_text("tables: {staging.customers: {columns: {id: int}}}\n")
    assert cli("check").out == "1 file checked: no problems\n"


def test_tests_beside_several_pipelines_are_told_at_once(
    cli: Cli, project: Path, tests: Path
) -> None:
    other = project / "pipelines/zoo"
    (other / "tests").mkdir(parents=True)
    spec = (project / "pipelines/shop/pipeline.yml").read_text()
    (other / "pipeline.yml").write_text(
        spec.partition("transforms:")[0].replace("pipeline: shop\n", "")
    )
    (other / "tests/a.yml").write_text("test: {}\n")
    (tests / "good.yml").write_text("test: {}\n")
    result = cli("test")
    assert result.code == 2
    assert [
        line.partition(" ")[0] for line in result.err.splitlines() if "unknown key" in line
    ] == ["pipelines/shop/tests/good.yml:1:1", "pipelines/zoo/tests/a.yml:1:1"]
