"""A command that has waited too long for a lock names who holds it, since when, and what to do."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from loadsheet.cli.main import app
from loadsheet.engine import lock_holders
from tests.core.shop import SOURCE
from tests.project import Project

TABLES: dict[str, Any] = {"customer": {"incremental": "at"}, "country": None}
MARTS = {"names": "SELECT name FROM staging.customer"}
KEY = "SELECT pg_advisory_xact_lock{shared}(hashtextextended('loadsheet:{key}', 0))"
RESTORES = KEY.format(shared="_shared", key="lake:shop")
COLLECTS = KEY.format(shared="", key="lake:shop")
LOADS = KEY.format(shared="", key="staging.customer")
# What a command waits for: what the other session does, and what the lock is called.
WAITS = {
    "gc": (RESTORES, "the loads of shop in the lake"),
    "restore": (COLLECTS, "the loads of shop in the lake"),
    "restore, loaded": (LOADS, "staging.customer"),
    "restore, read": ("LOCK staging.customer IN ACCESS SHARE MODE", "staging.customer"),
    "restore --into": (
        KEY.format(shared="", key="audit.customer"),
        "audit.customer",
    ),
    "verify customer": ("LOCK staging.customer", "staging.customer"),
    "verify names": ("LOCK mart.names", "mart.names"),
    "adopt": ("SELECT FROM loadsheet.scope FOR UPDATE", "loadsheet.scope"),
    "gc --sample": ("LOCK staging_sample.customer", "staging_sample.customer"),
    "run, loaded": (LOADS, "staging.customer"),
    "run, fenced": (KEY.format(shared="", key="fence:shop:customer"), "staging.customer"),
    "run, read": ("LOCK staging.customer", "staging.customer"),
}
RENAMED = """
UPDATE loadsheet.scope SET pipeline = '{0}' WHERE target = 'staging.country';
UPDATE loadsheet.load SET pipeline = '{0}' WHERE target = 'staging.country'
"""
COMMANDS = {
    "gc": ("gc", "shop", "--keep", "1", "--older-than", "1h"),
    "restore": ("restore", "shop", "customer"),
    "restore --into": ("restore", "shop", "customer", "--into", "audit.customer"),
    "verify customer": ("verify", "shop", "customer"),
    "verify names": ("verify", "shop", "names"),
    "adopt": ("adopt", "before", "shop"),
    "gc --sample": ("gc", "shop", "--sample"),
    "run": ("run", "shop", "--tables", "customer"),
}


def command(project: Project, *arguments: str) -> Result:
    """A command in this process that waits for no lock."""
    environment = project.environment()
    environment["AIRFLOW_CONN_WAREHOUSE"] += "?options=-c%20lock_timeout%3D50ms"
    result = CliRunner().invoke(
        app, ["--project", str(project.folder), *arguments], env=environment
    )
    assert result.exit_code in (0, 1), result.output
    return result


def waited(project: Project, what: str) -> str:
    arguments = COMMANDS[what.partition(",")[0]]
    if arguments[0] == "run":
        project.in_source("UPDATE customer SET at = clock_timestamp() WHERE id = 1")
    result = command(project, *arguments)
    assert result.exit_code == 1, (what, result.output)
    return " ".join((result.stdout + result.stderr).split())


def test_who_holds_the_lock_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.in_source(SOURCE)
    project.spec(TABLES, MARTS, tasks={"retries": 0})
    project.succeed()
    assert command(project, "run", "shop", "--sample", "5").exit_code == 0
    project.as_loader("CREATE SCHEMA audit")
    for what, (statement, name) in WAITS.items():
        if what == "adopt":
            project.in_warehouse(RENAMED.format("before"))
        # Of another role's sessions, only members of pg_read_all_stats see the time.
        with psycopg.connect(f"{project.uri('warehouse')}?application_name=by_hand") as holder:
            holder.execute(statement)
            text = waited(project, what)
            expected = f"A lock on {name} is held by session {holder.info.backend_pid} ("
            assert expected in text, (what, text)
            assert "by_hand, idle in transaction, since 20" in text, (what, text)
            assert "Next: end that session, or wait until it has finished" in text, (what, text)
            # The control: the server's own message names nobody.
            with monkeypatch.context() as patched:
                patched.setattr(lock_holders, "holders", lambda *given: "")
                assert "by_hand" not in waited(project, what), what
        project.in_warehouse(RENAMED.format("shop"))
