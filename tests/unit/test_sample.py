"""A pipeline moved out of production's way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadsheet.engine.sample import sampled
from loadsheet.errors import InputError
from loadsheet.spec.models import Lake, Pipeline, Source, Table, Transform, Warehouse

SHOP = Pipeline(
    name="shop",
    file=Path("shop/pipeline.yml"),
    source=Source(conn_id="one"),
    lake=Lake(conn_id="l", bucket="b"),
    warehouse=Warehouse(conn_id="two"),
    tables=(Table(name="orders", max_shrink=0.1),),
    transforms=(
        Transform(name="sales", sql="SELECT * FROM staging.orders", file=Path("sales.sql")),
        Transform(
            name="all", sql="DELETE FROM mart.sales", file=Path("all.sql"), materialized="script"
        ),
    ),
)


def test_everything_that_is_written_to_is_another() -> None:
    moved = sampled(SHOP)
    assert moved.name == "shop~sample" and moved.lake.prefix == "_sample"
    assert (moved.warehouse.schema, moved.warehouse.mart_schema) == (
        "staging_sample",
        "mart_sample",
    )
    assert [transform.sql for transform in moved.transforms] == [
        'SELECT * FROM "staging_sample".orders'
    ]


def test_a_name_that_the_server_would_cut_to_productions_own_is_refused() -> None:
    long = replace(SHOP, warehouse=Warehouse(conn_id="two", schema="s" * 60))
    with pytest.raises(InputError, match="longer than 63 bytes"):
        sampled(long)


def test_the_sources_own_schema_is_refused() -> None:
    with pytest.raises(InputError, match="is the one that the pipeline reads from"):
        sampled(replace(SHOP, source=Source(conn_id="two", schema="mart_sample")))
