"""`loadsheet plan` and `render`: what would run, and the names people may use for a pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT
from tests.unit.cli.conftest import SPEC, SQL, Cli, write_pipeline


def test_steps_are_listed_in_running_order(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop")
    assert result.code == 0
    names = [line.strip("│├└─ ").split("  ")[0] for line in result.out.splitlines()]
    wanted = [
        "create_bucket",
        "extract",
        "orders",
        "load",
        "orders",
        "transform",
        "sales",
        "report",
    ]
    assert [name for name in names if name in wanted] == wanted


def test_modes_keys_and_cursors_are_shown(cli: Cli, project: Path) -> None:
    out = cli("plan", "shop").out
    assert "shop: 3 tables, 2 transforms, no schedule" in out
    lines = [" ".join(line.split()).strip("│├└─ ") for line in out.splitlines()]
    assert "orders new rows by updated_at" in lines
    assert "orders merge by the catalog's key, else append" in lines
    assert "customers replace, key from the catalog" in lines
    assert "odd [red]name replace, key a, b" in lines
    assert "sales merge by id, from new rows" in lines
    assert "after load customers; transform sales" in lines


def test_the_airflow_tasks_that_do_several_steps_are_shown(cli: Cli, project: Path) -> None:
    assert "in Airflow" not in cli("plan", "shop").out.partition("load ")[2]
    grouped = SPEC.replace("shop", "grouped") + "tasks: {granularity: table}\n"
    write_pipeline(project, "grouped", grouped, SQL)
    assert "each after its extract; in Airflow one task does both" in cli("plan", "grouped").out
    steps = {step["id"]: step["task"] for step in cli("plan", "grouped", "--json").json["steps"]}
    assert steps["extract.extract_orders"] == steps["load.load_orders"] == "table.table_orders"
    assert steps["create_bucket"] == "look" and steps["transform.transform_sales"]


def test_the_airflow_tasks_that_read_one_large_table_are_shown(cli: Cli, project: Path) -> None:
    spec = SPEC.replace("shop", "large").replace("updated_at}", "updated_at, extract_tasks: 4}")
    spec = spec.replace("customers:", "customers: {extract_tasks: 4}")
    write_pipeline(project, "large", spec, SQL)
    out = cli("plan", "large").out
    lines = [" ".join(line.split()).strip("│├└─ ") for line in out.splitlines()]
    assert "orders new rows by updated_at, all rows by up to 4 Airflow tasks" in lines
    assert "customers all rows by up to 4 Airflow tasks" in lines


def test_a_plan_fits_into_80_columns_of_a_terminal(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    lines = re.sub(r"\x1b\[[\d;]*m", "", cli("--project", ROOT, "plan", "flights").out).splitlines()
    assert 70 < max(map(len, lines)) <= 80
    assert "fct_seat_occupied_daily" in "".join(lines)


def test_a_pipe_gets_no_colours(cli: Cli, project: Path) -> None:
    assert "\x1b" not in cli("plan", "shop").out


def test_the_sql_of_a_step_is_printed_alone(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop", "--sql", "orders")
    assert result.out.splitlines()[0] == "-- extract.extract_orders"
    assert 'SELECT * FROM "public"."orders" WHERE "updated_at" > <watermark>' in result.out
    assert cli("plan", "shop", "--sql", "transform.transform_sales").out == (
        '-- transform.transform_sales\nCREATE TABLE "mart"."_loadsheet_<number>" AS\n'
        + SQL["sales"]
        + "\n"
    )
    assert cli("plan", "shop", "--sql", "all").out.count("-- transform.") == 2


def test_sql_of_a_step_that_is_none_suggests_one(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop", "--sql", "oders")
    assert (result.code, result.out) == (2, "")
    assert "shop has no step 'oders' (did you mean 'orders'?)" in result.err


def test_an_exit_code_needs_something_to_compare_with(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop", "--exit-code")
    assert result.code == 2 and "add --connect or --diff REV" in result.err


def test_odd_names_are_shown_as_they_are(cli: Cli, project: Path) -> None:
    assert "odd [red]name" in cli("plan", "shop").out


def test_nothing_is_cut_for_a_pipe(cli: Cli, project: Path) -> None:
    names = [f"{'t' * 50}{n}" for n in range(9)]
    head = SPEC.replace("shop", "wide").partition("tables:")[0]
    tables = "".join(f"  {name}:\n" for name in names)
    reads_all = "SELECT 1 FROM " + ", ".join(f"staging.{name}" for name in names)
    write_pipeline(
        project, "wide", f"{head}tables:\n{tables}transforms:\n  all:\n", {"all": reads_all}
    )
    line = next(line for line in cli("plan", "wide").out.splitlines() if "after load" in line)
    assert all(name in line for name in names)


def test_json_names_every_step(cli: Cli, project: Path) -> None:
    document = cli("plan", "shop", "--json").json
    assert document["pipeline"] == "shop"
    steps = {step["id"]: step for step in document["steps"]}
    assert next(iter(steps)) == "create_bucket"
    assert steps["load.load_orders"] == {
        "id": "load.load_orders",
        "kind": "load",
        "name": "orders",
        "upstream": ["extract.extract_orders"],
        "task": "load.load_orders",
        "mode": "merge or append",
        "key": None,
        "cursor": "updated_at",
    }
    assert steps["transform.transform_report"]["upstream"] == [
        "load.load_customers",
        "transform.transform_sales",
    ]


@pytest.mark.parametrize("name", ["shop", "pipelines/shop", "pipelines/shop/pipeline.yml"])
def test_a_pipeline_is_named_or_pointed_at(cli: Cli, project: Path, name: str) -> None:
    assert cli("plan", name).out.startswith("shop: ")


def test_a_pipeline_is_found_by_its_name_whatever_its_folder(cli: Cli, project: Path) -> None:
    write_pipeline(project, "a_folder", SPEC.replace("shop", "other"))
    assert cli("plan", "other").out.startswith("other: ")


def test_an_unknown_pipeline_lists_the_known(cli: Cli, project: Path) -> None:
    write_pipeline(project, "broken", "version: 1")
    result = cli("plan", "shopp")
    assert (result.code, result.out) == (2, "")
    assert "there is no pipeline 'shopp' in" in result.err
    assert "(did you mean 'shop'?); it has: broken, shop" in result.err


@pytest.mark.parametrize(
    "name", ["nowhere/pipeline.yml", "nowhere.yml", "pipelines/nowhere", "pipelines/shop/sql"]
)
def test_a_path_to_nothing_is_wrong_input(cli: Cli, project: Path, name: str) -> None:
    result = cli("plan", name)
    assert (result.code, result.out) == (2, "")
    assert f"there is no file {name}" in result.err


@pytest.mark.parametrize("command", ["check", "plan shop", "run shop", "status", "render shop"])
def test_without_a_project_every_command_says_so(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli(*command.split())
    assert (result.code, result.out) == (2, "")
    assert "no pipelines in" in result.err and "--project DIR" in result.err


@pytest.mark.parametrize("command", ["check", "plan shop", "run shop", "status", "render shop"])
def test_a_project_that_is_none_is_refused(
    cli: Cli, project: Path, tmp_path: Path, command: str
) -> None:
    result = cli("--project", tmp_path / "nowhere", *command.split())
    assert (result.code, result.out) == (2, "")
    assert "is not a project: it has no folder pipelines/" in result.err


@pytest.mark.parametrize("command", ["plan shop", "run shop", "status shop", "render shop"])
def test_a_broken_spec_is_refused_with_all_its_problems(
    cli: Cli, project: Path, command: str
) -> None:
    text = SPEC.replace("merge, ", "upsrt, ").replace("customers:", "customers: {mod: append}")
    (project / "pipelines/shop/pipeline.yml").write_text(text)
    result = cli(*command.split())
    assert (result.code, result.out) == (2, "")
    assert (
        "pipelines/shop/pipeline.yml:8:" in result.err
        and "pipelines/shop/pipeline.yml:11:" in result.err
    )


def test_render_prints_yaml_for_dag_factory(cli: Cli, project: Path) -> None:
    result = cli("render", "shop")
    assert result.code == 0
    dag = yaml.safe_load(result.out)["shop"]
    assert "transform_report" in dag["tasks"]
    assert dag["tasks"]["extract_orders"]["spec"] == "pipelines/shop/pipeline.yml"


@pytest.mark.parametrize("wanted", ["load", "create_bucket"])
def test_a_step_without_sql_says_why(cli: Cli, project: Path, wanted: str) -> None:
    lines = cli("plan", "shop", "--sql", wanted).out.splitlines()
    assert lines and all(line.startswith("-- ") or not line for line in lines)
    assert ("--connect shows it" in lines[1]) == (wanted == "load")


def test_sql_of_no_step_is_not_the_whole_plan(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop", "--sql", "")
    assert (result.code, result.out) == (2, "")
    assert "shop has no step ''" in result.err


def test_one_table_is_not_called_tables(cli: Cli, project: Path) -> None:
    write_pipeline(
        project,
        "one",
        SPEC.replace("shop", "one").partition("tables:")[0] + "tables:\n  orders:\n",
        {},
    )
    assert cli("plan", "one").out.startswith("one: 1 table, 0 transforms, no schedule\n")


@pytest.mark.parametrize(("times", "shown"), [("", ""), (', times: "@daily"', "@daily and ")])
def test_the_assets_that_start_a_run_are_shown(
    cli: Cli, project: Path, times: str, shown: str
) -> None:
    schedule = f"schedule: {{assets: [mart.dim_customer, w.raw.x]{times}}}\n"
    write_pipeline(project, "after", schedule + SPEC.replace("shop", "after"))
    after = f"schedule {shown}after changes of mart.dim_customer, w.raw.x"
    assert cli("plan", "after").out.startswith(f"after: 3 tables, 2 transforms, {after}\n")
    document = json.loads(cli("plan", "after", "--json").out)
    assert document["assets"] == ["mart.dim_customer", "w.raw.x"]
    assert document["schedule"] == ("@daily" if times else None)
