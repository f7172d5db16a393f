"""docs/runbooks.md, followed: after each restore, move and roll back, the page brings staging back
to the source."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo.servers import S3Server
from loadsheet.warehouse.ledger import VERSION
from tests.project import ROOT, Project, client_programs

PAGE = (ROOT / "docs" / "runbooks.md").read_text()
SOURCE = """
CREATE TABLE orders (id int PRIMARY KEY, total int, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE log (n bigserial PRIMARY KEY, what text);
CREATE TABLE whole (id int PRIMARY KEY);
INSERT INTO orders SELECT n, n FROM generate_series(1, 100) n;
INSERT INTO log (what) SELECT 'a' FROM generate_series(1, 100) n;
INSERT INTO whole SELECT n FROM generate_series(1, 100) n;
"""
TABLES = {
    "orders": {"incremental": "updated_at"},
    "log": {"incremental": "n", "mode": "append"},
    "whole": None,
}
A_DAY = """
UPDATE orders SET total = total + 1, updated_at = clock_timestamp() WHERE id % 7 = 0;
INSERT INTO orders SELECT max(id) + 1, 0 FROM orders;
INSERT INTO log (what) SELECT 'b' FROM generate_series(1, 10) n;
DELETE FROM whole WHERE id = (SELECT min(id) FROM whole);
"""


@pytest.fixture
def shop(project: Project) -> Iterator[Project]:
    """Three tables, loaded once."""
    project.in_source(SOURCE)
    project.spec(TABLES)
    project.succeed()
    yield project


def a_day(shop: Project) -> None:
    """Change the source, run, and expect that nothing differs."""
    shop.in_source(A_DAY)
    shop.succeed()
    assert differing(shop) == {}


def differing(shop: Project) -> dict[str, int]:
    """Rows by which staging and the source differ; equal tables left out."""
    counts = {table: shop.differences(table) for table in TABLES}
    return {table: count for table, count in counts.items() if count}


def tool(shop: Project, line: str, file: Path) -> None:
    """Run a command of the page on the test's warehouse."""
    assert line in PAGE, f"the page does not say: {line}"
    at = urlsplit(shop.warehouse)
    environment = {
        "PATH": f"{client_programs(shop.warehouse)}:{os.environ['PATH']}",
        "PGHOST": at.hostname or "",
        "PGPORT": str(at.port),
        "PGUSER": at.username or "",
        "PGPASSWORD": at.password or "",
    }
    command = line.replace("=warehouse", f"={at.path[1:]}")
    for dump in ("warehouse.dump", "ledger.dump"):
        command = command.replace(dump, str(file))
    subprocess.run(command, shell=True, env=environment, check=True, timeout=60)


def backup(shop: Project, file: Path) -> None:
    tool(shop, "pg_dump --format=custom --dbname=warehouse > warehouse.dump", file)


def restore(shop: Project, file: Path) -> None:
    drop = "DROP SCHEMA IF EXISTS loadsheet, staging, mart CASCADE"
    tool(shop, f'psql --dbname=warehouse --command="{drop}"', file)
    tool(
        shop,
        "pg_restore --single-transaction --clean --if-exists --dbname=warehouse < warehouse.dump",
        file,
    )


def test_a_restored_warehouse_goes_on_from_what_it_holds(shop: Project, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    backup(shop, dump)
    a_day(shop)
    restore(shop, dump)
    assert differing(shop)
    shop.succeed()
    assert differing(shop) == {}
    a_day(shop)


def test_staging_comes_back_from_the_ledgers_backup_and_the_lake(
    shop: Project, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    a_day(shop)
    tool(shop, "pg_dump --format=custom --schema=loadsheet --dbname=warehouse > ledger.dump", dump)
    a_day(shop)
    # Rows that the source no longer has: only the lake can bring them back.
    shop.in_source("DELETE FROM log WHERE n <= 50")
    shop.in_warehouse("DROP SCHEMA IF EXISTS loadsheet, staging, mart CASCADE")
    tool(shop, "pg_restore --single-transaction --dbname=warehouse < ledger.dump", dump)
    for table in ("orders", "log"):
        assert "loadsheet restore shop orders" in PAGE
        assert shop.cli("restore", shop.name, table).returncode == 0
    shop.succeed()
    assert differing(shop) == {"log": 50}


def test_a_table_that_is_younger_than_the_backup_is_read_again(
    shop: Project, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    backup(shop, dump)
    shop.in_source("CREATE TABLE young (id int PRIMARY KEY); INSERT INTO young VALUES (1), (2)")
    shop.spec({**TABLES, "young": None})
    shop.succeed()
    restore(shop, dump)
    shop.succeed()
    assert shop.differences("young") == 0


def test_a_lost_lake_needs_nothing_and_a_full_refresh_makes_it_whole(
    shop: Project, minio: object
) -> None:
    shop.bucket = f"test-{secrets.token_hex(6)}"
    shop.spec(TABLES)
    a_day(shop)
    shop.succeed(full_refresh="all")
    assert differing(shop) == {}


def test_a_lake_is_moved_between_runs(shop: Project) -> None:
    with S3Server() as elsewhere:
        moved = replace(shop, s3=elsewhere)
        a_day(moved)
        a_day(moved)


def test_an_older_version_refuses_a_newer_ledger_and_the_backup_brings_it_back(
    shop: Project, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    backup(shop, dump)
    shop.in_warehouse(f"COMMENT ON SCHEMA loadsheet IS 'ledger version {VERSION + 1}'")
    refused = shop.cli("run", shop.name)
    assert refused.returncode != 0
    assert "update Loadsheet" in refused.stdout + refused.stderr
    assert "update Loadsheet" in PAGE
    restore(shop, dump)
    a_day(shop)
