"""`loadsheet plan` and `render`: what would run, and the names people may use for a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline


def row(out: str, *starts: str) -> list[str]:
    return next(line.split("  ") for line in out.splitlines() if line.split()[: len(starts)] == list(starts))


def test_steps_are_listed_in_running_order(cli: Cli, project: Path) -> None:
    result = cli("plan", "shop")
    assert result.code == 0
    names = [line.split()[:2] for line in result.out.splitlines() if line.startswith((" ", "extract", "load", "trans"))]
    wanted = [["extract", "orders"], ["load", "customers"], ["transform", "sales"], ["transform", "report"]]
    assert [name for name in names if name in wanted] == wanted


def test_modes_keys_and_cursors_are_shown(cli: Cli, project: Path) -> None:
    out = cli("plan", "shop").out
    assert "shop: 3 tables, 2 transforms, no schedule" in out
    assert " ".join(row(out, "load", "orders")).split() == [
        "load", "orders", "merge", "or", "append", "from", "the", "catalog", "updated_at", "extract", "orders"
    ]  # fmt: skip
    assert "replace" in row(out, "load", "customers")
    assert "_load_id" in "".join(row(out, "transform", "sales"))
    assert "load customers; transform sales" in "".join(row(out, "transform", "report"))


def test_odd_names_are_shown_as_they_are(cli: Cli, project: Path) -> None:
    assert "odd [red]name" in cli("plan", "shop").out


def test_nothing_is_cut_for_a_pipe(cli: Cli, project: Path) -> None:
    names = [f"{'t' * 50}{n}" for n in range(9)]
    head = SPEC.replace("shop", "wide").partition("tables:")[0]
    tables = "".join(f"  {name}:\n" for name in names)
    reads_all = "SELECT 1 FROM " + ", ".join(f"staging.{name}" for name in names)
    write_pipeline(project, "wide", f"{head}tables:\n{tables}transforms:\n  all:\n", {"all": reads_all})
    line = next(line for line in cli("plan", "wide").out.splitlines() if line.startswith("transform "))
    assert all(name in line for name in names)


def test_json_names_every_step(cli: Cli, project: Path) -> None:
    document = cli("plan", "shop", "--json").json
    assert document["pipeline"] == "shop"
    steps = {step["id"]: step for step in document["steps"]}
    assert next(iter(steps)) == "create_bucket"
    assert steps["load.load_orders"] == {
        "id": "load.load_orders", "kind": "load", "name": "orders", "upstream": ["extract.extract_orders"],
        "mode": "merge or append", "key": None, "cursor": "updated_at",
    }  # fmt: skip
    assert steps["transform.transform_report"]["upstream"] == ["load.load_customers", "transform.transform_sales"]


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


@pytest.mark.parametrize("name", ["nowhere/pipeline.yml", "nowhere.yml", "pipelines/nowhere", "pipelines/shop/sql"])
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
def test_a_project_that_is_none_is_refused(cli: Cli, project: Path, tmp_path: Path, command: str) -> None:
    result = cli("--project", tmp_path / "nowhere", *command.split())
    assert (result.code, result.out) == (2, "")
    assert "is not a project: it has no folder pipelines/" in result.err


@pytest.mark.parametrize("command", ["plan shop", "run shop", "status shop", "render shop"])
def test_a_broken_spec_is_refused_with_all_its_problems(cli: Cli, project: Path, command: str) -> None:
    text = SPEC.replace("merge, ", "upsrt, ").replace("customers:", "customers: {mod: append}")
    (project / "pipelines/shop/pipeline.yml").write_text(text)
    result = cli(*command.split())
    assert (result.code, result.out) == (2, "")
    assert "pipelines/shop/pipeline.yml:8:" in result.err and "pipelines/shop/pipeline.yml:11:" in result.err


def test_render_prints_yaml_for_dag_factory(cli: Cli, project: Path) -> None:
    result = cli("render", "shop")
    assert result.code == 0
    dag = yaml.safe_load(result.out)["shop"]
    assert "transform_report" in dag["tasks"]
    assert dag["tasks"]["extract_orders"]["spec"] == "pipelines/shop/pipeline.yml"
