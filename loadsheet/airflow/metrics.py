"""What the tasks tell Airflow's own metrics (StatsD, Datadog, OpenTelemetry) about their steps.

docs/metrics.md lists the names: dashboards use them, so they stay. Where metrics are off, which is
Airflow's default, nothing is imported and nothing counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf

from loadsheet.errors import Differs
from loadsheet.names import slug
from loadsheet.outcome import Outcome
from loadsheet.redact import summary

if TYPE_CHECKING:
    from loadsheet.plan.steps import Step
    from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)
_CHANGES = ("inserted", "updated", "deleted")
_DATADOG = "statsd_datadog_enabled"


def report(
    pipeline: Pipeline, step: Step, result: Outcome | Exception, seconds: float | None
) -> None:
    """Count the step, which has ended in `result` and took so long (None: not worth telling). The
    work is done, so an error here is a warning in the log."""
    if not _are_on():
        return
    try:
        _Metrics(pipeline, step).count(result, seconds)
    except Exception as error:
        _log.warning("metrics of %s are not complete: %s", step.id, summary(error))


def _are_on() -> bool:
    return any(conf.getboolean("metrics", key) for key in ("statsd_on", "otel_on", _DATADOG))


def _have_tags() -> bool:
    """Whether the receiver gets tags. Plain StatsD has names alone. The order is that in which
    Airflow chooses among several."""
    if conf.getboolean("metrics", _DATADOG) or not conf.getboolean("metrics", "statsd_on"):
        return True
    return bool(conf.getboolean("metrics", "statsd_influxdb_enabled"))


class _Metrics:
    """The metrics of one step."""

    def __init__(self, pipeline: Pipeline, step: Step):
        from airflow.sdk.observability import stats

        self._stats = stats
        self._tags = {
            "pipeline": slug(pipeline.name),
            "step": step.kind,
            "name": slug(step.name),
        }
        # A load repeats what its extract step has told.
        self._changes = _CHANGES if step.kind == "load" else ("extracted", *_CHANGES)
        self._have_tags = _have_tags()

    def count(self, result: Outcome | Exception, seconds: float | None) -> None:
        if isinstance(result, Outcome):
            self._increase("steps", 1, state=result.status)
            self._increase("bytes", result.counts.get("bytes", 0))
            for change in self._changes:
                self._increase("rows", result.counts.get(change, 0), change=change)
            self._increase("held_back", int(result.held_back))
            self._time("lag", result.lag_seconds)
            self._count_verdicts(result.verdicts)
        else:
            self._increase("steps", 1, state="failed")
            if isinstance(result, Differs):
                self._count_verdicts(result.verdicts)
        self._time("duration", seconds)

    def _count_verdicts(self, verdicts: Mapping[str, int]) -> None:
        for verdict, number in verdicts.items():
            self._increase("checks", number, verdict=verdict.replace(" ", "_"))

    def _increase(self, metric: str, number: int, **more: str) -> None:
        if number:
            name, tags = self._named(metric, more)
            self._stats.incr(name, number, tags=tags)

    def _time(self, metric: str, seconds: float | None) -> None:
        if seconds is None:
            return
        name, tags = self._named(metric, {})
        self._stats.timing(name, seconds * 1000, tags=tags)

    def _named(self, metric: str, more: dict[str, str]) -> tuple[str, dict[str, str] | None]:
        """The metric's name and its tags; where there are no tags, all in the name, as Airflow does
        it: `loadsheet.rows.shop.load.orders.inserted`."""
        tags = self._tags | more
        if self._have_tags:
            return f"loadsheet.{metric}", tags
        return ".".join(["loadsheet", metric, *tags.values()]), None
