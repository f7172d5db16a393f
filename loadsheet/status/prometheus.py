"""The status of pipelines as gauges, in Prometheus's text format 0.0.4. Their names and labels are
documented in docs/metrics.md and stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import get_args

from loadsheet.names import slug
from loadsheet.redact import on_one_line
from loadsheet.status.document import open_for, watermark_age
from loadsheet.status.models import PipelineStatus, State, TableStatus, TargetStatus

HELP = {
    "up": "1: the state of the pipeline is known. 0: its file is broken, or its warehouse away.",
    "source_up": "1: the source could be asked. 0: it could not, and lags are unknown.",
    "status_timestamp_seconds": "When the warehouse was asked, by its clock.",
    "state": "1 for the state that the table or mart is in, 0 for the others.",
    "failed": "1: the last run of the table or mart failed, and none has worked since.",
    "failed_since_timestamp_seconds": "The first failure since it last worked.",
    "rows": "Rows in the table or mart, counted or as the server estimates.",
    "last_load_timestamp_seconds": "When its last load, or build, was committed.",
    "last_load_age_seconds": "How long ago that was when the warehouse was asked.",
    "last_load_duration_seconds": "How long its last load took to extract and load, or to build.",
    "last_load_rows": "Rows that its last load, or build, has extracted, inserted and so on.",
    "last_load_bytes": "Bytes that its last load has stored in the lake.",
    "watermark_timestamp_seconds": "The watermark, where it is a time. No older row is missing.",
    "watermark_age_seconds": "How far the watermark was below the source's clock.",
    "lag_seconds": "How far the source's newest row is above the watermark, where it is a time.",
    "lag_distance": "The same where the watermark is a number.",
    "held_back_seconds": "How long the transaction has been open that holds rows back.",
    "missing_intervals": "Data intervals that no run has read.",
    "verdict": "1 for the last verdict of a comparison, 0 for the others.",
    "verified_timestamp_seconds": "When its rows were last compared.",
    "verified_age_seconds": "How long ago that was when the warehouse was asked.",
    "late": "1: its rows, or its last comparison, are older than fresh_within allows.",
}
"""Every gauge without its prefix, and what it tells."""
_STATES: tuple[str, ...] = get_args(State)
_VERDICTS = ("equal", "differs", "not proven")

Value = float | None
Sample = tuple[str, Value, dict[str, str]]
"""A gauge's name; its value, None where it is not known and the sample left out; and the labels
that it has besides those of its table."""


def exposition(states: Mapping[str, PipelineStatus | None]) -> str:
    """The samples of all pipelines by name; None for one whose state is not known."""
    lines: dict[str, list[str]] = {name: [] for name in HELP}
    for pipeline, status in states.items():
        for name, value, labels in _pipeline_samples(status):
            if value is not None:
                line = _line(name, value, {"pipeline": pipeline, **labels})
                lines[name].append(line)
    text = []
    for name, samples in lines.items():
        if samples:
            text += [f"# HELP loadsheet_{name} {HELP[name]}", f"# TYPE loadsheet_{name} gauge"]
            text += samples
    return "".join(f"{line}\n" for line in text)


def _line(name: str, value: float, labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    number = repr(value) if isinstance(value, float) else str(int(value))
    return f"loadsheet_{name}{{{pairs}}} {number}"


def _escaped(text: str) -> str:
    """A label's value. A name that would steer a terminal is written as task ids write it, which
    makes it none of another."""
    # A file's name may be no UTF-8, and one such label makes the receiver refuse all samples.
    text = text.encode("utf-8", "backslashreplace").decode()
    if on_one_line(text) != text:
        text = slug(text)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _pipeline_samples(status: PipelineStatus | None) -> Iterator[Sample]:
    yield "up", status is not None, {}
    if status is None:
        return
    yield "source_up", not status.source_unknown, {}
    yield "status_timestamp_seconds", status.at.timestamp(), {}
    targets: list[tuple[str, TargetStatus]] = [("table", table) for table in status.tables]
    targets += [("transform", transform) for transform in status.transforms]
    for kind, target in targets:
        names = {"kind": kind, "name": target.name}
        for name, value, labels in _target_samples(target, status):
            yield name, value, {**names, **labels}


def _target_samples(target: TargetStatus, status: PipelineStatus) -> Iterator[Sample]:
    yield from _one_of("state", target.state, _STATES)
    yield "failed", target.failure is not None, {}
    if target.failure:
        yield "failed_since_timestamp_seconds", target.failure.since.timestamp(), {}
    yield "rows", target.rows.number, {}
    if last := target.last:
        yield from _moment("last_load", last.at, status)
        yield "last_load_duration_seconds", float(last.seconds), {}
        for change in ("extracted", "inserted", "updated", "deleted"):
            yield "last_load_rows", getattr(last, change), {"change": change}
        yield "last_load_bytes", last.bytes, {}
    if isinstance(target, TableStatus):
        yield from _table_samples(target, status)
    if verdict := target.verdict:
        yield from _one_of("verdict", verdict.verdict, _VERDICTS)
        yield from _moment("verified", verdict.verified_at, status)
    for found in (target.age, target.proof):
        if found:
            yield "late", found.is_late, {"of": found.of}


def _table_samples(table: TableStatus, status: PipelineStatus) -> Iterator[Sample]:
    age = watermark_age(table, status)
    if age is not None:
        clock = status.source_clock or status.at
        yield "watermark_timestamp_seconds", clock.timestamp() - age, {}
        yield "watermark_age_seconds", age, {}
    if table.lag:
        yield "lag_seconds", table.lag.seconds, {}
        yield "lag_distance", table.lag.distance, {}
    if table.held_back_by:
        yield "held_back_seconds", open_for(table.held_back_by, status), {}
    yield "missing_intervals", len(table.gaps), {}


def _one_of(name: str, current: str, all_of_them: Iterable[str]) -> Iterator[Sample]:
    for each in all_of_them:
        yield name, each == current, {name: each}


def _moment(name: str, at: datetime, status: PipelineStatus) -> Iterator[Sample]:
    yield f"{name}_timestamp_seconds", at.timestamp(), {}
    yield f"{name}_age_seconds", (status.at - at).total_seconds(), {}
