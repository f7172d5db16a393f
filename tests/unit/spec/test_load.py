"""Documents -> models: defaults, inheritance, caching, and what merely importing costs."""

from __future__ import annotations

import cProfile
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from loadsheet.errors import SpecError
from loadsheet.spec.models import (
    Deletes,
    FreshWithin,
    Incremental,
    Lake,
    Pipeline,
    Source,
    Table,
    Tasks,
    Warehouse,
)
from loadsheet.spec.pipeline_file import check_file, check_text, find_specs, load_pipeline

VALID = Path(__file__).parents[2] / "specs" / "valid"
HEAD = """\
version: 1
source: {conn_id: shop_db}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables:
"""


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pipeline.yml"
    file.write_text(text, encoding="utf-8")
    return file


def _problems(file: Path) -> list[str]:
    return [f"{problem.line}:{problem.column} {problem.path}" for problem in check_file(file)[1]]


def test_the_shortest_spec_takes_every_default(tmp_path: Path) -> None:
    file = _write(tmp_path / "shop", HEAD + "  orders:\n")
    assert load_pipeline(file) == Pipeline(
        name="shop",
        file=file,
        source=Source(conn_id="shop_db"),
        lake=Lake(conn_id="lake", bucket="lake", prefix="shop"),
        warehouse=Warehouse(conn_id="warehouse"),
        tables=(Table(name="orders"),),
    )


def test_the_folders_name_is_found_from_a_bare_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(_write(tmp_path / "shop", HEAD + "  orders:\n").parent)
    assert load_pipeline(Path("pipeline.yml")).name == "shop"


def test_a_table_inherits_defaults_and_its_own_keys_win() -> None:
    pipeline = load_pipeline(VALID / "every_key" / "pipeline.yml")
    tasks = Tasks(
        pool="shop_tables",
        retries=4,
        retry_delay=timedelta(0),
        timeout=timedelta(minutes=90),
        max_active_tasks=3,
    )
    assert pipeline.table("orders") == Table(
        name="orders",
        primary_key=("id",),
        incremental=Incremental(cursor="updated_at", lookback="1h"),
        mode="merge",
        exclude=("note",),
        schema_contract="freeze",
        fill="auto",
        max_shrink=0.5,
        deletes=Deletes(action="hard"),
        overlap=False,
        fresh_within=FreshWithin(fail=timedelta(days=4)),
        tasks=tasks,
    )
    assert pipeline.table("lines").incremental == Incremental(
        cursor="seq",
        initial_value="1000",
        lookback="250",
        nulls="exclude",
        hold_back=timedelta(minutes=5),
    )
    assert pipeline.table("lines").include == ("order_id", "line_no", "seq", "amount")
    assert pipeline.table("lines").max_shrink == 0.0
    assert pipeline.table("lines").deletes == Deletes(
        action="soft", every=timedelta(days=1), max_delete=0.02
    )
    assert pipeline.table("lines").fresh_within == FreshWithin(
        warn=timedelta(days=3), fail=timedelta(days=5), verified=timedelta(days=9)
    )


def test_null_un_inherits_every_key() -> None:
    pipeline = load_pipeline(VALID / "every_key" / "pipeline.yml")
    assert pipeline.table("plain") == Table(name="plain", tasks=pipeline.tasks)


def test_a_transform_carries_its_sql_file_and_keys() -> None:
    pipeline = load_pipeline(VALID / "every_key" / "pipeline.yml")
    daily, totals = pipeline.transform("daily"), pipeline.transform("totals")
    assert daily.file == pipeline.file.parent / "sql" / "daily.sql"
    assert daily.sql.startswith("select day, place")
    assert (daily.materialized, daily.unique_key, daily.tasks.retries) == (
        "merge",
        ("day", "place"),
        1,
    )
    assert (totals.materialized, totals.unique_key, totals.tasks) == ("table", (), pipeline.tasks)


@pytest.mark.parametrize(
    ("table", "lookback"),
    [
        ("inherits_it", "15m"),
        ("own_one", "1h"),
        ("none", None),
        ("inside", "2d"),
        ("none_inside", None),
        ("by_number", "1000"),
    ],
)
def test_the_nearest_lookback_counts(table: str, lookback: str | None) -> None:
    incremental = load_pipeline(VALID / "lookback_of_all_kinds.yml").table(table).incremental
    assert incremental is not None
    assert incremental.lookback == lookback


def test_an_own_lookback_beats_the_one_inside_an_inherited_incremental(tmp_path: Path) -> None:
    defaults = "defaults: {incremental: {cursor: id, lookback: 5}}\n"
    text = (
        HEAD.replace("tables:\n", defaults + "tables:\n")
        + "  orders: {lookback: 7}\n  lines: {lookback: null}\n"
    )
    pipeline = load_pipeline(
        _write(tmp_path, text.replace("version: 1", "version: 1\npipeline: shop"))
    )
    assert pipeline.table("orders").incremental == Incremental(cursor="id", lookback="7")
    assert pipeline.table("lines").incremental == Incremental(cursor="id")


def test_a_spec_with_warnings_only_is_usable(tmp_path: Path) -> None:
    file = _write(tmp_path / "shop", HEAD + "  public.orders:\n")
    assert load_pipeline(file).tables[0].name == "public.orders"
    assert [problem.severity for problem in check_file(file)[1]] == ["warning"]


def test_all_problems_are_raised_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "shop",
        HEAD + "  orders: {mode: upsert}\n  lines: {pk: id}\ntransforms:\n  daily:\n",
    )
    with pytest.raises(SpecError) as error:
        load_pipeline(file)
    assert [problem.line for problem in error.value.problems] == [6, 7, 9]


