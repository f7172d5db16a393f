"""`loadsheet test` runs the SQL of a pull request, on a machine that holds secrets: it runs no
program, reads no file and no variable, and nobody else gets to its server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from loadsheet.sqltest.embedded import NOBODY
from tests.project import Project

SECRET = "tokenOfTheBuildMachine"
LEAK = "/tmp/loadsheet-leak"
DENIED = (
    *("permission denied", "must be superuser", "is not available", "must have admin option"),
    *("is not allowed", "cannot run inside a transaction block"),
)
# The script of a pipeline each: of several in one, the first that fails would hide the others.
ATTACKS = {
    "program": f"COPY (SELECT 1) TO PROGRAM 'env > {LEAK}'",
    "program_in": "CREATE TABLE mart.a (t text); COPY mart.a FROM PROGRAM 'env'",
    "write": f"COPY (SELECT 1) TO '{LEAK}'",
    "read": "CREATE TABLE mart.a (t text); COPY mart.a FROM '/etc/passwd'",
    "read_file": "CREATE TABLE mart.a AS SELECT pg_read_file('/etc/passwd')",
    "environ": "CREATE TABLE mart.a AS SELECT pg_read_file('/proc/self/environ')",
    "binary": "CREATE TABLE mart.a AS SELECT pg_read_binary_file('/etc/passwd')",
    "folder": "CREATE TABLE mart.a AS SELECT * FROM pg_ls_dir('/')",
    "config": "CREATE TABLE mart.a AS SELECT * FROM pg_hba_file_rules",
    "lo_import": "CREATE TABLE mart.a AS SELECT lo_import('/etc/passwd')",
    "lo_export": f"DO $$ BEGIN PERFORM lo_export(lo_from_bytea(0, 'x'), '{LEAK}'); END $$",
    "python": "CREATE EXTENSION plpython3u",
    "perl": "CREATE EXTENSION plperlu",
    "file_fdw": "CREATE EXTENSION file_fdw",
    "dblink": "CREATE EXTENSION dblink",
    "vector": "CREATE EXTENSION vector",
    "c": "CREATE FUNCTION mart.f() RETURNS int LANGUAGE c AS '$libdir/vector', 'f'",
    "internal": "CREATE FUNCTION mart.f(text) RETURNS text LANGUAGE internal AS 'pg_read_file'",
    "language": "CREATE LANGUAGE evil HANDLER plpgsql_call_handler",
    "system": f"ALTER SYSTEM SET archive_command = 'env > {LEAK}'",
    "preload": "SET session_preload_libraries = 'x'",
    "load": "LOAD '/tmp/evil.so'",
    "reload": "DO $$ BEGIN PERFORM pg_reload_conf(); END $$",
    "role": "SET ROLE administrator",
    "session": "SET SESSION AUTHORIZATION administrator",
    "superuser": "ALTER ROLE CURRENT_USER SUPERUSER",
    "createrole": "CREATE ROLE evil SUPERUSER LOGIN",
    "member": "GRANT pg_execute_server_program TO CURRENT_USER",
    "member_read": "GRANT pg_read_server_files TO CURRENT_USER",
    "password": "ALTER ROLE administrator PASSWORD 'x'",
    "hashes": "CREATE TABLE mart.a AS SELECT rolpassword FROM pg_authid",
    "catalog": "UPDATE pg_catalog.pg_proc SET prosrc = 'x' WHERE proname = 'format_type'",
    "database": "DO $$ BEGIN PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename"
    " = 'administrator'; END $$",
}


def write(project: Project, name: str, script: str) -> None:
    """A pipeline with this script, and a test that runs it."""
    project.name = name
    schemas = {"schema": f"{name}_staging", "mart_schema": f"{name}_mart"}
    project.spec(
        {"sale": {"primary_key": "id"}},
        {"attack": (script.replace("mart.", f"{name}_mart."), {"materialized": "script"})},
        warehouse={"conn_id": "warehouse", **schemas},
    )
    folder = project.folder / "pipelines" / name / "tests"
    folder.mkdir(exist_ok=True)
    test = f"{{given: {{}}, expect: {{{name}_mart.attack: []}}}}"
    (folder / "tests.yml").write_text(f"tests: {{{name}: {test}}}")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without servers: the test's is its own."""
    return Project(tmp_path, "postgresql://nobody/none", "postgresql://nobody/none", None)  # type: ignore[arg-type]


def environment() -> dict[str, str]:
    """Of a build machine."""
    return {
        **os.environ,
        "CI_TOKEN": SECRET,
        "AIRFLOW_CONN_WAREHOUSE": f"postgresql://u:{SECRET}@h/d",
        "HOME": os.environ["HOME"],
    }


def test_sql_of_a_test_runs_no_program_and_reads_no_file(project: Project) -> None:
    for name, script in ATTACKS.items():
        write(project, name, script)
    done = subprocess.run(
        project.command("test", "--json"),
        env=environment(),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert SECRET not in done.stdout + done.stderr
    errors = {test["name"]: test["error"] for test in json.loads(done.stdout)["tests"]}
    assert errors.keys() == ATTACKS.keys()
    allowed = [
        (name, error)
        for name, error in errors.items()
        if f"{name}/sql/attack.sql" not in error
        or not any(word in error.lower() for word in DENIED)
    ]
    assert allowed == []
    assert not Path(LEAK).exists()


@contextmanager
def running(project: Project) -> Iterator[Path]:
    """The home of the server of a `loadsheet test` that is under way."""
    write(project, "slow", "DO $$ BEGIN PERFORM pg_sleep(60); END $$")
    with subprocess.Popen(
        project.command("test", "slow"), env=environment(), stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield _home(process.pid)
        finally:
            process.terminate()


def _home(pid: int) -> Path:
    """The folder of the socket, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:  # initdb has ended meanwhile
                continue
            for variable in variables:
                home = Path(variable.removeprefix(b"SCRATCH=").decode())
                if not variable.startswith(b"SCRATCH="):
                    continue
                log = home / "postgres.log"
                if log.exists() and "ready to accept" in log.read_text():
                    return home
        time.sleep(0.05)
    raise AssertionError("the server did not start")


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_nobody_else_gets_to_the_server_and_it_knows_no_secret(project: Project) -> None:
    with running(project) as home:
        server = int((home / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        assert SECRET.encode() not in Path(f"/proc/{server}/environ").read_bytes()
        for child in children:
            with suppress(OSError):  # a session may end meanwhile
                assert SECRET.encode() not in Path(f"/proc/{child}/environ").read_bytes()
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        trusted = [
            line
            for line in (home / "data" / "pg_hba.conf").read_text().splitlines()
            if line and not line.startswith("#") and not line.endswith("scram-sha-256")
        ]
        assert trusted == []
        dsn = f"host={home} port=5432 dbname=postgres"
        for role in ("administrator", "loadsheet", "postgres"):
            for password in ("", "postgres", "administrator"):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(dsn, user=role, password=password)
        if os.geteuid() == 0:
            try_it = (
                "import socket, sys; s = socket.socket(socket.AF_UNIX);"
                f" s.connect('{home}/.s.PGSQL.5432')"
            )
            for user, refused in (((12345, 12345), True), (NOBODY, False)):
                done = subprocess.run(
                    ["/usr/bin/env", "python3", "-c", try_it],
                    user=user[0],
                    group=user[1],
                    extra_groups=[],
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin"},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert ("PermissionError" in done.stderr) is refused, done.stderr
