"""What `loadsheet lineage` understands by a name, before it asks any server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

AWAY = "warehouse"  # the answer of a server that is not there names the connection


def test_a_name_that_several_pipelines_have_needs_the_pipeline(project: Path, cli: Cli) -> None:
    write_pipeline(project, "store", SPEC.replace("pipeline: shop", "pipeline: store"))
    result = cli("lineage", "mart.sales.id")
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "error: 'mart.sales.id' is in several pipelines (shop, store): name one, as in loadsheet"
        " lineage shop mart.sales.id\n"
    )
    assert cli("lineage", "store", "mart.sales.id").code == 1  # it asks the server


def test_a_broken_pipeline_does_not_hide_the_others(project: Path, cli: Cli) -> None:
    write_pipeline(project, "broken", SPEC.replace("tables:", "tabels:"), {})
    result = cli("lineage", "mart.sales.id")
    assert result.code == 1
    assert AWAY in result.err
    (project / "pipelines" / "shop" / "pipeline.yml").unlink()
    alone = cli("lineage", "mart.sales.id")
    assert alone.code == 2
    assert "unknown key 'tabels'" in alone.err


@pytest.mark.parametrize(
    ("name", "code"),
    {
        "shop": 1,
        "mart.sales": 1,
        "sales": 1,
        "staging.orders.updated_at": 1,
        "public.orders": 1,
        "orders": 1,
        "odd [red]name": 1,
        "mart.orders": 2,
        "staging.sales": 2,
        "other.sales": 2,
        "": 2,
        ".": 2,
    }.items(),
)
def test_a_mart_or_table_is_found_with_or_without_its_schema(
    project: Path, cli: Cli, name: str, code: int
) -> None:
    assert cli("lineage", name).code == code


def test_a_table_of_a_pattern_is_found_by_its_schema(project: Path, cli: Cli) -> None:
    spec = SPEC.replace(
        "transforms:\n  sales: {materialized: merge, unique_key: id}\n  report:\n", ""
    )
    write_pipeline(
        project,
        "logs",
        spec.replace("pipeline: shop", "pipeline: logs").replace("orders", '"log_*"'),
        {},
    )
    assert cli("lineage", "staging.log_june.word").code == 1
    assert cli("lineage", "log_june").code == 1
    assert cli("lineage", "staging.lag_june").code == 2
