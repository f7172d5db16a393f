"""A loaded pipeline to be broken, and troubles with its real servers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from demo.servers import PostgresServer
from loadsheet import postgres as sessions
from loadsheet.engine.runner import Retry, StepResult, run_pipeline
from loadsheet.lake.store import Lake
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from tests.faults.oracle import judge, violations
from tests.project import Project, fetch

__all__ = [
    "EXTRACT",
    "LOAD",
    "MORE",
    "RETRIES",
    "SOURCE",
    "TRANSFORM",
    "Hook",
    "Shop",
    "a_bucket_removed_on_the_way",
    "a_constraint_of_somebody_else",
    "a_database_closed_for_connections",
    "a_lake_that_is_not_there",
    "a_lock_held_by_another",
    "a_missing_database",
    "a_missing_privilege_in_the_source",
    "a_missing_privilege_in_the_warehouse",
    "a_missing_table",
    "a_read_only_warehouse",
    "a_server_that_is_not_there",
    "a_session_ended_by_an_administrator",
    "a_wrong_key_of_the_lake",
    "a_wrong_password",
    "idle",
    "shop",
    "sql_that_stumbles_over_a_value",
    "too_many_connections",
]


SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, name text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, 'Ada ' || i FROM generate_series(1, 100) i;
"""
MORE = (
    "INSERT INTO item SELECT i, 'Ada ' || i FROM generate_series((SELECT max(id) + 1 FROM item),"
    " 150) i"
)
RETRIES = 2
EXTRACT, LOAD, TRANSFORM = "extract.extract_item", "load.load_item", "transform.transform_names"
# Called for each `started` step and for each progress; whatever it does happens in the middle of
# the step.
Hook = Callable[[Step, str], None]


@dataclass
class Shop:
    """A pipeline with a merged table and a mart, its servers, and what happened in its last run."""

    project: Project
    server: PostgresServer
    role: str
    run_id: str = ""
    waits: list[Retry] = field(default_factory=list)

    def run(
        self,
        hook: Hook = lambda step, moment: None,
        on_wait: Callable[[Retry], None] = lambda retry: None,
        parallel: int = 2,
    ) -> dict[str, StepResult]:
        """One run with retries, as `loadsheet run` makes them; `on_wait` is called before each."""
        self.run_id = f"manual__{secrets.token_hex(4)}"
        self.waits.clear()

        def on_step(step: Step, state: str, result: Any) -> None:
            if isinstance(result, Retry):
                self.waits.append(result)
                on_wait(result)
            elif state == "started":
                hook(step, state)

        pipeline = load_pipeline(self.project.folder / "pipelines" / "shop" / "pipeline.yml")
        return run_pipeline(
            pipeline,
            RunRequest(run_id=self.run_id),
            self.project.connections,
            on_step=on_step,
            progress=lambda step, rows, size: hook(step, "progress"),
            parallel=parallel,
            retrying=True,
        )

    def administer(self, statement: str, database: str = "postgres") -> None:
        """Run SQL as the superuser."""
        fetch(self.server.dsn(database), statement)

    @property
    def warehouse(self) -> str:
        """The warehouse database's name."""
        return self.project.connections("warehouse").schema

    @property
    def origin(self) -> str:
        """The source database's name."""
        return self.project.connections("shop_source").schema

    def converges(self) -> None:
        """With the trouble gone, the next run succeeds and nothing is lost or doubled."""
        self.project.succeed()
        assert not judge(self.project, "item") and violations(self.project) == []


@pytest.fixture
def shop(project: Project, postgres: PostgresServer) -> Shop:
    """Loaded once, with more rows waiting in the source; a role of its own, because superusers have
    no limits."""
    role = f"role_{secrets.token_hex(4)}"
    made = Shop(project, postgres, role)
    made.administer(f"CREATE ROLE {role} LOGIN PASSWORD 'p4ss'")
    for name in (made.warehouse, made.origin):
        made.administer(f'ALTER DATABASE "{name}" OWNER TO {role}')
    project.source, project.warehouse = (
        dsn.replace(f"{postgres.user}:{postgres.password}@", f"{role}:p4ss@")
        for dsn in (project.source, project.warehouse)
    )
    made.administer(f"GRANT pg_read_all_stats TO {role}; GRANT pg_signal_backend TO {role}")
    made.administer(f"GRANT CREATE ON SCHEMA public TO {role}", made.origin)
    project.in_source(SOURCE)
    project.spec(
        {"item": {"incremental": "at"}},
        {"names": "SELECT name FROM staging.item"},
        tasks={"retries": RETRIES, "retry_delay": "0s"},
    )
    project.succeed()
    project.in_source(MORE)
    return made


def idle(step: Step, moment: str) -> None:
    """No hook."""


