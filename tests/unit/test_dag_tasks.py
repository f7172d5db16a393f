"""Which Airflow task does which steps of a plan, by the granularity."""

from __future__ import annotations

from cProfile import Profile
from dataclasses import replace
from pathlib import Path
from pstats import Stats

import pytest

from loadsheet.plan.dag_config import dag_config
from loadsheet.plan.dag_tasks import MOST_IN_BATCH, dag_tasks, describe_tasks, task_id, task_ids
from loadsheet.plan.steps import build_plan, with_look
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline

VALID = Path(__file__).resolve().parents[1] / "specs" / "valid"
SPEC = """\
version: 1
source: {conn_id: src}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: wh}
verify: "@weekly"
GRANULARITY
tables:
  a:
  b: {OWN}
  "log_*":
transforms:
  of_a:
  of_b:
  of_log:
"""
SQL = {"of_a": "SELECT 1 FROM a", "of_b": "SELECT 1 FROM b, mart.of_a"}
SQL["of_log"] = "SELECT 1 FROM staging.log_1"


def pipeline(folder: Path, granularity: str, own: str = "") -> Pipeline:
    """The pipeline with these settings."""
    file = folder / "pipelines" / "shop" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True, exist_ok=True)
    for name, text in SQL.items():
        (file.parent / "sql" / f"{name}.sql").write_text(text)
    text = SPEC.replace("OWN", own)
    line = f"tasks: {{granularity: {granularity}}}" if granularity else ""
    file.write_text(text.replace("GRANULARITY", line))
    return load_pipeline(file)


def edges(found: Pipeline) -> dict[str, set[str]]:
    """What each task comes after."""
    return {task.id: set(task.upstream) for task in dag_tasks(found)}


@pytest.mark.parametrize("granularity", ["", "step", "null"])
def test_by_default_each_step_is_a_task(tmp_path: Path, granularity: str) -> None:
    found = pipeline(tmp_path, granularity)
    assert dag_tasks(found) == with_look(build_plan(found))


def test_one_task_extracts_a_table_and_loads_it(tmp_path: Path) -> None:
    slug = edges(pipeline(tmp_path, "step"))
    (log,) = [name.removeprefix("load.load_") for name in slug if name.startswith("load.load_log")]
    found = pipeline(tmp_path, "table", "granularity: step")
    table = f"table.table_{log}"
    transforms = {f"transform.transform_of_{name}" for name in ("a", "b", "log")}
    assert edges(found) == {
        "look": set(),
        f"resolve_{log}": set(),
        "table.table_a": {"look"},
        "extract.extract_b": {"look"},
        table: {"look", f"resolve_{log}"},
        "load.load_b": {"extract.extract_b"},
        "transform.transform_of_a": {"table.table_a"},
        "transform.transform_of_b": {"load.load_b", "transform.transform_of_a"},
        "transform.transform_of_log": {table},
        "verify": {"table.table_a", "load.load_b", table, *transforms},
    }
    assert [task.id for task in dag_tasks(found) if task.mapped] == [table]
    ids = task_ids(found)
    assert set(ids) == {step.id for step in build_plan(found)}
    assert set(ids.values()) == set(edges(found))
    assert (task_id(found, "extract", "a"), task_id(found, "load", "log_7")) == (
        "table.table_a",
        table,
    )
    assert task_id(found, "extract", "b") == "extract.extract_b"


def test_every_task_comes_after_its_upstream(tmp_path: Path) -> None:
    for granularity in ("step", "table", "batch"):
        seen: set[str] = set()
        for task in dag_tasks(pipeline(tmp_path, granularity)):
            assert seen.issuperset(task.upstream), (granularity, task.id)
            seen.add(task.id)


