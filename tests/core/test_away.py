"""Every command that meets a server which is away says which connection it used."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from loadsheet.cli.main import app
from tests.project import Project

AWAY = {
    "shop_source": "postgresql://reader:secret@127.0.0.1:1/shop",
    "warehouse": "postgresql://loader:secret@127.0.0.1:1/warehouse",
    "lake": (
        '{"conn_type": "generic", "login": "key", "password": "secretkey",'
        ' "extra": {"endpoint_url": "http://127.0.0.1:1"}}'
    ),
}


@pytest.mark.parametrize(
    ("arguments", "conn_id"),
    [
        (("run", "shop"), "shop_source"),
        (("run", "shop"), "warehouse"),
        (("run", "shop"), "lake"),
        (("plan", "shop", "--connect"), "shop_source"),
        (("plan", "shop", "--connect"), "warehouse"),
        (("status", "shop"), "shop_source"),
        (("status", "shop"), "warehouse"),
        (("verify", "shop"), "shop_source"),
        (("verify", "shop"), "warehouse"),
        (("new", "other", "--source", "shop_source"), "shop_source"),
        (("add", "shop", "country"), "shop_source"),
        (("adopt", "other", "shop"), "warehouse"),
        (("gc", "shop"), "warehouse"),
        (("gc", "shop"), "lake"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_server_that_is_away_is_named(
    project: Project, arguments: tuple[str, ...], conn_id: str
) -> None:
    """Nine of these only said `connection failed` or `Connection refused`."""
    project.in_source("CREATE TABLE thing (id int PRIMARY KEY)")
    project.in_source("CREATE TABLE country (id int PRIMARY KEY)")
    project.spec({"thing": None}, tasks={"retries": 0})
    project.succeed()
    environment = {**project.environment(), f"AIRFLOW_CONN_{conn_id.upper()}": AWAY[conn_id]}
    command = ["--project", str(project.folder), *arguments]
    result = CliRunner().invoke(app, command, env=environment)
    assert f"connection '{conn_id}'" in result.output and "refused" in result.output
