"""Plan, run, change something, again: in no state of source, warehouse and spec do the two
disagree."""

from __future__ import annotations

import contextlib
import random
from copy import deepcopy
from typing import Any

import psycopg
import pytest

from loadsheet.engine.runner import StepResult
from loadsheet.outcome import Outcome
from tests.core.planned import *  # noqa: F403
from tests.core.planned import plan
from tests.project import Project

ROUNDS = 15
TABLE = (
    "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, x int, at timestamptz NOT NULL"
    " DEFAULT clock_timestamp()); INSERT INTO item SELECT i, 'n' || i, i FROM generate_series(1,"
    " 6) i"
)
SPECS: list[Any] = [
    {"incremental": "at"},
    None,
    {"incremental": "at", "mode": "append"},
    {"mode": "merge"},
    {"incremental": "id"},
    {"incremental": "at", "columns": {"exclude": ["x"]}},
    {"incremental": "at", "lookback": "1h"},
    {"incremental": "at", "schema_contract": {"columns": "freeze"}},
    {"max_shrink": 0.3},
    {"incremental": "at", "primary_key": "name"},
    {"incremental": {"cursor": "at", "nulls": "include"}},
]
MARTS = {
    "merged": (
        "SELECT id, name FROM staging.item WHERE _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
    "whole": "SELECT id, name FROM staging.item",
    "shown": ("SELECT id FROM staging.item", {"materialized": "view"}),
    "of_shown": ("SELECT id FROM mart.shown", {"materialized": "merge", "unique_key": "id"}),
    "of_whole": ("SELECT id FROM mart.whole", {"materialized": "merge", "unique_key": "id"}),
}
USUAL = [
    (
        "INSERT INTO item SELECT coalesce(max(id), 0) + 1, 'n' || coalesce(max(id), 0) + 1, 1 FROM"
        " item"
    ),
    (
        "UPDATE item SET name = name || '!', at = clock_timestamp() WHERE id = (SELECT min(id) FROM"
        " item)"
    ),
]
IN_SOURCE = [
    "DELETE FROM item WHERE id > 3",
    "TRUNCATE item",
    "ALTER TABLE item ADD y int",
    "ALTER TABLE item DROP y",
    "ALTER TABLE item RENAME x TO z",
    "ALTER TABLE item RENAME z TO x",
    "ALTER TABLE item ALTER x TYPE bigint",
    "ALTER TABLE item ALTER x TYPE text",
    "ALTER TABLE item ALTER id TYPE bigint",
    "ALTER TABLE item DROP x",
    "ALTER TABLE item ADD x int",
    "ALTER TABLE item DROP CONSTRAINT item_pkey",
    "ALTER TABLE item ADD PRIMARY KEY (id)",
    "ALTER TABLE item ALTER at DROP NOT NULL",
    "UPDATE item SET at = NULL WHERE id = 2",
    "DROP TABLE item",
    TABLE,
]
IN_WAREHOUSE = [
    "DROP TABLE staging.item CASCADE",
    "ALTER TABLE staging.item ADD mine int",
    "DROP TABLE mart.merged",
    "ALTER TABLE staging.item ALTER name TYPE varchar(50)",
    "CREATE VIEW public.seen AS SELECT x FROM staging.item",
    "DROP VIEW public.seen",
]


def change(shop: Project, chance: random.Random, table: Any) -> Any:
    """Something other than before in source or warehouse, where it is possible; the table's part of
    the spec."""
    where = chance.random()
    run, statements = (
        (shop.in_warehouse, IN_WAREHOUSE) if where < 0.2 else (shop.in_source, IN_SOURCE)
    )
    with contextlib.suppress(psycopg.Error):
        run(chance.choice(USUAL if where > 0.5 else statements))
    return chance.choice(SPECS) if chance.random() < 0.25 else table


def disagreement(told: dict[str, Any], result: StepResult) -> str:
    """How the plan's words on a step and what became of it differ; empty where they do not."""
    would_fail = any(remark["severity"] == "error" for remark in told["remarks"])
    if would_fail != (result.state == "failed") or told["is_cut_off"] != (
        result.state == "upstream_failed"
    ):
        return f"{told['does']}: {result.state} ({result.result})"
    if not isinstance(result.result, Outcome) or told["changes"] == "maybe":
        return ""
    rows = result.result.counts.get("extracted")
    if (
        told["rows_are_exact"]
        and result.step.kind == "extract"
        and rows not in (None, told["rows"])
    ):
        return f"{told['rows']} rows: {rows}"
    is_quiet = (told["changes"] == "no") == (result.state == "skipped")
    return "" if is_quiet else f"{told['does']}: {result.state} ({result.result.message})"


@pytest.mark.parametrize("seed", [1, 2])
def test_plan_and_run_agree_whatever_happens_between_runs(shop: Project, seed: int) -> None:
    chance, table = random.Random(seed), SPECS[0]
    shop.in_source(TABLE)
    states = set()
    for number in range(ROUNDS):
        shop.spec({"item": deepcopy(table)}, MARTS)
        steps, results = plan(shop, code=None)["steps"], shop.run()
        states |= {result.state for result in results.values()}
        wrong = {
            name: text for name, r in results.items() if (text := disagreement(steps[name], r))
        }
        wrong.pop("create_bucket", None)
        assert not wrong, (number, table, wrong)
        if any(result.state == "failed" for result in results.values()) and chance.random() < 0.7:
            shop.in_source(f"DROP TABLE IF EXISTS item; {TABLE}")
            shop.run(full_refresh="all")
        table = change(shop, chance, table)
    assert states == {"done", "skipped", "failed", "upstream_failed"}
