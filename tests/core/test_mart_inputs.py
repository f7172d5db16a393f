"""What a transform reads counts for its next run: also what other pipelines make, and what is
loaded while it runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.engine import transform as engine_transform
from loadsheet.engine.runner import run_pipeline
from loadsheet.outcome import RunRequest
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.warehouse import externals, mart
from tests.core.planned import plan
from tests.project import Project

SALE = {"sale": {"incremental": "at"}}
APPEND = """
CREATE TABLE IF NOT EXISTS mart.log (id int);
INSERT INTO mart.log SELECT id FROM staging.sale WHERE _load_id > :since_load"""
TOTAL = "SELECT sum(amount) AS amount FROM {}"


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(
        "CREATE TABLE sale (id int PRIMARY KEY, amount int,"
        " at timestamptz NOT NULL DEFAULT clock_timestamp());"
        "INSERT INTO sale VALUES (1, 10), (2, 20); CREATE TABLE other (id int PRIMARY KEY)"
    )
    return project


def reader(shop: Project, external: str) -> Project:
    """A second pipeline `reader` with a mart `total` over a table of the first one."""
    made = replace(shop, name="reader")
    made.spec({"other": None}, {"total": TOTAL.format(external)}, external=[external])
    return made


def total(project: Project) -> int:
    return int(project.in_warehouse("SELECT amount FROM mart.total")[0][0])


def state(reader: Project) -> str:
    """What plan and run both say of the reader's mart."""
    told = plan(reader)["steps"]["transform.transform_total"]["changes"]
    state = reader.succeed()["transform.transform_total"]
    assert (told == "yes") == (state == "done")
    return state


@pytest.mark.parametrize("external", ["mart.sales", "staging.sale"])
def test_a_table_of_another_pipeline_is_an_input(shop: Project, external: str) -> None:
    """The mart was skipped for ever, with the sum of its first run."""
    shop.spec(SALE, {"sales": "SELECT id, amount FROM staging.sale"})
    shop.succeed()
    other = reader(shop, external)
    assert state(other) == "done"
    assert state(other) == "skipped"
    shop.in_source("INSERT INTO sale VALUES (3, 30)")
    shop.succeed()
    asked = ["--project", str(other.folder), "status", "reader", "--json"]
    shown = CliRunner().invoke(app, asked, env=other.environment()).stdout
    [status] = json.loads(shown)["pipelines"][0]["transforms"]
    assert status["due"]
    assert state(other) == "done"
    assert total(other) == 60
    assert state(other) == "skipped"


