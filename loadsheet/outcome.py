"""What a run asks for, and what a step answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How much of each table a run for development reads: a `share` (0 to 1), or about so many
    `rows`."""

    share: float | None = None
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """One run of a pipeline, as asked for by a schedule, a trigger form or the command line."""

    run_id: str
    """Unique per pipeline; retries of one run share it (Airflow's run id, or `cli__<UTC time>`)."""
    full_refresh: frozenset[str] | Literal["all"] = frozenset()
    """Tables and transforms to extract, load and build in full, or `all`."""
    only: frozenset[str] | None = None
    """Tables to move; None moves all."""
    interval_start: str | None = None
    interval_end: str | None = None
    """ISO 8601 times with offset (or numbers for numeric cursors): the run's data interval `[start,
    end)`."""
    explicit_interval: bool = False
    """The interval was asked for by a person (`--from --to`, trigger form): it also bounds
    watermark tables."""

    accept_source: bool = False
    """A source that was restored or failed over is known to have lost nothing: go on from the
    watermark."""
    sample: Sample | None = None
    """Read only so much of each table; of a pipeline that `loadsheet.engine.sample.sampled` has
    moved elsewhere."""
    resumes: frozenset[str] = frozenset()
    """Tables and transforms with which a stopped run of this id goes on: what it has extracted,
    loaded or built is not done again."""

    def is_full(self, name: str) -> bool:
        """Whether `name` is to be done in full, ignoring watermarks."""
        return self.full_refresh == "all" or name in self.full_refresh

    def wants(self, table: str) -> bool:
        """Whether this run moves `table`."""
        return self.only is None or table in self.only


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended when it did not fail."""

    status: Literal["done", "skipped"]
    message: str
    """One line for people: what happened or why there was nothing to do."""
    load_id: str | None = None
    """Names the load from extract to load; the only thing that travels between their tasks."""
    counts: dict[str, int] = field(default_factory=dict)
    """`extracted`, `inserted`, `updated`, `deleted` rows and `bytes`, as far as they apply."""
    names: tuple[str, ...] = ()
    """The tables that a pattern matches."""

    @property
    def skipped(self) -> bool:
        """True when there was nothing to do."""
        return self.status == "skipped"


def skipped(message: str) -> Outcome:
    """Nothing to do, and why."""
    return Outcome(status="skipped", message=message)
