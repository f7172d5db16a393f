"""Puts a transaction pooler in front of every source and warehouse of a test's project.

A pytest plugin: `pytest -p tests.pooled tests/core`. PgBouncer is used where it is installed, else
the tests' own pooler, which is harsher.
"""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from tests.faults import workers
from tests.faults.pooler import PGBOUNCER, Pooler, pgbouncer, through
from tests.granted import ADMINISTRATOR, PASSWORD
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
_ports: dict[str, int] = {}
"""Login and address of a server -> the port of a pooler; of the test that runs."""
_uri = Project.uri


def _pooled_uri(project: Project, conn_id: str) -> str:
    uri = _uri(project, conn_id)
    url = urlsplit(uri)
    # The pooler knows no roles that a test has made.
    if url.username != ADMINISTRATOR and url.password != PASSWORD:
        return uri
    if url.netloc not in _ports:
        _ports[url.netloc] = _pooler(project, conn_id, uri)
    return through(_ports[url.netloc], uri)


def _pooler(project: Project, conn_id: str, uri: str) -> int:
    if PGBOUNCER:
        return _open.enter_context(pgbouncer([uri]))
    return _open.enter_context(
        Pooler(project.source if conn_id == "shop_source" else project.warehouse)
    ).port


def pytest_configure() -> None:
    Project.uri = _pooled_uri  # type: ignore[method-assign]
    # What a step may leave in a pooler's session is a transaction or a lock.
    workers.session_is_ours = "state IS DISTINCT FROM 'idle'"


def pytest_runtest_teardown() -> None:
    _ports.clear()
    _open.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.name if item.name in NOT_BEHIND_A_POOLER else item.name.partition("[")[0]
        reason = NOT_BEHIND_A_POOLER.get(name)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
