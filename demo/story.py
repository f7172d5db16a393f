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
    """A run did not end as expected, so the demo cannot continue."""


class Story:
    """Plays on a world that has started."""

    def __init__(self, world: World, screen: Screen):
        self._world, self._screen, self._api = world, screen, world.airflow.api

    def tell(self) -> list[Check]:
        """Play all acts and return the checks.

        Raises ServerFailed or ApiError when Airflow stops or does not answer.
        """
        self._api.unpause(DAG)
        try:
            return self._acts()
        except OtherEnding as ending:
            return [Check(str(ending), False)]

    def _acts(self) -> list[Check]:
        text = "Loads 8 tables from the source through the lake to staging, then builds 10 marts."
        self._screen.chapter("Run 1: everything", text)
        first = self._run("loading everything")
        text = "There are new bookings; flights leave, land or are late; an airport is renamed."
        self._screen.chapter("Run 2: one day later", text)
        day = self._a_day()
        second = self._run("loading the changes")
        text = f"bookings.{BROKEN} is renamed in the source. The task fails; Slack gets an alert."
        self._screen.chapter("Run 3: a deliberate failure", text)
        failed = self._failure()
        text = "The table has its old name again and there are no new rows: everything is skipped."
        self._screen.chapter("Run 4: recovery", text)
        idle = self._run("looking for new rows", report=False)
        self._screen.chapter("Rows in the warehouse")
        self._screen.show(mart_table(mart_counts(self._world.warehouse)))
        return self._verdict([*run_checks(first, second, idle, day), *self._slack_checks(failed)])

    def _a_day(self) -> dict[str, Counts]:
        with self._screen.step("simulating one day in the source") as step:
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
        verdict = f"{run.state}, as expected" if right and expected == "failed" else run.state
        groups = " · ".join(
            f"{name}: {in_words(states)}" for name, states in by_group(run.tasks).items()
        )
        self._screen.result(right, f"{title}: {verdict}", groups, run.seconds)
        if not right:
            for task in run.tasks:
                if task.state == "failed":
                    end = self._log(run, task.task_id)[-1500:]
                    self._screen.note(f"end of the log of {task.task_id}:\n{end}")
            raise OtherEnding(f"the run '{title}' ended as {run.state}, expected {expected}")

    def _log(self, run: Run, task_id: str) -> str:
        tries = {task.task_id: task.try_number for task in run.tasks}
        return self._api.log(DAG, run.run_id, task_id, tries[task_id])

    def _slack_checks(self, failed: Run) -> list[Check]:
        messages, log = list(self._world.slack.messages), self._log(failed, FAILING_TASK)
        return list(slack_checks(messages, failed, FAILING_TASK, self._world.airflow.url, log))

    def _verdict(self, checks: list[Check]) -> list[Check]:
        with self._screen.step("comparing staging with the source, and the marts with staging"):
            checks += staging_equals_source(self._world.source, self._world.warehouse)
            checks += marts_reconcile(self._world.warehouse)
        self._screen.show(check_lines(checks))
        return checks
