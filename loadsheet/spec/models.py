"""A checked pipeline file as frozen values: all that later stages read of it.

The keys and their defaults are those of `schemas/pipeline.schema.json`; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

from loadsheet.names import is_pattern, matches, unescape_wildcards
from loadsheet.spec.routes import Route

Mode = Literal["replace", "append", "merge"]
Format = Literal["auto", "binary", "csv", "parquet"]
DeletesAction = Literal["hard", "soft", "report"]
Materialized = Literal["table", "view", "merge", "script"]
Granularity = Literal["step", "table", "batch", "auto"]
"""Which Airflow task extracts and loads a table: one for each of the two, one for both, or one for
many tables. `auto`: by the number of tables."""
FRESHNESS_DAG = "loadsheet_freshness"
"""The DAG that tells what is late and sends digests. In a DAG bundle, the bundle's name follows."""
MOST_WITH_TASKS = 100
"""Entries under `tables` that have tasks of their own where the granularity is `auto`."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where tables come from: a connection id and a schema of that PostgreSQL database."""

    conn_id: str
    schema: str = "public"


@dataclass(frozen=True, kw_only=True)
class Lake:
    """Where extracted parts and manifests go: an S3 connection, a bucket and a prefix, which has no
    slash at either end."""

    conn_id: str
    bucket: str
    prefix: str = ""
    format: Format = "auto"


@dataclass(frozen=True, kw_only=True)
class Warehouse:
    """Where rows go: staging tables into `schema`, marts into `mart_schema`."""

    conn_id: str
    schema: str = "staging"
    mart_schema: str = "mart"


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """How Airflow tasks behave. Tables and transforms may override pool, retries and timeout,
    tables also the granularity."""

    pool: str = "default_pool"
    retries: int = 2
    retry_delay: timedelta = timedelta(seconds=30)
    timeout: timedelta = timedelta(hours=1)
    max_active_tasks: int = 8
    granularity: Granularity = "step"


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
    time_zone: str | None = None
    """The zone in which all writers stamp a cursor without a time zone; None trusts only UTC, where
    the source's catalogs show that all sessions are in it."""
    nulls: Literal["fail", "include", "exclude"] = "fail"
    hold_back: timedelta = timedelta(seconds=60)
    """Longest wait for open source transactions; after that, only the safe part is read."""

    @property
    def makes_up_for_late_rows(self) -> bool:
        """Whether a lookback makes up for rows that come late. That of an interval does not for
        all: a run whose interval a person gives reads nothing below it."""
        return self.lookback is not None and self.by == "watermark"


@dataclass(frozen=True, kw_only=True)
class Deletes:
    """What happens to rows that are deleted from the source: they are deleted (`hard`), kept and
    marked (`soft`), or only counted (`report`)."""

    action: DeletesAction
    every: timedelta | None = None
    """How much time passes between two looks; None: each run looks."""
    max_delete: float = 0.1
    """Largest share of the rows (0 to 1) that one run may delete."""

    @property
    def removes(self) -> bool:
        """Whether a row that is gone leaves the target, or is marked there."""
        return self.action != "report"