def test_without_externals_among_the_inputs_it_is_skipped(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what every run did before."""
    monkeypatch.setattr(externals, "external_inputs", lambda *_: [])
    shop.spec(SALE)
    shop.succeed()
    other = reader(shop, "staging.sale")
    other.succeed()
    shop.in_source("INSERT INTO sale VALUES (3, 30)")
    shop.succeed()
    assert other.succeed()["transform.transform_total"] == "skipped"


def test_a_table_that_no_pipeline_makes_is_not_watched(shop: Project) -> None:
    """docs/transforms.md says so: `--rebuild` builds the mart."""
    shop.in_warehouse("CREATE TABLE public.rates AS SELECT 1 AS amount")
    other = reader(shop, "public.rates")
    assert state(other) == "done"
    shop.in_warehouse("UPDATE public.rates SET amount = 2")
    assert state(other) == "skipped"


def test_a_table_that_is_being_loaded_is_not_waited_for_and_not_taken_as_seen(
    shop: Project,
) -> None:
    shop.spec(SALE)
    shop.succeed()
    other = reader(shop, "staging.sale")
    with psycopg.connect(shop.warehouse) as load:
        # As a load does: the lock, then the number, then the rows.
        load.execute("SELECT pg_advisory_xact_lock(hashtextextended('loadsheet:staging.sale', 0))")
        load.execute("SELECT nextval('loadsheet.load_no')")
        assert state(other) == "done"
        load.rollback()
    assert state(other) == "done"
    assert state(other) == "skipped"


@contextmanager
def a_load_in_between(shop: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, a row is loaded after a transform has decided what to read, and before it reads: the
    load is committed by then, or it waits for the transform's lock."""
    pipeline = load_pipeline(shop.folder / "pipelines" / "shop" / "pipeline.yml")
    request = RunRequest(run_id="in_between")
    errors: list[Exception] = []

    def load() -> None:
        results = run_pipeline(replace(pipeline, transforms=()), request, shop.connections)
        errors.extend(r.result for r in results.values() if isinstance(r.result, Exception))

    thread = threading.Thread(target=load)
    honest: Callable[..., Any] = mart.decide_build

    def decide(*arguments: Any) -> Any:
        decision = honest(*arguments)
        if not thread.ident:
            shop.in_source("INSERT INTO sale VALUES (3, 30)")
            thread.start()
            until_committed_or_waiting(shop)
        return decision

    monkeypatch.setattr(mart, "decide_build", decide)
    # A look, before the transform itself decides.
    monkeypatch.setattr(engine_transform, "look_at", lambda *given: None)
    yield
    thread.join()
    monkeypatch.setattr(mart, "decide_build", honest)
    assert not errors


def until_committed_or_waiting(shop: Project) -> None:
    deadline = time.monotonic() + 60
    while shop.in_warehouse(
        "SELECT NOT EXISTS (SELECT FROM loadsheet.load WHERE run_id = 'in_between')"
        " AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
    ) == [(True,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def logged(shop: Project) -> list[int]:
    return [row[0] for row in shop.in_warehouse("SELECT id FROM mart.log ORDER BY id")]


@pytest.mark.parametrize("until", ["", " AND _load_id <= :until_load"])
def test_a_load_that_commits_while_a_script_runs_is_appended_once(
    shop: Project, monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    shop.spec(SALE, {"log": (APPEND + until, {"materialized": "script"})})
    with a_load_in_between(shop, monkeypatch):
        shop.succeed()
    assert logged(shop) == [1, 2]
    # Without an upper end the load had to wait, with one it is left to the next run.
    shop.succeed()
    assert logged(shop) == [1, 2, 3]
    assert shop.succeed()["transform.transform_log"] == "skipped"


def test_without_the_locks_of_its_inputs_a_script_appends_rows_twice(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: what every run did before."""
    monkeypatch.setattr(engine_transform, "must_hold_inputs", lambda _: False)
    shop.spec(SALE, {"log": (APPEND, {"materialized": "script"})})
    with a_load_in_between(shop, monkeypatch):
        shop.succeed()
    shop.succeed()
    assert logged(shop) == [1, 2, 3, 3]


def test_until_load_is_the_number_up_to_which_a_run_sees_its_inputs(shop: Project) -> None:
    """In a view, which goes on to show what is loaded, it has no end."""
    where = " FROM staging.sale WHERE _load_id <= :until_load"
    shop.spec(
        SALE,
        {
            "whole": ("SELECT id, :until_load AS until" + where, {}),
            "merged": (
                "SELECT id" + where + " AND _load_id > :since_load",
                {"materialized": "merge", "unique_key": "id"},
            ),
            "seen": ("SELECT id" + where, {"materialized": "view"}),
        },
    )
    shop.succeed()
    shop.in_source("INSERT INTO sale VALUES (3, 30)")
    shop.succeed()
    for name in ("whole", "merged", "seen"):
        assert shop.in_warehouse(f"SELECT count(*) FROM mart.{name}") == [(3,)]
    assert shop.in_warehouse(
        "SELECT max(until) = max(seen_load) FROM mart.whole,"
        " loadsheet.transform_run WHERE transform = 'whole'"
    ) == [(True,)]
    shop.in_source("INSERT INTO sale VALUES (4, 40)")
    assert plan(shop)["steps"]["transform.transform_whole"]["changes"] == "yes"