def test_a_batch_holds_tables_with_the_same_settings_in_the_order_of_the_file() -> None:
    found = load_pipeline(VALID / "batches" / "pipeline.yml")
    tasks = {task.id: task for task in dag_tasks(found)}
    batches = {task.name: task.tables for task in tasks.values() if task.kind == "batch"}
    assert batches == {"001": ("countries", "currencies"), "002": ("rates",), "log_*": ()}
    upstream = {name: set(task.upstream) for name, task in tasks.items()}
    (of_logs,) = [task.id for task in tasks.values() if task.name == "log_*" and task.mapped]
    assert upstream["batch.batch_001"] == {"look"} and "extract.extract_units" in upstream
    assert upstream["transform.transform_of_batch"] == {"batch.batch_001"}
    assert upstream["transform.transform_of_both"] == {
        "batch.batch_002",
        "load.load_orders",
        "transform.transform_of_table",
    }
    assert upstream["transform.transform_of_logs"] == {of_logs}
    assert describe_tasks(found) == (
        "one task does both for 2 tables, 3 batches do both for 4 tables"
    )
    ids = task_ids(found)
    assert ids["extract.extract_rates"] == ids["load.load_rates"] == "batch.batch_002"
    config = dag_config(found)["tasks"]
    assert config["resolve_" + of_logs.removeprefix("batch.batch_")]["batches_of"] == MOST_IN_BATCH
    rules = {name: task["trigger_rule"] for name, task in config.items()}
    assert {name for name, rule in rules.items() if rule == "all_done"} == {
        "transform_of_batch",
        "transform_of_both",
    }
    assert config["batch_001"]["task_display_name"] == "batch 001: countries to currencies"


@pytest.mark.parametrize(("tables", "kinds"), [(100, {"extract", "load"}), (101, {"batch"})])
def test_auto_makes_batches_of_a_large_catalog(
    tmp_path: Path, tables: int, kinds: set[str]
) -> None:
    found = pipeline(tmp_path, "auto")
    more = tuple(replace(found.table("a"), name=f"t{n:03}") for n in range(tables))
    found = replace(found, tables=more, patterns=(), transforms=(), verify=None)
    tasks = dag_tasks(found)
    assert {task.kind for task in tasks} == kinds | {"look"}
    sizes = [len(task.tables) for task in tasks if task.kind == "batch"]
    assert sizes == ([50, 50, 1] if tables == 101 else [])


def test_a_dag_of_thousands_of_tables_costs_a_little_for_each(tmp_path: Path) -> None:
    # Every task of a DAG builds it again, and 5,000 tables are in 100 tasks.
    small, large = (_profile_of_building(tmp_path / str(n), n) for n in (500, 1000))
    per_table = (large.total_calls - small.total_calls) / 500  # type: ignore[attr-defined]
    assert per_table < 160  # 125; 230 when the ids were made again and again
    # It makes a tuple of all tables, so the work grew with their square when each asked for it.
    assert _calls(large, "entries") == _calls(small, "entries") > 0


def _profile_of_building(folder: Path, tables: int) -> Stats:
    """The calls that turn a file of so many tables into a DAG's configuration."""
    file = folder / "pipelines" / "many" / "pipeline.yml"
    file.parent.mkdir(parents=True)
    names = "".join(f"  t{number}: {{incremental: at}}\n" for number in range(tables))
    head = "".join(SPEC.splitlines(keepends=True)[:4])
    file.write_text(f"{head}tasks: {{granularity: auto}}\ntables:\n{names}")
    found = load_pipeline(file)
    profile = Profile()
    profile.runcall(dag_config, found)
    return Stats(profile)


def _calls(stats: Stats, name: str) -> int:
    found = stats.get_stats_profile().func_profiles[name].ncalls
    return int(found.partition("/")[0])


def test_tasks_help_the_extract_of_a_table_that_asks_for_them_and_nothing_waits_for_them(
    tmp_path: Path,
) -> None:
    alone = edges(pipeline(tmp_path, "step"))
    found = pipeline(tmp_path, "step", "extract_tasks: 3")
    readers = {"read.read_b_2": {"look"}, "read.read_b_3": {"look"}}
    assert edges(found) == alone | readers
    task = dag_config(found)["tasks"]["read_b_3"]
    assert (task["name"], task["number"], task["task_display_name"]) == ("b", 3, "read b 3")
    assert set(task_ids(found).values()).isdisjoint(readers)