@dataclass(frozen=True, kw_only=True)
class FreshWithin:
    """How old the rows of a table or mart may become."""

    warn: timedelta | None = None
    """From this age on, the status has a warning; None: it has none."""
    fail: timedelta | None = None
    """From this age on, it is late; None: it never is."""
    verified: timedelta | None = None
    """So long after its last comparison, its proof is late; None: it never is."""

    @property
    def limits_rows(self) -> bool:
        """Whether the age of the rows matters."""
        return self.warn is not None or self.fail is not None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One source table and how it is loaded."""

    name: str
    primary_key: tuple[str, ...] = ()
    """Empty: taken from the source's catalog at run time."""
    incremental: Incremental | None = None
    mode: Mode | None = None
    """None: chosen by `mode_with_key`."""
    include: tuple[str, ...] = ()
    """Columns to load; empty means all."""
    exclude: tuple[str, ...] = ()
    schema_contract: Literal["evolve", "freeze"] = "evolve"
    fill: Literal["auto"] | None = None
    """Whether older rows get the values of a column that drift adds; None leaves them NULL."""
    max_shrink: float | None = None
    """Largest share of the rows (0 to 1) that a full load may remove; None: see
    `apply.refuse_shrinking`."""
    deletes: Deletes | None = None
    """None: rows that are deleted from the source stay in the target."""
    overlap: bool = True
    """Whether the load may begin while the table is still extracted."""
    extract_tasks: int = 1
    """How many Airflow tasks may read the table at the same time, where it is read whole."""
    fresh_within: FreshWithin | None = None
    """None: its age does not matter."""
    tasks: Tasks = Tasks()
    matched: bool = False
    """Whether a pattern brought it in: then it is no error when the source no longer has it."""

    def mode_with_key(self, has_key: bool) -> Mode:
        """The declared mode, else replace without `incremental`, merge with a primary key, and
        append without one."""
        if self.mode:
            return self.mode
        if not self.incremental:
            return "replace"
        if has_key:
            return "merge"
        return "append"


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Tables by a pattern of their names, looked up in the source when a run begins. Each is loaded
    as `table` is."""

    name: str
    table: Table
    exclude: tuple[str, ...] = ()

    @cached_property
    def excluded_patterns(self) -> tuple[str, ...]:
        """Those of `exclude` that are patterns: `exclude: [tmp_*]`."""
        return tuple(filter(is_pattern, self.exclude))

    @cached_property
    def _excluded_names(self) -> frozenset[str]:
        # There may be thousands, and each is asked for each table.
        plain = (name for name in self.exclude if not is_pattern(name))
        return frozenset(map(unescape_wildcards, plain))

    def matches(self, name: str) -> bool:
        """Whether a table of this name is one of them."""
        if name in self._excluded_names:
            return False
        if any(matches(excluded, name) for excluded in self.excluded_patterns):
            return False
        return matches(self.name, name)


@dataclass(frozen=True, kw_only=True)
class Transform:
    """One mart: a SELECT (table, view, merge) or a script. `sql` is the text of `file`."""

    name: str
    sql: str
    file: Path
    materialized: Materialized = "table"
    unique_key: tuple[str, ...] = ()
    fresh_within: FreshWithin | None = None
    """None: its age does not matter."""
    tasks: Tasks = Tasks()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A whole pipeline file, defaults applied."""

    name: str
    """Also the DAG id."""
    file: Path
    """The YAML it was read from."""
    source: Source
    lake: Lake
    warehouse: Warehouse
    description: str = ""
    schedule: str | None = None
    """A cron schedule or preset."""
    assets: tuple[str, ...] = ()
    """Tables and marts of other pipelines whose changes start a run: `schema.table`, or
    `conn_id.schema.table` for those of another warehouse."""
    start_date: str | None = None
    """ISO 8601 date or time; None means no start, which is enough for manual runs."""
    catchup: bool = False
    """Whether Airflow also starts the scheduled runs that were due earlier and never started."""
    verify: str | None = None
    """How often tables and marts are compared with their source and SELECT: a schedule, or
    `10 runs`; None means never."""
    owner: str = "airflow"
    tags: tuple[str, ...] = ()
    notify: tuple[Route, ...] = ()
    """Where alerts go; empty means nowhere."""
    tasks: Tasks = Tasks()
    tables: tuple[Table, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    transforms: tuple[Transform, ...] = field(default=())
    external: tuple[str, ...] = ()
    """Tables of the warehouse that transforms read and this pipeline does not create:
    `schema.table`, or `schema.*` for a whole schema."""

    @property
    def entries(self) -> tuple[Table, ...]:
        """All entries under `tables`: the tables, then one for each pattern."""
        return (*self.tables, *(pattern.table for pattern in self.patterns))

    def granularity(self, table: Table) -> Granularity:
        """The granularity of one of the entries; never `auto`."""
        if table.tasks.granularity != "auto":
            return table.tasks.granularity
        entries = len(self.tables) + len(self.patterns)
        return "batch" if entries > MOST_WITH_TASKS else "step"

    @cached_property
    def promises_freshness(self) -> bool:
        """Whether the age of one of its tables or marts matters."""
        tables = any(table.fresh_within for table in self.entries)
        return tables or any(transform.fresh_within for transform in self.transforms)

    @cached_property
    def external_names(self) -> frozenset[str]:
        """The names under `external`."""
        return frozenset(self.external)

    @cached_property
    def _entries_by_name(self) -> Mapping[str, Table]:
        # The first of a name counts; there is no second in a checked file.
        return {table.name: table for table in reversed(self.entries)}

    @cached_property
    def _table_places(self) -> Mapping[str, int]:
        return {table.name: place for place, table in enumerate(self.tables)}

    def has_table(self, name: str) -> bool:
        """Whether the spec names the table itself, not by a pattern."""
        return name in self._table_places

    def tables_in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names in the order of the spec; then those that patterns match, sorted."""
        last = len(self.tables)
        return tuple(sorted(names, key=lambda name: (self._table_places.get(name, last), name)))

    def table(self, name: str) -> Table:
        """The table or pattern entry `name`, or the table `name` that a pattern matches. Raises
        KeyError when there is none."""
        entry = self._entries_by_name.get(name)
        if entry:
            return entry
        pattern = self.pattern_of(name)
        if pattern is None:
            raise KeyError(name)
        return replace(pattern.table, name=name, matched=True)

    def pattern_of(self, name: str) -> Pattern | None:
        """The first pattern that matches `name`, unless the spec names that table itself."""
        if self.has_table(name):
            return None
        return next((pattern for pattern in self.patterns if pattern.matches(name)), None)

    def with_matched(self, names: Iterable[str]) -> Pipeline:
        """This pipeline with the tables `names`, which its patterns match, in place of the
        patterns."""
        matched = [self.table(name) for name in names]
        return replace(self, tables=(*self.tables, *matched), patterns=())

    @cached_property
    def _transforms_by_name(self) -> Mapping[str, Transform]:
        return {transform.name: transform for transform in reversed(self.transforms)}

    def has_transform(self, name: str) -> bool:
        """Whether there is a transform of this name."""
        return name in self._transforms_by_name

    @cached_property
    def _transform_places(self) -> Mapping[str, int]:
        return {transform.name: place for place, transform in enumerate(self.transforms)}

    def transforms_in_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names of transforms in the order of the spec."""
        return tuple(sorted(names, key=self._transform_places.__getitem__))

    def transform(self, name: str) -> Transform:
        """The transform `name`. Raises KeyError when there is none."""
        return self._transforms_by_name[name]


@dataclass(frozen=True)
class Inputs:
    """What a transform reads: tables of the spec and other transforms, each in the spec's order;
    tables under `external`, each as `schema.table` and sorted."""

    tables: tuple[str, ...]
    transforms: tuple[str, ...]
    external: tuple[str, ...] = ()
