"""A project folder on real servers, and the oracle that says whether staging equals the source."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import yaml

from demo.servers import S3Server
from demo.servers.process import LOOPBACK
from loadsheet.connections.lookup import Connection
from loadsheet.engine.runner import StepResult, run_pipeline
from loadsheet.engine.sessions import Servers
from loadsheet.engine.table_step import TableStep
from loadsheet.outcome import RunRequest
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.sql.text import Relation, ident
from loadsheet.sqltest.embedded import postgres_install
from loadsheet.verify.look import Look
from loadsheet.verify.models import TableVerdict
from loadsheet.verify.pipeline import verify_pipeline
from loadsheet.verify.step import verify_due
from tests.forked import command_line
from tests.granted import End, Granted
from tests.sessions import fetch_kept, kept

ROOT = Path(__file__).resolve().parent.parent
# Half of the looks at the catalogs were after INSERTs and the like.
_DDL = re.compile(r"\b(CREATE|ALTER|DROP|RENAME|DO|CALL|IMPORT)\b", re.IGNORECASE)


class _Database:
    """The URI of a database for its DBA. The code that takes it may change what is there, so it is
    remembered that it was taken."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, project: Project | None, owner: type) -> str:
        if project is None:
            raise AttributeError  # for dataclass: there is no default
        uri, _ = vars(project)[self._name]
        vars(project)[self._name] = uri, True
        return uri

    def __set__(self, project: Project, uri: str) -> None:
        vars(project)[self._name] = uri, True

    def unmarked(self, project: Project) -> str:
        """The URI, for code that changes nothing but rows."""
        uri, _ = vars(project)[self._name]
        return uri

    def look(self, project: Project) -> tuple[str, bool]:
        """The URI, and whether it was taken since the last look."""
        uri, was_taken = vars(project)[self._name]
        vars(project)[self._name] = uri, False
        return uri, was_taken


