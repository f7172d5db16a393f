"""A run asks each of its servers once, before its first step, and says once what it is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.servers import PostgresServer
from tests.core.shop import MART, SOURCE, TABLES
from tests.project import Project, fetch

AWAY = "postgresql://nobody:secret@127.0.0.1:1/none"
PATIENT = {"retries": 1, "retry_delay": "1s"}
HASTY = {"retries": 0}


@pytest.fixture
def shop(project: Project) -> Project:
    project.in_source(SOURCE)
    project.spec(TABLES, MART, tasks=PATIENT)
    return project


def wrong_password(shop: Project) -> str:
    shop.source = shop.source.replace("loadsheet:", "loadsheet:not-", 1)
    return "password authentication failed"


def no_database(shop: Project) -> str:
    shop.warehouse += "_none"
    return "does not exist"


def no_tls(shop: Project) -> str:
    shop.warehouse += "?sslmode=require"
    return "does not support SSL"


def unknown_service(shop: Project) -> str:
    shop.source += "?service=nope"
    return "nope"


@pytest.mark.parametrize("wrong", [wrong_password, no_database, no_tls, unknown_service])
def test_what_waiting_cannot_help_ends_the_run_before_its_first_step(
    shop: Project, wrong: Callable[[Project], str]
) -> None:
    """The old code said it for each table, and waited for retries of what looked like a lost
    connection."""
    told = wrong(shop)
    done = shop.cli("run", "shop")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count(told) == 1 and "waiting" not in done.stderr
    assert "(connection '" in done.stderr and "not-" not in done.stderr


def test_a_wrong_port_is_said_at_once_and_once(shop: Project) -> None:
    """The old code said it once per table, after the retries of each: 60 s by default."""
    shop.source = AWAY
    done = shop.cli("run", "shop")
    assert (done.returncode, done.stdout) == (1, "")
    first, waiting, last = done.stderr.splitlines()
    assert first.startswith("the source (connection 'shop_source'): ")
    assert waiting.startswith("waiting up to 1 s")
    assert last == f"error: {first}"
    assert "secret" not in done.stderr


def test_without_retries_nothing_is_waited_for(shop: Project) -> None:
    shop.spec(TABLES, MART, tasks=HASTY)
    shop.source = shop.warehouse = AWAY
    done = shop.cli("run", "shop", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("SQLSTATE 08001") == 2 and "waiting" not in done.stderr


def test_all_that_is_wrong_is_said_together(shop: Project) -> None:
    shop.source += "?sslmod=verify-full"
    shop.warehouse = AWAY
    shop.s3 = type(shop.s3)()  # one that was never started
    shop.s3.port = 1
    done = shop.cli("run", "shop")
    assert done.returncode == 2 and "waiting" not in done.stderr
    for told in ("'sslmode'", "the warehouse (connection", "the lake (connection"):
        assert done.stderr.count(told) == 1, done.stderr


def test_a_server_that_is_restarting_is_waited_for(
    shop: Project, tmp_path: Path, postgres: PostgresServer
) -> None:
    """The source begins to answer when the run has said that it waits."""
    shop.spec(TABLES, MART, tasks={"retries": 3, "retry_delay": "20s"})
    database = shop.connections("shop_source").schema
    fetch(postgres.dsn("postgres"), f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
    fetch(postgres.dsn("postgres"), "DROP ROLE IF EXISTS waiter")
    fetch(
        postgres.dsn("postgres"),
        "CREATE ROLE waiter LOGIN PASSWORD 'w' IN ROLE pg_read_all_data, pg_read_all_stats",
    )
    shop.source = f"postgresql://waiter:w@{postgres.host}:{postgres.port}/{database}"
    with subprocess.Popen(
        shop.command("run", "shop", "--json"),
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr and run.stdout
        assert "too many connections" in run.stderr.readline()
        assert run.stderr.readline().startswith("waiting up to 60 s")
        fetch(postgres.dsn("postgres"), f'ALTER DATABASE "{database}" CONNECTION LIMIT -1')
        document = json.loads(run.stdout.read())
    assert run.returncode == 0, document
    assert {step["tries"] for step in document["steps"]} == {1}
