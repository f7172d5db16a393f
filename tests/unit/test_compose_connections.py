"""connections/ names what the pipelines ask for, and inside compose each connection reaches its own
service."""

from __future__ import annotations

import copy
import re
import textwrap
from typing import Any

import pytest
import yaml

from loadsheet.connections.export import export_connections
from tests.unit.compose_file import ROOT, STACK, VARIABLE, Stack

CONNECTIONS = yaml.safe_load((ROOT / "connections/connections.yml").read_text())
POSTGRES = {
    "flights_source": ("source", "source-reader"),
    "warehouse": ("warehouse", "warehouse-roles"),
}
"""Each connection's server, and the service that sets its role."""


def conn_ids(node: Any) -> set[str]:
    """Every connection id below a node of a pipeline file."""
    if not isinstance(node, dict):
        return set()
    here = {value for key, value in node.items() if key in ("conn_id", "slack_conn_id")}
    return here.union(*(conn_ids(value) for value in node.values()))


def test_the_connections_are_those_that_the_pipelines_name() -> None:
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("pipelines/*/pipeline.yml")]
    assert specs
    assert set().union(*map(conn_ids, specs)) == set(CONNECTIONS)
    specs[0]["source"]["conn_id"] = "flight_source"
    assert set().union(*map(conn_ids, specs)) != set(CONNECTIONS)


def problems(connections: dict[str, Any], services: Stack) -> list[str]:
    """Where a connection, filled in by airflow-init, does not fit the service behind it.

    A secret, or a user that can be changed, must come from the same `${VAR…}` on both sides.
    """
    init = services["airflow-init"]["environment"]

    def filled(field: str) -> str:
        return VARIABLE.sub(lambda match: init.get(match[1], ""), field)

    expected: list[tuple[str, str]] = []
    for conn_id, (service, roles) in POSTGRES.items():
        connection, role = connections[conn_id], services[roles]["environment"]
        expected += [
            (filled(connection["host"]), service),
            (filled(connection["port"]), services[service]["ports"][0].rsplit(":", 1)[1]),
            (filled(connection["schema"]), role["ROLE_DATABASE"]),
            (filled(connection["login"]), role["ROLE"]),
            (filled(connection["password"]), role["ROLE_PASSWORD"]),
        ]
    connection, server = connections["lake"], services["lake"]["environment"]
    expected += [
        (
            filled(connection["extra"]["endpoint_url"]),
            "http://lake:" + services["lake"]["ports"][0].rsplit(":", 1)[1],
        ),
        (filled(connection["login"]), server["MINIO_ROOT_USER"]),
        (filled(connection["password"]), server["MINIO_ROOT_PASSWORD"]),
    ]
    written_out = [
        c for c in connections.values() if not re.fullmatch(r"\$\{\w+(:-)?\}", c["password"])
    ]
    return [f"{found} instead of {right}" for found, right in expected if found != right] + list(
        map(str, written_out)
    )


def test_each_connection_reaches_its_service_with_its_credentials() -> None:
    assert problems(CONNECTIONS, STACK["services"]) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("connections.warehouse.host", "localhost"),
        ("connections.warehouse.password", "warehouse"),
        ("connections.flights_source.login", "${WAREHOUSE_USER}"),
        ("connections.lake.password", "${LAKE_ACCESS_KEY}"),
        ("services.airflow-init.environment.FLIGHTS_SOURCE_HOST", "127.0.0.1"),
        ("services.airflow-init.environment.WAREHOUSE_PORT", "5434"),
        ("services.airflow-init.environment.LAKE_ENDPOINT_URL", "http://minio:9000"),
        ("services.source-reader.environment.ROLE_DATABASE", "bookings"),
        ("connections.slack.password", "T0/B0/secret"),
    ],
)
def test_a_connection_that_differs_from_its_service_does_not_pass(path: str, value: str) -> None:
    both: Any = copy.deepcopy({"connections": CONNECTIONS, "services": STACK["services"]})
    *above, last = path.split(".")
    node = both
    for name in above:
        node = node[name]
    node[last] = value
    assert problems(both["connections"], both["services"])


def test_the_init_fills_in_everything_that_the_import_needs() -> None:
    environment = {
        name: VARIABLE.sub(lambda match: match[3] if match[2] == ":-" else "secret", value)
        for name, value in STACK["services"]["airflow-init"]["environment"].items()
    }
    found = export_connections(ROOT, environment)
    assert found["warehouse"]["port"] == 5432
    assert found["lake"]["extra"] == {"endpoint_url": "http://lake:9000", "region": "us-east-1"}
    assert "${" not in str(found)


def test_the_runbook_gives_the_lakes_new_address_to_the_service_that_fixes_it() -> None:
    page = (ROOT / "docs/runbooks.md").read_text()
    section = page[page.index("## Move the lake") : page.index("## Rotate a secret")]
    blocks = re.findall(r"```yaml\n(.*?)```", section, re.S)
    override = yaml.safe_load(textwrap.dedent("    " + blocks[0].lstrip()))
    for service, change in override["services"].items():
        fixed = STACK["services"][service]["environment"]
        # A value of .env does not get past one that is written out here.
        assert {name for name in change["environment"] if "${" not in fixed[name]} == {
            "LAKE_ENDPOINT_URL"
        }
