"""Programs as children of a peer's script, several at a time. For the scripts beside it, which run
on their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2

Job = dict[str, Any]
Command = tuple[list[str], dict[str, str]]
"""Arguments, and variables on top of the environment."""


def read_job() -> Job:
    """The job whose file is this script's one argument."""
    return dict(json.loads(Path(sys.argv[1]).read_text()))


def plain(dsn: str) -> str:
    """The same address for clients that ask for TLS unless told otherwise."""
    return f"{dsn}?sslmode=disable"


def make_schema(job: Job) -> None:
    """Create the target's schema. Two children that both create it at once would fail."""
    with psycopg2.connect(job["warehouse"]) as session, session.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {job['target_schema']}")


def run_all(job: Job, command: Callable[[Job, dict[str, Any]], Command]) -> int:
    """One child per table, `parallel` at a time, tables in their order. 0 only if every child ended
    with 0."""
    make_schema(job)
    with ThreadPoolExecutor(job["parallel"]) as pool:
        codes = list(pool.map(lambda table: _run(*command(job, table)), job["tables"]))
    return int(any(codes))


def _run(arguments: list[str], variables: dict[str, str]) -> int:
    done = subprocess.run(
        arguments, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(
            f"{arguments[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}",
            file=sys.stderr,
        )
    return done.returncode
