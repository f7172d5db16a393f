"""The dag-factory configuration of a plan: plain values, the plan's own edges, nothing of a spec
executed."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadsheet.plan.assets import asset_uri, intervals_uri
from loadsheet.plan.dag_config import dag_config, render_dag, spec_path
from loadsheet.plan.steps import build_plan, step_id, with_look
from loadsheet.spec.models import (
    Incremental,
    Lake,
    Pattern,
    Pipeline,
    Source,
    Table,
    Tasks,
    Transform,
    Warehouse,
)
from loadsheet.spec.routes import Route, route_of

PLAIN = (str, int, float, bool, type(None))


def pipeline(**changes: Any) -> Pipeline:
    made = Pipeline(
        name="flights",
        file=Path("/srv/bundle/pipelines/flights/pipeline.yml"),
        source=Source(conn_id="flights_source", schema="bookings"),
        lake=Lake(conn_id="lake", bucket="lake", prefix="flights"),
        warehouse=Warehouse(conn_id="warehouse"),
        description="Flight bookings",
        schedule="@daily",
        start_date="2026-01-01",
        owner="data-eng",
        tags=("flights",),
        tables=(
            Table(name="bookings", incremental=Incremental(cursor="updated_at")),
            Table(
                name="seats",
                primary_key=("aircraft_code", "seat_no"),
                tasks=Tasks(pool="small", retries=5),
            ),
        ),
        transforms=(
            Transform(
                name="fct", sql="SELECT * FROM bookings", file=Path("fct.sql"), unique_key=("id",)
            ),
            Transform(name="daily", sql="SELECT * FROM mart.fct", file=Path("daily.sql")),
        ),
    )
    return dataclasses.replace(made, **changes)


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    return all(map(plain, value)) if type(value) is list else type(value) in PLAIN


def test_every_value_is_a_plain_yaml_type() -> None:
    config = dag_config(pipeline(notify=(Route(slack_conn_id="slack"),)))
    assert plain(config)
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_tasks_and_edges_are_those_of_the_plan() -> None:
    tasks = dag_config(pipeline())["tasks"]
    ids = {
        name: f"{t['task_group_name']}.{name}" if "task_group_name" in t else name
        for name, t in tasks.items()
    }
    edges = {(ids[up], ids[name]) for name, task in tasks.items() for up in task["dependencies"]}
    steps = with_look(build_plan(pipeline()))
    assert list(ids.values()) == [step.id for step in steps]
    assert edges == {(up, step.id) for step in steps for up in step.upstream}


def test_a_pipeline_without_transforms_has_no_empty_group() -> None:
    assert list(dag_config(pipeline(transforms=()))["task_groups"]) == ["extract", "load"]


def test_tasks_take_pool_retries_and_timeout_from_table_transform_or_pipeline() -> None:
    fast = Tasks(
        pool="fast", retries=0, timeout=timedelta(minutes=5), retry_delay=timedelta(minutes=2)
    )
    config = dag_config(pipeline(tasks=fast))
    tasks, default_args = config["tasks"], config["default_args"]
    assert (tasks["extract_seats"]["pool"], tasks["load_seats"]["retries"]) == ("small", 5)
    assert (tasks["look"]["pool"], tasks["look"]["retries"]) == ("fast", 0)
    assert tasks["look"]["execution_timeout"] == {
        "__type__": "datetime.timedelta",
        "seconds": 300,
    }
    assert default_args["retry_delay"] == {"__type__": "datetime.timedelta", "seconds": 120}
    assert default_args["owner"] == "data-eng"


def test_only_transforms_survive_a_skipped_load() -> None:
    tasks = dag_config(pipeline())["tasks"]
    rules = {name: task["trigger_rule"] for name, task in tasks.items()}
    assert {name for name, rule in rules.items() if rule == "none_failed"} == {
        "transform_fct",
        "transform_daily",
    }


def test_verify_follows_all_loads_and_the_marts_it_compares_and_nothing_follows_it() -> None:
    every = Pattern(name="log_*", table=Table(name="log_*"))
    tasks = dag_config(pipeline(verify="@weekly", patterns=(every,)))["tasks"]
    loads = {name for name in tasks if name.startswith("load_")}
    # The extractions of a pattern's tables, too: its loads run whether or not they succeed.
    extract = step_id("extract", "log_*").rpartition(".")[2]
    assert set(tasks["verify"]["dependencies"]) == loads | {
        extract,
        "transform_fct",
        "transform_daily",
    }
    # Skipped loads do not skip it.
    assert tasks["verify"]["trigger_rule"] == "none_failed"
    assert not any("verify" in task["dependencies"] for task in tasks.values())
    assert "verify" not in dag_config(pipeline())["tasks"]


AFTER_EACH = {"on_success_callback", "on_skipped_callback"}


@pytest.mark.parametrize(
    ("events", "callbacks"),
    [
        (["failure"], {"on_failure_callback"}),
        (["differs"], {"on_failure_callback"}),
        (["broken_spec"], set()),  # such a file has no tasks
        (["check"], {"on_failure_callback"}),
        (["drift"], {"on_success_callback"}),
        (["digest"], {"on_success_callback"}),
        (["recovery"], {"on_failure_callback", *AFTER_EACH}),
        (["failure", "recovery"], {"on_failure_callback", *AFTER_EACH}),
    ],
)
def test_a_task_calls_only_for_what_a_route_hears_of(
    events: list[str], callbacks: set[str]
) -> None:
    """A callback costs time after every task."""
    route = Route(slack_conn_id="s", events=tuple(events))
    args = dag_config(pipeline(notify=(route,)))["default_args"]
    called = {name: value for name, value in args.items() if name.endswith("_callback")}
    assert set(called) == callbacks
    for name, value in called.items():
        function = "notify_failure" if name == "on_failure_callback" else "notify_success"
        assert value == {
            "callback": f"loadsheet.airflow.alerts.callbacks.{function}",
            "routes": [route.as_keys()],
        }


@pytest.mark.parametrize("event", ["drift", "digest"])
def test_a_batch_that_fails_tells_what_its_other_tables_have_followed(event: str) -> None:
    route = Route(slack_conn_id="s", events=(event,))
    tables = (Table(name="bookings", tasks=Tasks(granularity="batch")),)
    args = dag_config(pipeline(notify=(route,), tables=tables, transforms=()))["default_args"]
    assert {
        name: value["callback"].rpartition(".")[2]
        for name, value in args.items()
        if name.endswith("_callback")
    } == {
        "on_retry_callback": "notify_retry",
        "on_failure_callback": "notify_failure",
        "on_success_callback": "notify_success",
    }


def test_each_callback_has_all_routes_as_the_file_has_them() -> None:
    routes = [
        {"slack_conn_id": "bot", "channel": "#data", "events": ["failure"]},
        {"email_conn_id": "smtp", "to": ["a@example.com"], "events": ["drift"]},
    ]
    args = dag_config(pipeline(notify=tuple(map(route_of, routes))))["default_args"]
    assert args["on_failure_callback"]["routes"] == routes
    assert args["on_success_callback"]["routes"] == routes
    assert "on_skipped_callback" not in args


def test_without_notify_nothing_is_called_after_a_task() -> None:
    args = dag_config(pipeline(notify=()))["default_args"]
    assert not [name for name in args if name.endswith("_callback")]


@pytest.mark.parametrize(
    ("start_date", "in_utc"),
    [
        ("2026-01-01", "2026-01-01T00:00:00"),
        ("2026-01-01T02:00:00+02:00", "2026-01-01T00:00:00"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00"),
        (None, None),
    ],
)
def test_the_start_date_is_written_in_utc(start_date: str | None, in_utc: str | None) -> None:
    assert dag_config(pipeline(start_date=start_date))["start_date"] == in_utc


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            "0 4 * * *",
            {
                "__type__": "airflow.sdk.CronDataIntervalTimetable",
                "expression": "0 4 * * *",
                "timezone": "UTC",
            },
        ),
        ("@once", "@once"),
        (None, None),
    ],
)
def test_reading_by_data_interval_needs_runs_that_have_one(
    schedule: str | None, expected: Any
) -> None:
    table = Table(name="bookings", incremental=Incremental(cursor="book_date", by="data_interval"))
    assert dag_config(pipeline(schedule=schedule, tables=(table,)))["schedule"] == expected


def test_tasks_have_what_they_write_and_read_of_others_as_assets() -> None:
    pattern = Pattern(name="log_*", table=Table(name="log_*"))
    sql = "SELECT * FROM bookings, report.rates, fct"
    daily = Transform(name="daily", sql=sql, file=Path("daily.sql"))
    transforms = (pipeline().transforms[0], daily)
    external = ("report.*", "public.unread")
    made = pipeline(patterns=(pattern,), transforms=transforms, external=external)
    tasks = dag_config(made)["tasks"]
    found = {}
    for name, task in tasks.items():
        found[name.partition("_any")[0]] = task.get("inlets", []), task.get("outlets", [])
    uri = "x-loadsheet://warehouse"
    assert found.pop("load_bookings") == ([], [f"{uri}/staging/bookings"])
    assert found.pop("load_seats") == ([], [f"{uri}/staging/seats"])
    alias = {"__type__": "airflow.sdk.AssetAlias", "name": f"{uri}/staging/log_%2A"}
    assert found.pop("load_log") == ([], [alias])
    assert found.pop("transform_fct") == ([], [f"{uri}/mart/fct"])
    assert found.pop("transform_daily") == ([f"{uri}/report/rates"], [f"{uri}/mart/daily"])
    assert set(map(str, found.values())) == {"([], [])"}


def test_a_table_that_is_read_by_interval_has_an_asset_for_its_intervals() -> None:
    by_interval = Incremental(cursor="book_date", by="data_interval")
    table = Table(name="bookings", incremental=by_interval)
    uri = "x-loadsheet://warehouse/staging/bookings"
    for granularity in ("step", "table", "batch"):
        table = dataclasses.replace(table, tasks=Tasks(granularity=granularity))
        tasks = dag_config(pipeline(tables=(table,), transforms=()))["tasks"].values()
        (outlets,) = [task["outlets"] for task in tasks if "outlets" in task]
        assert outlets == [uri, f"{uri}/intervals"]


def test_two_tables_never_share_an_asset() -> None:
    hard = ("a", "a/b", "b/a", "a.b", "a%2Fb", "A", "ä", "a b", "a?b", "a#b", "..")
    uris = {asset_uri(*parts) for parts in product(hard, repeat=3)}
    assert len(uris) == len(hard) ** 3
    assert uris.isdisjoint({intervals_uri(uri) for uri in uris})
    # What RFC 3986 allows, and MySQL stores.
    assert all(re.fullmatch(r"x-loadsheet://[\w.~%-]+(/[\w.~%-]+){2}", uri, re.A) for uri in uris)


@pytest.mark.parametrize("times", [None, "@daily"])
def test_a_schedule_by_assets_waits_for_one_of_them(times: str | None) -> None:
    schedule = dag_config(pipeline(schedule=times, assets=("mart.x", "dwh.2.raw.y")))["schedule"]
    uris = ("x-loadsheet://warehouse/mart/x", "x-loadsheet://dwh.2/raw/y")
    assets = [{"__type__": "airflow.sdk.Asset", "uri": uri} for uri in uris]
    any_of = {"__type__": "airflow.sdk.AssetAny", "__args__": assets}
    if times is None:
        assert schedule == any_of
    else:
        assert schedule["__type__"] == "airflow.sdk.AssetOrTimeSchedule"
        assert schedule["assets"] == any_of
        assert schedule["timetable"]["__args__"] == ["@daily"]


def test_a_plain_schedule_stays_as_it_is() -> None:
    assert dag_config(pipeline())["schedule"] == "@daily"


@pytest.mark.parametrize(
    ("file", "root", "path"),
    [
        (
            "/srv/bundle/pipelines/flights/pipeline.yml",
            "/srv/bundle",
            "pipelines/flights/pipeline.yml",
        ),
        ("/srv/bundle/pipelines/flights/pipeline.yml", None, "pipelines/flights/pipeline.yml"),
        (
            "/srv/bundle/pipelines/flights/pipeline.yml",
            "/srv/other",
            "/srv/bundle/pipelines/flights/pipeline.yml",
        ),
        ("/pipeline.yml", None, "/pipeline.yml"),
        ("/srv/a/b/pipeline.yml", None, "/srv/a/b/pipeline.yml"),
    ],
)
def test_tasks_name_the_spec_relative_to_the_bundle_where_they_can(
    file: str, root: str | None, path: str
) -> None:
    assert spec_path(Path(file), root and Path(root)) == path


def test_the_trigger_form_offers_the_tables() -> None:
    params = dag_config(pipeline())["params"]
    assert list(params) == [
        "full_refresh",
        "tables",
        "accept_source",
        "interval_start",
        "interval_end",
        "transforms",
    ]
    assert (
        params["tables"]["items"]["enum"] == params["tables"]["examples"] == ["bookings", "seats"]
    )


def test_a_rendered_file_keeps_dollars_out_of_dag_factorys_reach() -> None:
    dollars = "$HOME and ${PATH}, \\$HOME, line one\nand $$ two"
    transform = Transform(name="fct", sql=f"SELECT '{dollars}' FROM bookings", file=Path("fct.sql"))
    made = pipeline(description=dollars, transforms=(transform,))
    text = render_dag(made)
    assert "$" not in text
    assert yaml.safe_load(text) == {"flights": dag_config(made)}


def test_names_that_look_like_templates_or_yaml_come_back_as_they_are() -> None:
    names = [
        "{{ 7*7 }}",
        "__type__",
        "no",
        "1:30",
        'Order "Lines" é',
        "a: b #c",
        "-",
        "12",
        "x" * 200,
    ]
    made = pipeline(tables=tuple(Table(name=name) for name in names), transforms=())
    tasks = yaml.safe_load(render_dag(made))["flights"]["tasks"]
    assert [
        task["name"] for task in tasks.values() if task.get("task_group_name") == "extract"
    ] == names


def test_the_docs_show_tables_and_transforms_and_where_to_change_them() -> None:
    doc = dag_config(pipeline())["doc_md"]
    assert "| `bookings` | merge | from the catalog | `updated_at` |" in doc
    assert "| `seats` | replace | `aircraft_code`, `seat_no` |  |" in doc
    assert "| `fct` | table | `id` |" in doc
    assert "`pipelines/flights/pipeline.yml`" in doc


def test_names_cannot_break_out_of_the_docs() -> None:
    made = pipeline(tables=(Table(name="a|b`c\nd"),), transforms=(), description="see notes.md")
    doc = dag_config(made)["doc_md"]
    assert "| `` a\\|b`c d `` |" in doc
    assert not doc.endswith(".md")  # Airflow would open a file of that name


def test_a_transforms_sql_is_its_documentation_whatever_it_holds() -> None:
    sql = "SELECT '```' AS fence FROM bookings"
    made = pipeline(transforms=(Transform(name="fct", sql=sql, file=Path("fct.sql")),))
    assert f"````sql\n{sql}\n````" in dag_config(made)["tasks"]["transform_fct"]["doc_md"]
