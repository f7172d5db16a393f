"""A checked pipeline file as frozen values: what every later stage reads, and nothing more.

The keys and their defaults are those of `schemas/pipeline.schema.json`; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Literal

from loadsheet.names import matches

Mode = Literal["replace", "append", "merge"]
Format = Literal["auto", "binary", "csv", "parquet"]
Materialized = Literal["table", "view", "merge", "script"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where tables come from: an Airflow connection id and a schema of that PostgreSQL database."""

    conn_id: str
    schema: str = "public"


@dataclass(frozen=True, kw_only=True)
class Lake:
    """Where extracted parts and manifests go: an S3 connection, a bucket, a prefix (no slashes at
    its ends)."""

    conn_id: str
    bucket: str
    prefix: str = ""
    format: Format = "auto"


@dataclass(frozen=True, kw_only=True)
class Warehouse:
    """Where rows end: staging tables in `schema`, transforms in `mart_schema`."""

    conn_id: str
    schema: str = "staging"
    mart_schema: str = "mart"


@dataclass(frozen=True, kw_only=True)
class Notify:
    """Who hears of failures and recoveries: an Airflow connection of type slackwebhook."""

    slack_conn_id: str
    events: tuple[str, ...] = ("failure", "recovery")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """How generated Airflow tasks behave; tables and transforms may override pool, retries and
    timeout."""

    pool: str = "default_pool"
    retries: int = 2
    retry_delay: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(hours=1)
    max_active_tasks: int = 8


@dataclass(frozen=True, kw_only=True)
class Incremental:
    """Which rows are new. `by: watermark` reads above the last committed cursor, `by:
    data_interval` reads the run's interval `[start, end)`."""

    cursor: str
    by: Literal["watermark", "data_interval"] = "watermark"
    initial_value: str | None = None
    """The watermark of the first run, as the source server writes it; None reads from the
    beginning."""
    lookback: str | None = None
    """How far below the watermark to read again: a duration (`15m`) or, for a numeric cursor, a
    number (`1000`)."""
    nulls: Literal["fail", "include", "exclude"] = "fail"
    hold_back: timedelta = timedelta(seconds=60)
    """Longest wait for open source transactions before only what is safe is taken."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One source table and how it travels. An empty `primary_key` means: ask the source's catalog
    at run time."""

    name: str
    primary_key: tuple[str, ...] = ()
    incremental: Incremental | None = None
    mode: Mode | None = None
    """None: replace without incremental, else merge with a key and append without (see
    `mode_with_key`)."""
    include: tuple[str, ...] = ()
    """Columns to carry; empty means all."""
    exclude: tuple[str, ...] = ()
    schema_contract: Literal["evolve", "freeze"] = "evolve"
    max_shrink: float | None = None
    """Largest share of its rows (0 to 1) a full load may lose before it stops; None never stops."""
    tasks: Tasks = Tasks()
    matched: bool = False
    """Brought in by a pattern, and so no mistake of the spec when the source no longer has it."""

    def mode_with_key(self, has_key: bool) -> Mode:
        """The mode once the primary key is known: the declared one, else the usual one for this
        table."""
        if self.mode:
            return self.mode
        if not self.incremental:
            return "replace"
        return "merge" if has_key else "append"


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Tables by a pattern of their names; the source says which when a run begins. Each travels as
    `table` does."""

    name: str
    table: Table
    exclude: tuple[str, ...] = ()

    def matches(self, name: str) -> bool:
        """Whether a table of this name is one of them."""
        return matches(self.name, name) and not any(
            matches(left_out, name) for left_out in self.exclude
        )


@dataclass(frozen=True, kw_only=True)
class Transform:
    """One mart: a SELECT (table, view, merge) or a script, with its text already read from `file`."""

    name: str
    sql: str
    file: Path
    materialized: Materialized = "table"
    unique_key: tuple[str, ...] = ()
    tasks: Tasks = Tasks()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A whole pipeline file, defaults applied. `file` is the YAML it came from (`name` is the DAG
    id)."""

    name: str
    file: Path
    source: Source
    lake: Lake
    warehouse: Warehouse
    description: str = ""
    schedule: str | None = None
    start_date: str | None = None
    """ISO 8601 date or time; None means no start (manual runs only need none)."""
    owner: str = "airflow"
    tags: tuple[str, ...] = ()
    notify: Notify | None = None
    tasks: Tasks = Tasks()
    tables: tuple[Table, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    transforms: tuple[Transform, ...] = field(default=())
    external: tuple[str, ...] = ()
    """Tables of the warehouse that transforms read and others make: `schema.table`, or `schema.*`
    for all of one."""

    @property
    def entries(self) -> tuple[Table, ...]:
        """What stands under `tables`: the tables, then what each pattern says of those it matches."""
        return (*self.tables, *(pattern.table for pattern in self.patterns))

    def table(self, name: str) -> Table:
        """The table called `name`, also one that a pattern matches, or a pattern's own; KeyError
        when there is none."""
        for table in self.entries:
            if table.name == name:
                return table
        pattern = self.pattern_of(name)
        if pattern is None:
            raise KeyError(name)
        return replace(pattern.table, name=name, matched=True)

    def pattern_of(self, name: str) -> Pattern | None:
        """The first pattern that matches `name`, unless the spec names that table itself."""
        if any(table.name == name for table in self.tables):
            return None
        return next((pattern for pattern in self.patterns if pattern.matches(name)), None)

    def resolved(self, names: Iterable[str]) -> Pipeline:
        """The same with the tables `names`, which its patterns match, in the place of the patterns."""
        return replace(self, tables=(*self.tables, *map(self.table, names)), patterns=())

    def transform(self, name: str) -> Transform:
        """The transform called `name`; KeyError when the spec has none."""
        for transform in self.transforms:
            if transform.name == name:
                return transform
        raise KeyError(name)


@dataclass(frozen=True)
class Inputs:
    """What a transform reads: tables of the spec and other transforms, each in the spec's order."""

    tables: tuple[str, ...]
    transforms: tuple[str, ...]
