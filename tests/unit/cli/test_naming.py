"""How a user may name a pipeline: by its name, by a path, and what is said about a slip. A broken
file with a name of its own was reported as missing; `./shop` and `x.yml` had no advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

NAMED = SPEC.replace("pipeline: shop", "pipeline: bravo")
COMMANDS = ("run", "plan", "status", "check", "render", "doctor", "grants", "test", "gc")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NAMED.replace("  customers:\n", "  customers: {moed: merge}\n"), "unknown key 'moed'"),
        (NAMED.replace("tables:\n", "tables\n"), "this key has no ':' after it"),
        (
            NAMED.replace("pipeline: bravo", 'pipeline: "bravo"  # ours').replace("1", "2"),
            "version",
        ),
    ],
    ids=("key", "syntax", "version"),
)
def test_a_broken_file_with_its_own_name_is_broken_and_not_missing(
    cli: Cli, project: Path, command: str, broken: str, message: str
) -> None:
    write_pipeline(project, "folder_a", broken)
    for name in ("bravo", "folder_a"):
        result = cli(command, name)
        assert result.code == 2
        assert "pipelines/folder_a/pipeline.yml:" in result.out + result.err
        assert message in result.out + result.err
        assert "there is no pipeline" not in result.err


def test_a_broken_file_is_listed_under_its_own_name(cli: Cli, project: Path) -> None:
    write_pipeline(project, "folder_a", NAMED.replace("tables:", "tabels:"))
    assert "(did you mean 'bravo'?); it has: bravo, shop" in cli("plan", "brvo").err


def test_the_folder_of_a_pipeline_with_another_name_tells_the_name(cli: Cli, project: Path) -> None:
    write_pipeline(project, "folder_a", NAMED)
    result = cli("plan", "folder_a")
    assert result.code == 2
    assert result.err == (
        "error: pipelines/folder_a/pipeline.yml is the pipeline 'bravo': write that name\n"
    )


@pytest.mark.parametrize(
    "name",
    ["shop", "pipelines/shop", "pipelines/shop/", "./pipelines/shop/pipeline.yml", "{project}"],
)
def test_a_path_is_understood_from_the_project_and_from_below_it(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    name = name.format(project=project / "pipelines" / "shop")
    assert cli("plan", name).out.startswith("shop: ")
    monkeypatch.chdir(project / "pipelines" / "shop" / "sql")
    assert cli("plan", name).out.startswith("shop: ")
    monkeypatch.chdir("/")
    assert cli("--project", project, "plan", name).out.startswith("shop: ")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SHOP", "there is no pipeline 'SHOP' in . (did you mean 'shop'?)"),
        ("shpo", "(did you mean 'shop'?)"),
        ("./shop", "there is no file shop (did you mean 'shop'?)"),
        ("shop.yml", "there is no file shop.yml (did you mean 'shop'?)"),
        ("shop/pipeline.yml", "there is no file shop/pipeline.yml (did you mean 'shop'?)"),
        ("pipelines/shpo", "there is no file pipelines/shpo (did you mean 'shop'?)"),
        ("pipeline.yml", "there is no file pipeline.yml; the project has: shop"),
        (".", "there is no file pipeline.yml; the project has: shop"),
        ("pipelines/shop/sql/sales.sql", "is not a pipeline file: its name must end in .yml"),
        ("nope", "there is no pipeline 'nope' in .; it has: shop"),
        ("n" * 5000, "it has: shop"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    cli: Cli, project: Path, command: str, name: str, message: str
) -> None:
    if command == "check" and name in (".", "./shop"):
        pytest.skip("it checks any folder, and takes a path for a name where there is no file")
    result = cli(command, name)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