# Each makes its trouble, yields the hook for the run, and undoes the trouble.


@contextmanager
def a_lock_held_by_another(shop: Shop) -> Iterator[Hook]:
    with (
        pytest.MonkeyPatch.context() as patched,
        psycopg.connect(shop.project.warehouse, application_name="report tool") as other,
    ):
        patched.setitem(sessions.WAREHOUSE_SETTINGS, "lock_timeout", "200ms")
        other.execute("LOCK staging.item IN SHARE MODE")
        yield idle
        other.rollback()


@contextmanager
def a_session_ended_by_an_administrator(shop: Shop) -> Iterator[Hook]:
    def end(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("load", "progress"):
            shop.administer(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
                f" '{shop.warehouse}' AND application_name LIKE 'loadsheet%'"
            )

    yield end


@contextmanager
def a_wrong_password(shop: Shop) -> Iterator[Hook]:
    right = shop.project.source
    shop.project.source = right.replace(":p4ss@", ":wr0ng@")
    yield idle
    shop.project.source = right


@contextmanager
def a_missing_database(shop: Shop) -> Iterator[Hook]:
    right = shop.project.warehouse
    shop.project.warehouse = f"{right}_gone"
    yield idle
    shop.project.warehouse = right


@contextmanager
def a_server_that_is_not_there(shop: Shop) -> Iterator[Hook]:
    right = shop.project.source
    shop.project.source = right.replace(f":{shop.server.port}/", ":1/")
    yield idle
    shop.project.source = right


@contextmanager
def a_database_closed_for_connections(shop: Shop) -> Iterator[Hook]:
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" ALLOW_CONNECTIONS false')
    yield idle
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" ALLOW_CONNECTIONS true')


@contextmanager
def too_many_connections(shop: Shop) -> Iterator[Hook]:
    shop.administer(f"ALTER ROLE {shop.role} CONNECTION LIMIT 1")
    yield idle
    shop.administer(f"ALTER ROLE {shop.role} CONNECTION LIMIT -1")


@contextmanager
def a_read_only_warehouse(shop: Shop) -> Iterator[Hook]:
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" SET default_transaction_read_only = on')
    yield idle
    shop.administer(f'ALTER DATABASE "{shop.warehouse}" RESET default_transaction_read_only')


@contextmanager
def a_missing_privilege_in_the_source(shop: Shop) -> Iterator[Hook]:
    shop.project.in_source(f"REVOKE SELECT ON item FROM {shop.role}")
    yield idle
    shop.project.in_source(f"GRANT SELECT ON item TO {shop.role}")


@contextmanager
def a_missing_privilege_in_the_warehouse(shop: Shop) -> Iterator[Hook]:
    shop.project.in_warehouse(f"REVOKE INSERT ON staging.item FROM {shop.role}")
    yield idle
    shop.project.in_warehouse(f"GRANT INSERT ON staging.item TO {shop.role}")


@contextmanager
def a_missing_table(shop: Shop) -> Iterator[Hook]:
    shop.project.in_source("ALTER TABLE item RENAME TO items")
    yield idle
    shop.project.in_source("ALTER TABLE items RENAME TO item")


@contextmanager
def a_constraint_of_somebody_else(shop: Shop) -> Iterator[Hook]:
    shop.project.in_warehouse("ALTER TABLE staging.item ADD CONSTRAINT mine CHECK (id < 120)")
    yield idle
    shop.project.in_warehouse("ALTER TABLE staging.item DROP CONSTRAINT mine")


@contextmanager
def sql_that_stumbles_over_a_value(shop: Shop) -> Iterator[Hook]:
    file = shop.project.folder / "pipelines" / "shop" / "sql" / "names.sql"
    right = file.read_text()
    file.write_text("SELECT name::int FROM staging.item")
    yield idle
    file.write_text(right)


@contextmanager
def a_wrong_key_of_the_lake(shop: Shop) -> Iterator[Hook]:
    lake = shop.project.s3
    right, lake.secret_key = lake.secret_key, "wrong-wrong-wrong"
    yield idle
    lake.secret_key = right


@contextmanager
def a_lake_that_is_not_there(shop: Shop) -> Iterator[Hook]:
    lake = shop.project.s3
    right, lake.port = lake.port, 1
    yield idle
    lake.port = right


@contextmanager
def a_bucket_removed_on_the_way(shop: Shop) -> Iterator[Hook]:
    lake = Lake(shop.project.connections("lake"), shop.project.bucket)

    def remove(step: Step, moment: str) -> None:
        if (step.kind, moment) == ("extract", "started"):
            for name in shop.project.objects():
                lake.remove(name)
            lake._client.remove_bucket(bucket_name=shop.project.bucket)

    yield remove
