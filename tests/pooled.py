"""Puts a transaction pooler in front of every source and warehouse of a test's project.

A pytest plugin: `pytest -p tests.pooled tests/core`. PgBouncer is used where it is installed, else
the tests' own pooler, which is harsher.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from loadsheet.connections.lookup import Connection
from tests.faults.pooler import PGBOUNCER, Pooler, pgbouncer, through
from tests.project import Project

NOT_BEHIND_A_POOLER = {
    "test_a_source_that_is_away_keeps_no_run_waiting_for_ever_however_many_tables_it_has": (
        "a pooler holds its clients while the server is away"
    ),
    "test_a_server_that_stops_in_the_middle_is_named": "the pooler's error has another code",
    "test_a_session_on_the_warehouse_that_was_ended_while_rows_are_read_is_replaced": (
        "the pooler replaces the session, so the control does not fail"
    ),
    "test_what_waiting_cannot_help_ends_the_run_before_its_first_step[wrong_password]": (
        "the pooler lets every password in"
    ),
    "test_what_waiting_cannot_help_ends_the_run_before_its_first_step[no_tls]": (
        "the pooler is asked without the URI's options"
    ),
    "test_what_waiting_cannot_help_ends_the_run_before_its_first_step[unknown_service]": (
        "the pooler is asked without the URI's options"
    ),
    "test_all_that_is_wrong_is_said_together": "the pooler lets every password in",
}
"""The name of a test, or of one of its cases -> why it cannot hold there."""
_open = ExitStack()
_ports: dict[int | None, int] = {}
"""The port of each server -> that of its pooler."""
_connections = Project.connections
_environment = Project.environment


def _pooler_of(dsn: str) -> int | None:
    """The port of the pooler for the database; None for a role that the pooler does not know."""
    url = urlsplit(dsn)
    if url.username != "loadsheet":
        return None
    if url.port not in _ports:
        if PGBOUNCER:
            _ports[url.port] = _open.enter_context(pgbouncer(dsn))
        else:
            _ports[url.port] = _open.enter_context(Pooler(dsn)).port
    return _ports[url.port]


def _pooled_connections(project: Project, conn_id: str) -> Connection:
    connection = _connections(project, conn_id)
    if conn_id == "lake":
        return connection
    port = _pooler_of(project.source if conn_id == "shop_source" else project.warehouse)
    return replace(connection, port=port) if port else connection


def _pooled_environment(project: Project) -> dict[str, str]:
    environment = _environment(project)
    databases = {
        "AIRFLOW_CONN_SHOP_SOURCE": project.source,
        "AIRFLOW_CONN_WAREHOUSE": project.warehouse,
    }
    for name, dsn in databases.items():
        port = _pooler_of(dsn)
        if port:
            environment[name] = through(port, dsn)
    return environment


def pytest_configure() -> None:
    Project.connections = _pooled_connections  # type: ignore[method-assign]
    Project.environment = _pooled_environment  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.name if item.name in NOT_BEHIND_A_POOLER else item.name.partition("[")[0]
        reason = NOT_BEHIND_A_POOLER.get(name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_sessionfinish(session: pytest.Session) -> None:
    _open.close()
