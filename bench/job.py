"""What a contender is asked to do, and how each is started: one process per job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from bench import peers
from bench.data import Source, Table
from bench.world import World

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Job:
    """Carry the tables: all rows into empty targets (`full`), or what changed since the job before
    (`increment`).

    A peer is a script that takes the path of this as JSON (`write`). `interval` is where the
    changed rows' cursors lie, for tools that want it by hand; `state` is a folder that stays from
    job to job of one contender.
    """

    kind: Literal["full", "increment"]
    source: str
    warehouse: str
    source_schema: str
    target_schema: str
    tables: tuple[Table, ...]
    state: Path
    interval: tuple[str, str] | None = None
    parallel: int = 2
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, file: Path) -> Path:
        """Store it as JSON, readable by nobody else: it has passwords."""
        file.touch(mode=0o600)
        file.write_text(json.dumps(asdict(self), default=str))
        return file


Command = tuple[list[str], dict[str, str]]
"""The arguments and the environment of a process."""


@dataclass(frozen=True)
class Contender:
    """Somebody who carries tables. `note` says how, for the results."""

    name: str
    command: Callable[[World, Job], Command]
    note: str = ""
    broken: frozenset[str] = frozenset()
    """Columns that it is known to carry wrongly: not compared, but said."""


def limit(with_lake: bool = False) -> Contender:
    """psql | psql, binary, into bare tables, then their keys; `with_lake` also through zstd into
    the lake."""

    def command(world: World, job: Job) -> Command:
        if with_lake:
            job = replace(job, options=job.options | {"lake": world.s3 | {"bucket": "limit"}})
        file = job.write(job.state / "job.json")
        return [sys.executable, "-m", "bench.limit", str(file)], dict(os.environ)

    name, note = "limit", "psql COPY | psql COPY, binary, then the keys, two tables at a time"
    if with_lake:
        name, note = "limit with a lake", f"{note}; psql COPY | tee | zstd -1, then curl, as well"
    return Contender(name, command, note)


def ours(wire: str = "auto", keys: dict[str, Any] | None = None, **tasks: Any) -> Contender:
    """`loadsheet run`, with every guarantee on. `keys` are more keys of each table."""

    def command(world: World, job: Job) -> Command:
        _project(world, job, wire, keys or {}, tasks)
        more = ["--full-refresh"] if job.options.get("full_refresh") else []
        start = [sys.executable, "-m", "loadsheet", "--project", str(job.state)]
        return [*start, "run", "bench", "--json", *more], _env(world, job)

    note = f"loadsheet run, through the lake, format {wire}"
    return Contender(f"loadsheet {wire}", command, note)


# By name: the script, its options, and columns it carries wrongly (a point becomes the text `{{x y}
# true}`).
_PEERS: dict[str, tuple[str, dict[str, Any], frozenset[str]]] = {
    "ingestr": ("ingestr", {}, frozenset({"coordinates"})),
    "ingestr without interval": ("ingestr", {"interval": False}, frozenset({"coordinates"})),
    "dlt connectorx": ("dlt_sql", {"backend": "connectorx"}, frozenset()),
    "dlt pyarrow": ("dlt_sql", {"backend": "pyarrow"}, frozenset()),
    "sling": ("sling", {}, frozenset()),
    "DataFrame": ("dataframe", {}, frozenset()),
    "DataFrame one at a time": ("dataframe", {"parallel": 1}, frozenset()),
    "DataFrame by statement": ("dataframe", {"style": "values"}, frozenset()),
    "DataFrame by row": ("dataframe", {"style": "rows"}, frozenset()),
    "DataFrame by pangres": ("dataframe", {"style": "pangres"}, frozenset()),
}


def peer(name: str, **options: Any) -> Contender:
    """One of the others, in an environment of its own; straight from source to warehouse, without a
    lake."""
    script, usual, broken = _PEERS[name]

    def command(world: World, job: Job) -> Command:
        file = replace(job, options=usual | options).write(job.state / "job.json")
        return peers.command(script, file), dict(os.environ)

    return Contender(name, command, f"see bench/peers/{script}.py", broken)


def by_name(name: str) -> Contender:
    """`limit`, `limit with a lake`, a peer, or a format of ours: auto, binary, csv, parquet; `no
    overlap` is auto with `overlap: false`."""
    if name in ("limit", "limit with a lake"):
        return limit(with_lake=name != "limit")
    if name == "no overlap":
        alone = ours(keys={"overlap": False})
        return replace(alone, name="loadsheet auto, no overlap", note=f"{alone.note}, then loaded")
    return peer(name) if name in _PEERS else ours(name)


def _project(
    world: World, job: Job, wire: str, keys: dict[str, Any], tasks: dict[str, Any]
) -> None:
    home = job.state / "pipelines" / "bench"
    home.mkdir(parents=True, exist_ok=True)
    tables = {}
    for table in job.tables:
        cursor = {"incremental": table.cursor} if table.cursor else {}
        tables[table.name] = cursor | keys
    spec = {
        "version": 1,
        "source": {"conn_id": "bench_source", "schema": job.source_schema},
        "lake": {"conn_id": "lake", "bucket": "bench", "prefix": job.state.name, "format": wire},
        "warehouse": {"conn_id": "warehouse", "schema": job.target_schema},
        "tables": tables,
        **({"tasks": tasks} if tasks else {}),
    }
    (home / "pipeline.yml").write_text(json.dumps(spec))


def lake_connection(world: World) -> str:
    """The connection `lake`, as Airflow's environment variables take it."""
    fields = {
        "conn_type": "generic",
        "login": world.s3["access_key"],
        "password": world.s3["secret_key"],
        "extra": {"endpoint_url": world.s3["endpoint"]},
    }
    return json.dumps(fields)


def _env(world: World, job: Job) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_CONN_BENCH_SOURCE": job.source,
        "AIRFLOW_CONN_WAREHOUSE": job.warehouse,
        "AIRFLOW_CONN_LAKE": lake_connection(world),
    }


def job_for(source: Source, warehouse: str, state: Path, **more: Any) -> Job:
    """A job for all tables of `source`."""
    schema = f"target_{urlsplit(warehouse).path[1:]}"
    return Job(
        source=source.dsn,
        warehouse=warehouse,
        source_schema=source.schema,
        target_schema=schema,
        tables=source.tables,
        state=state,
        **more,
    )
