"""What happens in the demo, act by act."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import psycopg

from demo.checks import Check, run_checks, slack_checks
from demo.compare import mart_counts, marts_reconcile, staging_equals_source
from demo.flights import a_day_passes
from demo.flights.day import Counts
from demo.ledger import Run, read_run
from demo.report import check_lines, day_line, mart_table, run_table
from demo.screen import Screen
from demo.watch import by_group, in_words, watching
from demo.world import World

DAG = "flights"
BROKEN = "boarding_passes"
FAILING_TASK = f"extract.extract_{BROKEN}"


class OtherEnding(Exception):
    """A run did not end as it should; there is no point in going on."""


class Story:
    """Plays on a world that has started."""

    def __init__(self, world: World, screen: Screen):
        self._world, self._screen, self._api = world, screen, world.airflow.api

    def tell(self) -> list[Check]:
        """All acts; returns the checks. Raises ServerFailed or ApiError when Airflow does not keep
        up."""
        self._api.unpause(DAG)
        try:
            return self._acts()
        except OtherEnding as ending:
            return [Check(str(ending), False)]

    def _acts(self) -> list[Check]:
        self._screen.chapter(
            "Run 1: everything",
            "8 tables from the source through the lake to staging, then 10 marts.",
        )
        first = self._run("loading everything")
        self._screen.chapter(
            "Run 2: a day later",
            "New bookings; flights leave, land, are late; an airport is renamed.",
        )
        day = self._a_day()
        second = self._run("loading what has changed")
        text = (
            f"Somebody renames bookings.{BROKEN} in the source. The task fails; Slack hears of it."
        )
        self._screen.chapter("Run 3: something breaks, on purpose", text)
        failed = self._failure()
        self._screen.chapter(
            "Run 4: mended",
            "The table has its name back and nothing is new: everything is skipped.",
        )
        idle = self._run("looking for news", report=False)
        self._screen.chapter("What is in the warehouse now")
        self._screen.show(mart_table(mart_counts(self._world.warehouse)))
        return self._verdict([*run_checks(first, second, idle, day), *self._slack_checks(failed)])

    def _a_day(self) -> dict[str, Counts]:
        with self._screen.step("a day passes in the source") as step:
            day = a_day_passes(self._world.source)
            step.detail = day_line(day)
        return day

    def _failure(self) -> Run:
        """A run of one table that has another name now; gives it its name back."""
        self._source(f"ALTER TABLE bookings.{BROKEN} RENAME TO {BROKEN}_old")
        try:
            run = self._run("loading one table", "failed", {"tables": [BROKEN]}, report=False)
            self._world.slack.wait_for(1, timeout=15)
        finally:
            self._source(f"ALTER TABLE bookings.{BROKEN}_old RENAME TO {BROKEN}")
        return run

    def _source(self, statement: str) -> None:
        with psycopg.connect(self._world.source) as connection:
            connection.execute(statement.encode())

    def _run(
        self,
        title: str,
        expected: str = "success",
        conf: Mapping[str, Any] | None = None,
        report: bool = True,
    ) -> Run:
        """Trigger the DAG, show its progress and what it did. Raises OtherEnding."""
        started = time.monotonic()
        run_id = self._api.trigger(DAG, conf)
        with watching(self._screen) as watch:
            state = self._api.wait(DAG, run_id, timeout=3600, watch=watch.seen, poll=1.0)
        tasks = self._api.tasks(DAG, run_id)
        run = read_run(self._world.warehouse, run_id, state, time.monotonic() - started, tasks)
        self._summary(title, run, expected)
        if report:
            self._screen.show(run_table(run))
        return run

    def _summary(self, title: str, run: Run, expected: str) -> None:
        right = run.state == expected
        verdict = f"{run.state}, as it should" if right and expected == "failed" else run.state
        groups = " · ".join(
            f"{name}: {in_words(states)}" for name, states in by_group(run.tasks).items()
        )
        self._screen.result(right, f"{title}: {verdict}", groups, run.seconds)
        if not right:
            for task in run.tasks:
                if task.state == "failed":
                    self._screen.note(
                        f"the end of the log of {task.task_id}:\n{self._log(run, task.task_id)[-1500:]}"
                    )
            raise OtherEnding(f"the run '{title}' ended as {run.state} instead of {expected}")

    def _log(self, run: Run, task_id: str) -> str:
        tries = {task.task_id: task.try_number for task in run.tasks}
        return self._api.log(DAG, run.run_id, task_id, tries[task_id])

    def _slack_checks(self, failed: Run) -> list[Check]:
        messages, log = list(self._world.slack.messages), self._log(failed, FAILING_TASK)
        return list(slack_checks(messages, failed, FAILING_TASK, self._world.airflow.url, log))

    def _verdict(self, checks: list[Check]) -> list[Check]:
        with self._screen.step("comparing staging with the source, marts with staging"):
            checks += staging_equals_source(self._world.source, self._world.warehouse)
            checks += marts_reconcile(self._world.warehouse)
        self._screen.show(check_lines(checks))
        return checks
