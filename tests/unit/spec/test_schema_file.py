"""schemas/pipeline.schema.json is a public contract: documented, closed, and equal to what the code
does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from loadsheet.spec.models import (
    Deletes,
    FreshWithin,
    Incremental,
    Lake,
    Pipeline,
    Source,
    Table,
    Tasks,
    Transform,
    Warehouse,
)
from loadsheet.spec.routes import CONNECTION_KEYS, EVENTS, Route
from loadsheet.spec.schedule import duration
from loadsheet.spec.schema import pipeline_schema

ROOT = pipeline_schema()
DEFS = ROOT["$defs"]


def _resolved(node: dict[str, Any]) -> dict[str, Any]:
    return {**DEFS.get(node.get("$ref", "").rpartition("/")[2], {}), **node}


def _objects(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping of the format that has keys of its own."""
    if "properties" in node:
        yield path or "top", node
    for name, child in node.get("properties", {}).items():
        # The keys of `defaults` are those of a table.
        yield from _objects(child if name == "defaults" else _resolved(child), f"{path}.{name}")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _objects(_resolved(node["additionalProperties"]), f"{path}.*")


OBJECTS = dict(_objects(ROOT))
PROPERTIES = {
    f"{path}.{name}": child
    for path, node in OBJECTS.items()
    for name, child in node["properties"].items()
}


def test_the_schema_is_valid_draft_2020_12() -> None:
    Draft202012Validator.check_schema(ROOT)


def test_all_parts_of_the_format_are_walked() -> None:
    assert {".tables.*", ".transforms.*", ".tables.*.incremental", ".source", ".notify"} <= set(
        OBJECTS
    )


@pytest.mark.parametrize("path", OBJECTS)
def test_every_mapping_is_closed(path: str) -> None:
    assert OBJECTS[path]["additionalProperties"] is False


@pytest.mark.parametrize("path", PROPERTIES)
def test_every_key_is_described_with_an_example_that_is_valid(path: str) -> None:
    node = PROPERTIES[path]
    assert len(node["description"]) > 10
    assert _resolved(node)["title"]
    for example in node["examples"]:
        Draft202012Validator({**node, "$defs": DEFS}).validate(example)


@pytest.mark.parametrize("path", [path for path, node in PROPERTIES.items() if "default" in node])
def test_every_default_is_valid(path: str) -> None:
    node = PROPERTIES[path]
    value = node["default"]
    if value != []:  # no list at all is the default; an empty list in a file is a mistake
        Draft202012Validator({**node, "$defs": DEFS}).validate(value)


DEFAULTS = {
    "top.description": (Pipeline, "description"),
    "top.schedule": (Pipeline, "schedule"),
    ".schedule.times": (Pipeline, "schedule"),
    "top.catchup": (Pipeline, "catchup"),
    "top.verify": (Pipeline, "verify"),
    "top.owner": (Pipeline, "owner"),
    "top.tags": (Pipeline, "tags"),
    ".source.schema": (Source, "schema"),
    ".lake.format": (Lake, "format"),
    ".warehouse.schema": (Warehouse, "schema"),
    ".warehouse.mart_schema": (Warehouse, "mart_schema"),
    ".notify.events": (Route, "events"),
    ".notify.digest_at": (Route, "digest_at"),
    ".tasks.pool": (Tasks, "pool"),
    ".tasks.retries": (Tasks, "retries"),
    ".tasks.retry_delay": (Tasks, "retry_delay"),
    ".tasks.timeout": (Tasks, "timeout"),
    ".tasks.max_active_tasks": (Tasks, "max_active_tasks"),
    ".tasks.granularity": (Tasks, "granularity"),
    ".tables.*.incremental.by": (Incremental, "by"),
    ".tables.*.incremental.initial_value": (Incremental, "initial_value"),
    ".tables.*.incremental.time_zone": (Incremental, "time_zone"),
    ".tables.*.incremental.lookback": (Incremental, "lookback"),
    ".tables.*.incremental.nulls": (Incremental, "nulls"),
    ".tables.*.incremental.hold_back": (Incremental, "hold_back"),
    ".tables.*.lookback": (Incremental, "lookback"),
    ".tables.*.mode": (Table, "mode"),
    ".tables.*.columns.include": (Table, "include"),
    ".tables.*.columns.exclude": (Table, "exclude"),
    ".tables.*.schema_contract.columns": (Table, "schema_contract"),
    ".tables.*.fill": (Table, "fill"),
    ".tables.*.max_shrink": (Table, "max_shrink"),
    ".tables.*.deletes": (Table, "deletes"),
    ".tables.*.overlap": (Table, "overlap"),
    ".tables.*.extract_tasks": (Table, "extract_tasks"),
    ".tables.*.fresh_within": (Table, "fresh_within"),
    ".tables.*.fresh_within.warn": (FreshWithin, "warn"),
    ".tables.*.fresh_within.fail": (FreshWithin, "fail"),
    ".tables.*.fresh_within.verified": (FreshWithin, "verified"),
    ".transforms.*.fresh_within": (Transform, "fresh_within"),
    ".transforms.*.fresh_within.warn": (FreshWithin, "warn"),
    ".transforms.*.fresh_within.fail": (FreshWithin, "fail"),
    ".transforms.*.fresh_within.verified": (FreshWithin, "verified"),
    ".tables.*.deletes.every": (Deletes, "every"),
    ".tables.*.deletes.max_delete": (Deletes, "max_delete"),
    "top.transforms": (Pipeline, "transforms"),
    "top.external": (Pipeline, "external"),
    ".transforms.*.materialized": None,
}


def test_a_route_has_the_keys_of_the_schema() -> None:
    route = DEFS["route"]["properties"]
    assert set(route) == {field.name for field in fields(Route)}
    assert [key for key in route if key.endswith("_conn_id")] == list(CONNECTION_KEYS)
    assert route["events"]["items"]["enum"] == list(EVENTS)


def test_every_default_of_the_schema_is_compared_with_the_models() -> None:
    assert {path for path, node in PROPERTIES.items() if "default" in node} == set(DEFAULTS)


@pytest.mark.parametrize(
    ("path", "place"), [(path, place) for path, place in DEFAULTS.items() if place]
)
def test_the_models_have_the_schemas_defaults(path: str, place: tuple[type, str]) -> None:
    model, name = place
    found = next(field.default for field in fields(model) if field.name == name)
    assert found is not MISSING
    value = PROPERTIES[path]["default"]
    expected = (
        duration(value)
        if isinstance(found, timedelta)
        else tuple(value)
        if isinstance(found, tuple)
        else value
    )
    assert found == expected
