"""What a run is asked to do (`RunRequest`), and how each of its steps ended (`Outcome`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from loadsheet.checks import Checked

EVERYTHING = "*"
"""In place of the names of tables and marts to verify: all of them."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """How much of each table a sample run reads: a `share` (0 to 1), or about so many `rows`."""

    share: float | None = None
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What one run of a pipeline must do: the options of a schedule, a trigger form or the command
    line. `loadsheet.engine.request` makes them."""

    run_id: str
    """Unique per pipeline; retries of one run share it (Airflow's run id, `cli__<UTC time>` or
    `repair__<UTC time>`)."""
    full_refresh: frozenset[str] | Literal["all"] = frozenset()
    """Tables and transforms to extract, load and build in full, or `all`."""
    only: frozenset[str] | None = None
    """Tables to extract and load; None means all."""
    interval_start: str | None = None
    interval_end: str | None = None
    """ISO 8601 times with offset (or numbers for numeric cursors): the run's data interval `[start,
    end)`."""
    explicit_interval: bool = False
    """Whether a person asked for the interval (`--from --to`, trigger form). Then it also limits
    tables that are read by their watermark."""

    repair: frozenset[str] = frozenset()
    """Tables of which the run reads only the rows that differ from the source, wherever they are;
    their watermarks stay."""
    is_repair: bool = False
    """Whether the run mends what `loadsheet verify` has found, and is none of the schedule's or of
    a person's: what needs a run's interval waits for one of those."""
    accept_source: bool = False
    """Whether to continue from the watermark although the source was restored or failed over: the
    user knows that it has lost nothing."""
    verify: frozenset[str] = frozenset()
    """Tables and marts that the step `verify` compares although they are not due; `*` means all."""
    sample: Sample | None = None
    """How much to read of each table; set only for a pipeline from `loadsheet.engine.sample`."""
    resumes: frozenset[str] = frozenset()
    """Tables and transforms in which this run resumes a stopped run of the same id: what that one
    has extracted, loaded or built is not done again."""
    found_unchanged: frozenset[str] = frozenset()
    """Tables in which the stopped run has found nothing new; they are not read again."""

    def is_full(self, name: str) -> bool:
        """Whether `name` is to be done in full, ignoring watermarks."""
        return self.full_refresh == "all" or name in self.full_refresh

    def with_full(self, name: str) -> RunRequest:
        """The same request, with `name` done in full."""
        if self.full_refresh == "all":
            return self
        return replace(self, full_refresh=self.full_refresh | {name})

    def wants(self, table: str) -> bool:
        """Whether this run extracts and loads `table`."""
        return self.only is None or table in self.only


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a step ended when it did not fail."""

    status: Literal["done", "skipped"]
    message: str
    """One line for people: what happened or why there was nothing to do."""
    load_id: str | None = None
    """The id of the load: all that the extract task passes to the load task."""
    counts: dict[str, int] = field(default_factory=dict)
    """`extracted`, `inserted`, `updated`, `deleted` rows and `bytes`, as far as they apply."""
    changed: bool = False
    """Whether a table or mart may have other rows than before."""
    held_back: bool = False
    """Whether open transactions kept an extraction from moving the watermark further."""
    lag_seconds: float | None = None
    """Of an extraction by a time cursor: how far its watermark is below the source's clock."""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    """Of a comparison: how many tables and marts have which verdict."""
    checked: tuple[Checked, ...] = ()
    """What was checked in the rows."""
    names: tuple[str, ...] = ()
    """The tables that a pattern matches, or the ids of the steps that a look has found idle."""
    remarks: tuple[str, ...] = ()
    """The parts of `message` that a person should see where many steps are summed up."""
    drift: tuple[str, ...] = ()
    """What the load has changed in its target because the source's columns have changed; these are
    among the remarks."""
    reason: str = ""
    """Of a skipped step without remarks: the part of `message` that steps skipped alike share."""

    @property
    def skipped(self) -> bool:
        """Whether there was nothing to do."""
        return self.status == "skipped"


def left_out(request: RunRequest, table: str) -> Outcome | None:
    """The outcome of a step of a table that the run does not extract; None where it does."""
    if table in request.found_unchanged:
        return skipped("had nothing new before the run was stopped")
    if not request.wants(table):
        return skipped("not chosen: this run is limited to other tables")
    return None


def nothing_new_since(
    lower: str | None, remarks: tuple[str, ...] = (), held_back: bool = False
) -> Outcome:
    """The outcome of an extract step that has found nothing new, since the cursor's value `lower`
    where it has read from there."""
    since = f" since {lower}" if lower else ""
    message = "; ".join([f"nothing new{since}", *remarks])
    return replace(skipped(message, remarks, reason="nothing new"), held_back=held_back)


def skipped(message: str, remarks: tuple[str, ...] = (), reason: str = "") -> Outcome:
    """The outcome of a step that had nothing to do; `message` tells why."""
    return Outcome(status="skipped", message=message, remarks=remarks, reason=reason or message)