def test_a_broken_default_does_not_blame_the_tables_that_inherit_it(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "shop", "defaults: {incremental: 5}\n" + HEAD + "  orders: {mode: append}\n"
    )
    assert _problems(file) == ["1:25 defaults.incremental"]


def test_a_broken_schedule_does_not_blame_the_tables_that_need_one(tmp_path: Path) -> None:
    interval = "  orders: {incremental: {cursor: day, by: data_interval}}\n"
    file = _write(tmp_path / "shop", "schedule: 5\n" + HEAD + interval)
    assert _problems(file) == ["1:11 schedule"]


def test_an_edit_is_seen_at_once(tmp_path: Path) -> None:
    file = _write(tmp_path / "shop", HEAD + "  orders:\n")
    assert load_pipeline(file).tables[0].name == "orders"
    _write(tmp_path / "shop", HEAD + "  people:\n")
    assert load_pipeline(file).tables[0].name == "people"


def test_an_old_file_is_read_once_and_again_when_its_sql_changes(tmp_path: Path) -> None:
    file = _write(tmp_path / "shop", HEAD + "  orders:\ntransforms:\n  daily:\n")
    sql = tmp_path / "shop" / "sql" / "daily.sql"
    sql.parent.mkdir()
    sql.write_text("select 1 as one from orders")
    for old in (file, sql):
        os.utime(old, (1_700_000_000, 1_700_000_000))
    first = load_pipeline(file)
    assert load_pipeline(file) is first
    sql.write_text("select 2 as two from orders")
    os.utime(sql, (1_700_000_100, 1_700_000_100))
    assert load_pipeline(file).transform("daily").sql == "select 2 as two from orders"


def test_a_sql_file_linked_from_elsewhere_is_refused(tmp_path: Path) -> None:
    file = _write(tmp_path / "shop", HEAD + "  orders:\ntransforms:\n  daily:\n")
    (tmp_path / "secret.sql").write_text("select 1 as one")
    (tmp_path / "shop" / "sql").mkdir()
    (tmp_path / "shop" / "sql" / "daily.sql").symlink_to(tmp_path / "secret.sql")
    assert [problem.message for problem in check_file(file)[1]] == [
        "sql/daily.sql is outside the pipeline's folder"
    ]


@pytest.mark.parametrize("kind", ["folder", "dangling", "long name"])
def test_whatever_stands_where_a_sql_file_should_be_is_a_problem(tmp_path: Path, kind: str) -> None:
    name = "d" * 260 if kind == "long name" else "daily"
    file = _write(tmp_path / "shop", HEAD + f"  orders:\ntransforms:\n  {name}:\n")
    sql = tmp_path / "shop" / "sql"
    sql.mkdir()
    if kind == "folder":
        (sql / "daily.sql").mkdir()
    if kind == "dangling":
        (sql / "daily.sql").symlink_to(tmp_path / "nowhere.sql")
    pipeline, problems = check_file(file)
    assert pipeline is None
    assert problems


def test_specs_are_found_in_the_order_of_their_folders(tmp_path: Path) -> None:
    files = [
        _write(tmp_path / "pipelines" / name, HEAD) for name in ("b", "a", ".ipynb_checkpoints")
    ]
    (tmp_path / "pipelines" / "c").mkdir()
    assert find_specs(tmp_path) == [files[1], files[0]]
    assert find_specs(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gone.yml", "there is no such file"),
        ("pipeline.yml", "the file cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_spec_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, target: str, message: str
) -> None:
    good = _write(tmp_path / "pipelines" / "good", HEAD)
    (tmp_path / "pipelines" / "loop").symlink_to("loop")
    link = tmp_path / "pipelines" / "linked" / "pipeline.yml"
    link.parent.mkdir()
    link.symlink_to(target)
    assert find_specs(tmp_path) == [good, link]
    assert [problem.message for problem in check_file(link)[1]] == [message]


def test_sql_that_cannot_be_read_is_not_called_missing(tmp_path: Path) -> None:
    file = _write(tmp_path / "pipelines" / "shop", f"{HEAD}  t:\ntransforms: {{m: , n: }}\n")
    (file.parent / "sql").mkdir(exist_ok=True)
    (file.parent / "sql" / "m.sql").symlink_to("m.sql")
    messages = {problem.message for problem in check_file(file)[1] if problem.severity == "error"}
    assert messages == {
        "the file cannot be read: Too many levels of symbolic links",
        "there is no file sql/n.sql",
    }


def test_importing_models_and_load_imports_neither_yaml_nor_jsonschema() -> None:
    code = (
        "import sys, loadsheet.spec.pipeline_file, loadsheet.spec.models;print(sorted({'yaml',"
        " 'jsonschema', 'loadsheet.sql.libpg', 'psycopg', 'minio', 'airflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=VALID.parents[2],
    )
    assert done.stdout == "[]\n"


def test_checking_ten_times_as_many_tables_calls_at_most_ten_times_as_many_functions(
    tmp_path: Path,
) -> None:
    """Calls, not seconds: others are using this machine, too. It is some 1,600 for a table."""
    _calls_to_check(tmp_path, 1)  # what is imported and compiled once
    few, many = _calls_to_check(tmp_path, 10), _calls_to_check(tmp_path, 100)
    assert many <= 10 * few
    assert (many - few) / 90 < 2_500


def _calls_to_check(folder: Path, tables: int) -> int:
    keys = (
        "primary_key: [a, b], incremental: {cursor: updated_at, lookback: 15m}, mode: merge,"
        " timeout: 1h"
    )
    text = HEAD + "".join(f"  table_{number}: {{{keys}}}\n" for number in range(tables))
    profile = cProfile.Profile()
    assert profile.runcall(check_text, folder / "shop" / "pipeline.yml", text)[1] == []
    return sum(entry.callcount for entry in profile.getstats())
