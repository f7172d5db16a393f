"""Every place of the end-to-end world where somebody can read, with a text planted in each: whoever
searches the places for secrets must find that text there."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import airflow
import httpx
import psycopg
import zstandard
from minio import Minio
from packaging.version import Version

from tests import canaries
from tests.airflow.world import World

AIRFLOW_V_3_4 = Version(airflow.__version__) >= Version("3.4.0b1")
PLANTED = "planted-canary"
_HOLD_SECRETS = ("airflow.cfg", "passwords.json", "pgpass")  # what has to hold them
_KEEP_SECRETS = ("connection", "variable")
_XCOM, _RENDERED = "xcom", "rendered_task_instance_fields"
if AIRFLOW_V_3_4:
    _XCOM, _RENDERED = "xcom_v2", "rtif_v2"
# Table -> the column behind whose value the text is put, and how, in one of its rows.
_IN_AIRFLOW = {
    _XCOM: ("value", "json_build_array({}, %s::text)"),
    _RENDERED: ("rendered_fields", "json_build_array({}, %s::text)"),
    "serialized_dag": ("data", "json_build_array({}, %s::text)"),
    "dag_run": ("conf", "json_build_array({}, %s::text)"),
    "task_instance": ("executor_config", "{} || %s::bytea"),
    "import_error": ("stacktrace", "concat({}, %s::text)"),
    "dag_code": ("source_code", "concat({}, %s::text)"),
    "log": ("extra", "concat({}, %s::text)"),
}
_IN_LEDGER = {
    "scope": ("source", "json_build_array({}, %s::text)"),
    "load": ("held_by", "concat({}, %s::text)"),
    "failure": ("message", "concat({}, %s::text)"),
    "transform_run": ("run_id", "concat({}, %s::text)"),
}
_FILES = (
    "scheduler.log.1",
    "logs/dag_id=x/attempt=1.log",
    "cache/ab/x.json",
    "bundles/x/dags/x.yml.py",
)
_OBJECTS = {
    "lake/zz/manifest.json": PLANTED.encode(),
    "lake/zz/part-00000.bin.zst": (
        zstandard.ZstdCompressor().compress(b"PGCOPY\n" + PLANTED.encode())
    ),
}
PLANTED_IN = {
    *(f"file {name}" for name in _FILES),
    *(f"object {name}" for name in _OBJECTS),
    *(f"Airflow's {name}" for name in _IN_AIRFLOW),
    *(f"ledger's {name}" for name in _IN_LEDGER),
    "Slack",
    "arguments",
}


def places(world: World, arguments: Mapping[str, str]) -> dict[str, str]:
    """Texts by place: files of Airflow's home, both databases, Slack, the lake, and the `arguments`
    of processes, which somebody goes on to note. PLANTED is gone again afterwards."""
    home = Path(world.airflow.home)
    httpx.post(world.slack.url, json={"text": PLANTED}, trust_env=False)
    with _in_files(home), _in_the_lake(world), _in_arguments(arguments):
        files = {
            str(Path(name).relative_to(home)): text for name, text in canaries.files(home).items()
        }
        found = {
            f"file {name}": text for name, text in files.items() if not name.endswith(_HOLD_SECRETS)
        }
        found |= {
            f"object {name}": text for name, text in canaries.objects(world.s3, "lake").items()
        }
        found["arguments"] = "\n".join(arguments.values())
    found |= _tables(world.postgres.dsn("airflow"), "public", "Airflow's", _IN_AIRFLOW)
    found |= _tables(world.warehouse, "loadsheet", "ledger's", _IN_LEDGER)
    found["Slack"] = json.dumps(world.slack.messages, ensure_ascii=False)
    del world.slack.messages[-1]
    return found


@contextmanager
def _in_files(home: Path) -> Iterator[None]:
    for name in _FILES:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(PLANTED)
    yield
    for name in _FILES:
        (home / name).unlink()


@contextmanager
def _in_the_lake(world: World) -> Iterator[None]:
    client = Minio(
        world.s3.address,
        access_key=world.s3.access_key,
        secret_key=world.s3.secret_key,
        secure=False,
    )
    for name, data in _OBJECTS.items():
        client.put_object(*name.split("/", 1), io.BytesIO(data), len(data))
    yield
    for name in _OBJECTS:
        client.remove_object(*name.split("/", 1))


@contextmanager
def _in_arguments(arguments: Mapping[str, str]) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", PLANTED]
    ) as process:
        end = time.monotonic() + 30
        while not any(PLANTED in line for line in [*arguments.values()]) and time.monotonic() < end:
            time.sleep(0.1)
        yield
        process.kill()


def _tables(
    dsn: str, schema: str, whose: str, planting: Mapping[str, tuple[str, str]]
) -> dict[str, str]:
    """Read in the transaction that has planted the text, and that ends without a trace."""
    with psycopg.connect(dsn) as session:
        for name, (column, change) in planting.items():
            table, value = f"{schema}.{name}", change.format(column)
            where = f"ctid = (SELECT min(ctid) FROM {table} WHERE {column} IS NOT NULL)"
            done = session.execute(
                f"UPDATE {table} SET {column} = {value} WHERE {where}", (PLANTED,)
            )
            assert done.rowcount == 1, f"{table} is empty"
        found = canaries.tables(session, schema, without=_KEEP_SECRETS)
        session.rollback()
    return {f"{whose} {name}": text for name, text in found.items()}
