"""What the tests of transforms share: a pipeline of them, what one reads, and its problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Inputs,
    Lake,
    Materialized,
    Pipeline,
    Source,
    Table,
    Transform,
    Warehouse,
)

TABLES = ("bookings", "flights", "Seat Map", "airports_data")


def pipeline(
    sqls: dict[str, str], materialized: Materialized = "table", tables: tuple[str, ...] = TABLES
) -> Pipeline:
    return Pipeline(
        name="p",
        file=Path("pipeline.yml"),
        source=Source(conn_id="s"),
        lake=Lake(conn_id="l", bucket="b"),
        warehouse=Warehouse(conn_id="w"),
        tables=tuple(Table(name=name) for name in tables),
        transforms=tuple(
            Transform(name=name, sql=sql, file=Path(f"sql/{name}.sql"), materialized=materialized)
            for name, sql in sqls.items()
        ),
    )


def inputs(sql: str, materialized: Materialized = "table") -> Inputs:
    """What a transform `me` reads, beside two other transforms."""
    sqls = {"other": "SELECT 1", "dim_airport": "SELECT 1", "me": sql}
    made = pipeline(sqls, materialized)
    others = [
        t if t.name == "me" else Transform(name=t.name, sql=t.sql, file=t.file)
        for t in made.transforms
    ]
    return transform_inputs(Pipeline(**{**vars(made), "transforms": tuple(others)}))["me"]


def problems(sql: str, materialized: Materialized = "table", **more: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        transform_inputs(replace(pipeline({"me": sql}, materialized), **more))
    return [str(problem) for problem in caught.value.problems]
