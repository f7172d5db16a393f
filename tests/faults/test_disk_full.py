"""Disk full on lake, warehouse and worker: a clean failure, the state as before, and work again
afterwards."""

from __future__ import annotations

import random
import resource
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from demo.servers import PostgresServer, S3Server
from loadsheet.errors import Unavailable
from loadsheet.sqltest.embedded import own, scratch_folder, server_user
from tests.faults.changing import SOURCE, Changing, errors
from tests.faults.oracle import judge
from tests.faults.scale import scaled
from tests.faults.small_disk import Fill, can_mount, filled, parent_of, small_files, tmpfs
from tests.faults.tally import Tally
from tests.project import Project

# Wide rows, so that `code` outgrows PostgreSQL's own largest file (a WAL segment of 16 MB) without
# many of them.
WIDE = f"""{SOURCE}
UPDATE code SET what = repeat(what, 58);
INSERT INTO code SELECT i, repeat(md5(i::text), 58) FROM generate_series(1501, 13000) i;
"""
WAYS = ["small files", *(["tmpfs"] if can_mount() else [])]
FULL = {"SQLSTATE 53100", "SQLSTATE XX000", "SQLSTATE 58030"}
Line = Callable[[str], Tally]


@pytest.fixture(params=WAYS)
def lake(
    request: pytest.FixtureRequest, project: Project, tmp_path: Path, chance: random.Random
) -> Iterator[Fill]:
    """What makes the disk full under the project's lake."""
    with ExitStack() as stack:
        disk = (
            stack.enter_context(tmpfs(tmp_path / "disk", 64))
            if request.param == "tmpfs"
            else tmp_path
        )
        project.s3 = stack.enter_context(S3Server(disk / "objects"))
        left = chance.randrange(200_000)
        yield (
            lambda: (
                filled(disk, left)
                if request.param == "tmpfs"
                else small_files(project.s3.pid, left)
            )
        )


@pytest.fixture(params=WAYS)
def warehouse(
    request: pytest.FixtureRequest,
    project: Project,
    postgres: PostgresServer,
    chance: random.Random,
) -> Iterator[Fill]:
    """What makes the disk full under the project's warehouse."""
    if request.param == "small files":
        # a backend that has ended has no parent
        with psycopg.connect(project.warehouse) as session:
            postmaster = parent_of(session.info.backend_pid)
        # Not below a WAL segment: a server that cannot write its log stops, which is another story.
        size = (16 << 20) + chance.randrange(2 << 20)
        yield lambda: small_files(postmaster, size)
        return
    with tmpfs(scratch_folder("loadsheet-disk-"), 96) as disk:
        space, folder = f"small_{secrets.token_hex(4)}", disk / "space"
        folder.mkdir()
        own(folder, server_user())
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
            session.execute(f"CREATE TABLESPACE {space} LOCATION '{folder}'")
            session.execute(f"CREATE DATABASE {space} TEMPLATE template0 TABLESPACE {space}")
        project.warehouse = postgres.dsn(space)
        left = chance.randrange(16 << 20)
        yield lambda: filled(disk, left)
        postgres.drop_database(space)
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as session:
            session.execute(f"DROP TABLESPACE {space}")


def fails_cleanly_and_recovers(project: Project, full: Fill, line: Tally, codes: set[str]) -> None:
    changing = Changing(project, source=WIDE)
    for _ in range(scaled(1, 10)):
        changing.change()
        with full():
            found = errors(changing.run())
        assert found, "there was room enough: the test shows nothing"
        assert all(isinstance(error, Unavailable) and error.code in codes for error in found), found
        line.add(*changing.judge_what_changed(), tried=0)
        changing.succeed()
        line.add(*changing.judge(), hit=1)


@pytest.mark.timeout(scaled(600, 1800))
def test_a_full_lake_fails_the_extract_and_nothing_else(
    project: Project, lake: Fill, tally: Line
) -> None:
    fails_cleanly_and_recovers(
        project, lake, tally("disk full: lake"), {"S3 InternalError", "HTTP 500"}
    )
    assert not [name for name in project.objects() if "rclone_temp" in name]


@pytest.mark.timeout(scaled(600, 1800))
def test_a_full_warehouse_keeps_what_it_had(project: Project, warehouse: Fill, tally: Line) -> None:
    fails_cleanly_and_recovers(project, warehouse, tally("disk full: warehouse"), FULL)


@pytest.mark.parametrize("warehouse", ["small files"], indirect=True)
def test_a_load_in_two_transactions_would_lose_the_table(
    project: Project, warehouse: Fill, tally: Line
) -> None:
    """The negative control: emptied first, filled after, as so many scripts do."""
    project.in_source(WIDE)
    project.in_warehouse("CREATE TABLE code (id int, what text)")
    project.in_warehouse("INSERT INTO code SELECT generate_series(1, 13000)")
    with warehouse(), psycopg.connect(project.warehouse, autocommit=True) as naive:
        naive.execute("TRUNCATE code")
        rows = project.in_source("SELECT * FROM code")
        with pytest.raises(psycopg.Error), naive.cursor().copy("COPY code FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    [(lost,)] = project.in_warehouse("SELECT 13000 - count(*) FROM code")
    assert lost > 0
    tally("disk full: warehouse").control(f"TRUNCATE, then COPY: lost {lost} of 13000 rows")


def test_a_worker_that_cannot_write_a_byte_works_all_the_same(
    project: Project, tally: Line
) -> None:
    project.in_source(WIDE)
    project.spec({"item": {"incremental": "at"}, "code": {}})
    done = subprocess.run(
        project.command("run", "shop"),
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = tally("disk full: worker")
    line.add(*(judge(project, table) for table in ("item", "code")))
    assert not (line.lost or line.doubled)
