"""The order of transforms, which follows from what they read."""

from __future__ import annotations

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.dependencies import transform_inputs
from loadsheet.spec.models import (
    Inputs,
)
from tests.unit.transforms import pipeline


def test_a_transform_may_share_its_name_with_a_table() -> None:
    found = transform_inputs(
        pipeline({"bookings": "SELECT * FROM bookings", "b": "SELECT * FROM mart.bookings"})
    )
    assert found == {"bookings": Inputs(("bookings",), ()), "b": Inputs((), ("bookings",))}


def test_order_follows_the_reads_and_else_the_spec() -> None:
    sqls = {"d": "SELECT * FROM a", "c": "SELECT 1", "b": "SELECT * FROM c", "a": "SELECT 1"}
    assert list(transform_inputs(pipeline(sqls))) == ["c", "a", "d", "b"]


def test_a_circle_is_named_where_it_starts() -> None:
    sqls = {
        "a": "SELECT *\nFROM mart.b",
        "b": "SELECT * FROM c",
        "c": "SELECT * FROM mart.a",
        "d": "SELECT 1",
    }
    with pytest.raises(SpecError) as caught:
        transform_inputs(pipeline(sqls))
    (problem,) = caught.value.problems
    assert "circle" in problem.message
    assert problem.message.split(": ")[1] in (
        "a -> b -> c -> a",
        "b -> c -> a -> b",
        "c -> a -> b -> c",
    )
    assert (problem.file, problem.line, problem.column) in (
        ("sql/a.sql", 2, 11),
        ("sql/b.sql", 1, 15),
        ("sql/c.sql", 1, 20),
    )


def test_problems_of_all_files_come_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        transform_inputs(
            pipeline({"a": "SELECT (", "b": "SELECT :x", "c": "SELECT * FROM staging.x; SELECT 2"})
        )
    assert [problem.path for problem in caught.value.problems] == [
        "transforms.a",
        "transforms.b",
        *["transforms.c"] * 2,
    ]
