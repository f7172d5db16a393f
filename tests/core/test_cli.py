"""The command line as people use it: on any project folder and any PostgreSQL source, without
Airflow."""

from __future__ import annotations

import json

import pytest

from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART)
    return project


def test_a_project_is_checked_planned_run_and_asked_for_its_status(shop: Project) -> None:
    check = shop.cli("check")
    assert check.returncode == 0, check.stdout + check.stderr
    plan = shop.cli("plan", "shop", "--json")
    steps = json.loads(plan.stdout)["steps"]
    assert [s["id"] for s in steps] == [
        "create_bucket",
        "extract.extract_customer",
        "extract.extract_country",
        "load.load_customer",
        "load.load_country",
        "transform.transform_names",
    ]
    run = shop.cli("run", "shop", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert [s["id"] for s in json.loads(run.stdout)["steps"]] == [s["id"] for s in steps]
    assert {s["status"] for s in json.loads(run.stdout)["steps"]} == {"done"}
    assert shop.differences("customer") == shop.differences("country") == 0
    status = json.loads(shop.cli("status", "shop", "--json").stdout)
    assert "100" in json.dumps(status)


def test_vv_names_the_servers_and_shows_the_sql_but_no_values(shop: Project) -> None:
    log = shop.cli("-vv", "run", "shop").stderr
    assert "INFO loadsheet.postgres: connected to shop_source: PostgreSQL 1" in log
    assert "DEBUG loadsheet.postgres: COPY " in log and "manifest.json" in log
    assert "load.load_customer of shop: done" in log
    assert "name 1" not in log and "Norway" not in log
    assert "connected to" not in shop.cli("run", "shop").stderr


def test_a_run_with_nothing_new_exits_0_and_says_so(shop: Project) -> None:
    shop.cli("run", "shop")
    again = shop.cli("run", "shop")
    assert again.returncode == 0
    first, second, last = again.stdout.splitlines()
    assert first.startswith("skipped ") and first.endswith(" nothing new")
    assert second.startswith("skipped ") and second.endswith("nothing it reads has changed")
    assert last.startswith("shop: 1 done, ")


def test_selected_tables_and_full_refresh(shop: Project) -> None:
    shop.cli("run", "shop")
    shop.in_source("DELETE FROM customer WHERE id = 1; DELETE FROM country WHERE code = 'no'")
    assert shop.cli("run", "shop", "--tables", "customer", "--full-refresh").returncode == 0
    assert (shop.differences("customer"), shop.differences("country")) == (0, 1)


def test_a_failed_step_exits_1_and_the_rest_is_done(shop: Project) -> None:
    shop.in_source("ALTER TABLE country RENAME TO countries")
    run = shop.cli("run", "shop")
    assert run.returncode == 1
    assert "did you mean 'countries'?" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert shop.differences("customer") == 0


def test_a_renamed_table_is_called_by_its_new_name(shop: Project) -> None:
    """The hint was the most similar name, of another table."""
    shop.cli("run", "shop")
    shop.in_source("CREATE TABLE countries (id int); ALTER TABLE country RENAME TO nations")
    run = shop.cli("run", "shop")
    assert run.returncode == 1 and "it is called public.nations now" in run.stdout
    plan = shop.cli("plan", "shop", "--connect", "--json")
    assert "it is called public.nations now" in plan.stdout
    # The control: a table with the oid that has other columns is another server's.
    shop.in_source("ALTER TABLE nations RENAME COLUMN name TO label")
    assert "did you mean 'countries'?" in shop.cli("run", "shop").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "shopp"], "shop"),
        (["run", "shop", "--tables", "custommer"], "customer"),
        (["plan", "nothing"], "shop"),
    ],
)
def test_a_misspelt_name_exits_2_with_the_known_ones(
    shop: Project, arguments: list[str], expected: str
) -> None:
    result = shop.cli(*arguments)
    assert result.returncode == 2
    assert expected in result.stderr + result.stdout and "Traceback" not in result.stderr


def test_connections_come_from_the_project_and_its_env_file(shop: Project) -> None:
    folder = shop.folder / "connections"
    folder.mkdir()
    source, lake = shop.connections("shop_source"), shop.connections("lake")
    warehouse = shop.connections("warehouse")
    (folder / "connections.yml").write_text(
        "shop_source: {conn_type: postgres, host: 127.0.0.1, port: '${PORT}',"
        f" login: {source.login}, password: '${{SECRET}}', schema: {source.schema}}}\n"
        "warehouse: {conn_type: postgres, host: 127.0.0.1, port: '${PORT}',"
        f" login: {warehouse.login}, password: '${{SECRET}}', schema: {warehouse.schema}}}\n"
        f"lake: {{conn_type: generic, login: '{lake.login}', password: '{lake.password}', "
        f"extra: {{endpoint_url: '{lake.extra['endpoint_url']}'}}}}\n"
    )
    shop.environment = lambda: {"PATH": "/usr/bin:/bin"}  # type: ignore[method-assign]
    missing = shop.cli("run", "shop")
    assert missing.returncode == 2 and "PORT" in missing.stderr
    (shop.folder / ".env").write_text(f"PORT={source.port}\nSECRET={source.password}\n")
    assert shop.cli("run", "shop").returncode == 0
    assert shop.differences("customer") == 0