@dataclass
class Project:
    """A pipeline `shop` from `source` to `warehouse` (database URIs) through a bucket of `s3`."""

    folder: Path
    source: _Database = _Database()
    warehouse: _Database = _Database()
    s3: S3Server
    bucket: str = field(default_factory=lambda: f"test-{secrets.token_hex(6)}")
    name: str = "shop"
    administrator: str = ""
    """Why the pipeline logs in as the superuser; empty: it has the roles of `loadsheet grants`."""
    pooler: int = 0
    """The port of a pooler on this machine, through which the pipeline goes; 0: there is none."""
    _granted: Granted = field(init=False)

    def __post_init__(self) -> None:
        self._granted = Granted(self.folder)

    def use_administrator(self, because: str) -> None:
        """From now on the pipeline logs in as the superuser. `tests/unit/test_roles.py` lists who
        may."""
        self.administrator = because

    def uri(self, conn_id: str) -> str:
        """How the pipeline logs in to a database: as its role, which has what `loadsheet grants`
        prints for the tables that there are. `in_source` and `in_warehouse` are the DBA's."""
        name: End = "source" if conn_id == "shop_source" else "warehouse"
        uri, may_differ = self._database(name).look(self)
        if not self.administrator:
            uri = self._granted.login(name, uri, may_differ)
        if not self.pooler:
            return uri
        url = urlsplit(uri)
        return url._replace(
            netloc=f"{url.username}:{url.password}@{LOOPBACK}:{self.pooler}"
        ).geturl()

    def grant(self) -> None:
        """Grant what is missing now, so that no look-up of a connection takes the time for it."""
        for conn_id in ("shop_source", "warehouse"):
            self.uri(conn_id)

    @property
    def logins(self) -> list[str]:
        """The URIs by which the pipeline logs in."""
        return [self.uri("shop_source"), self.uri("warehouse")]

    def as_loader(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL on the warehouse as the pipeline's role: what is made belongs to it."""
        return fetch(self.uri("warehouse"), statement, *parameters)

    @property
    def extractor(self) -> str:
        """The role that the pipeline has on the source; its name needs no quotes."""
        return urlsplit(self.uri("shop_source")).username or ""

    @property
    def loader(self) -> str:
        """The role that the pipeline has on the warehouse; its name needs no quotes."""
        return urlsplit(self.uri("warehouse")).username or ""

    def spec(
        self,
        tables: dict[str, Any],
        transforms: dict[str, str | tuple[str, dict[str, Any]]] | None = None,
        **more: Any,
    ) -> None:
        """Write pipeline.yml. A transform is its SQL, or its SQL and its settings."""
        home = self.folder / "pipelines" / self.name
        (home / "sql").mkdir(parents=True, exist_ok=True)
        settings = {}
        for name, given in (transforms or {}).items():
            text, options = given if isinstance(given, tuple) else (given, {})
            (home / "sql" / f"{name}.sql").write_text(text)
            settings[name] = options
        lake = {"conn_id": "lake", "bucket": self.bucket, **more.pop("lake", {})}
        document = {
            "version": 1,
            "source": {"conn_id": "shop_source", "schema": "public"},
            "lake": lake,
            "warehouse": {"conn_id": "warehouse"},
            **more,
            "tables": tables,
        }
        if settings:
            document["transforms"] = settings
        (home / "pipeline.yml").write_text(
            yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        )

    def connections(self, conn_id: str) -> Connection:
        """What `AIRFLOW_CONN_<ID>` says, for tests that stay in this process."""
        if conn_id == "lake":
            return Connection(
                conn_id=conn_id,
                login=self.s3.access_key,
                password=self.s3.secret_key,
                extra={"endpoint_url": self.s3.endpoint},
            )
        url = urlsplit(self.uri(conn_id))
        return Connection(
            conn_id=conn_id,
            host=url.hostname or "",
            port=url.port,
            login=url.username or "",
            password=url.password or "",
            schema=url.path[1:],
        )

    def environment(self) -> dict[str, str]:
        """The environment in which the command line finds the connections."""
        lake = {
            "conn_type": "generic",
            "login": self.s3.access_key,
            "password": self.s3.secret_key,
            "extra": {"endpoint_url": self.s3.endpoint},
        }
        return {
            **os.environ,
            "AIRFLOW_CONN_SHOP_SOURCE": self.uri("shop_source"),
            "AIRFLOW_CONN_WAREHOUSE": self.uri("warehouse"),
            "AIRFLOW_CONN_LAKE": json.dumps(lake),
        }

    def run(self, **request: Any) -> dict[str, StepResult]:
        """Run the pipeline in this process; a new run id unless one is given."""
        request.setdefault("run_id", f"test__{secrets.token_hex(4)}")
        self.grant()
        pipeline = load_pipeline(self.folder / "pipelines" / self.name / "pipeline.yml")
        return run_pipeline(pipeline, RunRequest(**request), self.connections, verify=verify_due)

    def table_step(self, table: str, **request: Any) -> TableStep:
        """An extract or load step of the table by the pipeline file of now, for tests in which an
        orchestrator does one of the two, or does it late."""
        request.setdefault("run_id", f"test__{secrets.token_hex(4)}")
        pipeline = load_pipeline(self.folder / "pipelines" / self.name / "pipeline.yml")
        return TableStep(
            pipeline=pipeline,
            table=pipeline.table(table),
            request=RunRequest(**request),
            servers=Servers(pipeline, self.connections),
            progress=lambda *sizes: None,
        )

    def succeed(self, **request: Any) -> dict[str, str]:
        """Run and expect that nothing failed; the state of each step by its id."""
        results = self.run(**request)
        failed = {
            name: r.result for name, r in results.items() if r.state not in ("done", "skipped")
        }
        for error in failed.values():
            if isinstance(error, Exception):
                raise error
        assert not failed
        return {name: result.state for name, result in results.items()}

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`loadsheet --project <folder> …` as a process of its own."""
        return command_line(["--project", str(self.folder), *arguments], self.environment())

    def command(self, *arguments: str) -> list[str]:
        """The command line of `loadsheet` for this project."""
        return [sys.executable, "-m", "loadsheet", "--project", str(self.folder), *arguments]

    def in_source(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL on the source and return its rows."""
        return self._administer("source", statement, parameters)

    def in_warehouse(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL on the warehouse and return its rows."""
        return self._administer("warehouse", statement, parameters)

    def _administer(
        self, name: End, statement: str, parameters: Sequence[Any]
    ) -> list[tuple[Any, ...]]:
        uri = getattr(self, name) if _DDL.search(statement) else self._database(name).unmarked(self)
        return fetch_kept(uri, statement, *parameters)

    def session(self, name: End) -> AbstractContextManager[psycopg.Connection[Any]]:
        """An autocommit session of the DBA, for code that changes nothing but temporary tables."""
        return kept(self._database(name).unmarked(self))

    @staticmethod
    def _database(name: End) -> _Database:
        found: _Database = vars(Project)[name]
        return found

    def verify(self, *tables: str, **look: Any) -> dict[str, TableVerdict]:
        """What `loadsheet verify` finds, by table and mart; in this process."""
        pipeline = load_pipeline(self.folder / "pipelines" / self.name / "pipeline.yml")
        options = Look(**look)
        found = verify_pipeline(pipeline, self.connections, tables, lambda verdict: None, options)
        return {verdict.table: verdict for verdict in found.verdicts}

    def differences(self, table: str, staging: str = "staging", schema: str = "public") -> int:
        """Rows by which staging and the source differ."""
        return differences(
            self._database("source").unmarked(self),
            Relation(schema, table),
            self._database("warehouse").unmarked(self),
            Relation(staging, table),
        )

    def objects(self) -> set[str]:
        """The names of all objects in the lake."""
        from loadsheet.lake.store import Lake

        return set(Lake(self.connections("lake"), self.bucket).names(""))


def load_tables(project: Project, count: int) -> None:
    """Load so many small tables with an index on the cursor, `t0`, `t1` and so on, each with one
    more row than before."""
    names = [f"t{number}" for number in range(count)]
    made = ""
    for name in names:
        made += f"CREATE TABLE IF NOT EXISTS {name} (id int PRIMARY KEY, at timestamptz);"
        made += f"CREATE INDEX ON {name} (at); INSERT INTO {name} VALUES ({count}, now());"
    project.in_source(made)
    project.spec({name: {"incremental": "at"} for name in names})
    project.succeed()


def client_programs(database: str) -> Path:
    """The folder of the psql and pg_dump that know the server: there are those of 16, which read
    older servers, too, and of 18."""
    with psycopg.connect(database) as session:
        version = max(16, session.info.server_version // 10_000)
    return postgres_install(version) / "bin"


def crash(database: str, pid: int) -> None:
    """SIGKILL to the backend `pid`: its server ends all others and recovers from its log. Returns
    when it answers again; raises ProcessLookupError if the backend has just ended by itself."""
    # Until it has noticed, the server takes connections, which it then ends.
    with suppress(psycopg.OperationalError), psycopg.connect(database) as witness:
        os.kill(pid, signal.SIGKILL)
        witness.execute("SELECT pg_sleep(10)")
    until_it_answers(database)


def until_it_answers(database: str, seconds: float = 30) -> None:
    """Wait for a server that recovers from a crash."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return psycopg.connect(database, connect_timeout=2).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "the server did not come back"
            time.sleep(0.02)


def fetch(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run SQL in a session of its own; the rows it returns, if any."""
    with psycopg.connect(dsn, autocommit=True) as session:
        cursor = session.execute(statement, parameters or None)
        # Not `description`: rows without columns (`SELECT FROM t`) have none, and are rows.
        return [] if cursor.rownumber is None else cursor.fetchall()


def differences(source: str, table: Relation, warehouse: str, target: Relation) -> int:
    """`EXCEPT ALL` both ways over every source column, compared as the text the servers show: 0
    when equal."""
    with kept(source) as reading, kept(warehouse) as writing:
        for session in (reading, writing):
            session.execute(
                "SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET IntervalStyle = 'postgres'"
            )
        names = [
            row[0]
            for row in reading.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND"
                " NOT attisdropped ORDER BY attnum",
                (table.sql,),
            )
        ]
        as_text = ", ".join(f"{ident(name)}::text" for name in names)
        writing.execute(
            "CREATE TEMPORARY TABLE truth ("
            + ", ".join(f"{ident(name)} text" for name in names)
            + ")"
        )
        with (
            reading.cursor().copy(f"COPY (SELECT {as_text} FROM {table.sql}) TO STDOUT") as out,
            writing.cursor().copy("COPY truth FROM STDIN") as into,
        ):
            for block in out:
                into.write(block)
        both = [f"SELECT {as_text} FROM {target.sql}", "SELECT * FROM truth"]
        count = sum(
            writing.execute(
                f"SELECT count(*) FROM ({one} EXCEPT ALL {other}) difference"
            ).fetchone()[0]
            for one, other in (both, both[::-1])
        )
    return count
