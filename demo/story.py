"""What happens in the demo, act by act."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import psycopg

from demo import checks
from demo.checks import Check
from demo.flights import a_day_passes
from demo.ledger import Run, read_run
from demo.report import check_table, day_line, mart_table, run_table
from demo.screen import Screen
from demo.watch import by_group, in_words, watching
from demo.world import World

DAG = "flights"
BROKEN = "boarding_passes"
FAILING_TASK = f"extract.extract_{BROKEN}"


class Story:
    """Plays on a world that has started."""

    def __init__(self, world: World, screen: Screen):
        self._world, self._screen, self._api = world, screen, world.airflow.api

    def tell(self) -> list[Check]:
        """All acts; returns the checks. Raises ServerFailed or ApiError when Airflow does not keep up."""
        self._api.unpause(DAG)
        first = self._first()
        second = self._a_day_later()
        failed = self._failure()
        idle = self._recovery()
        return self._verdict(first, second, failed, idle)

    def _first(self) -> Run:
        self._screen.chapter(
            "Run 1: everything", "8 tables from the source through the lake to staging, then 10 marts."
        )
        return self._run("loading everything", "success")

    def _a_day_later(self) -> Run:
        self._screen.chapter(
            "Run 2: a day later", "New bookings; flights leave, land, are late; an airport is renamed."
        )
        with self._screen.step("a day passes in the source") as step:
            step.detail = day_line(a_day_passes(self._world.source))
        return self._run("loading what has changed", "success")

    def _failure(self) -> Run:
        text = f"Somebody renames bookings.{BROKEN} in the source. The task fails; Slack hears of it."
        self._screen.chapter("Run 3: something breaks, on purpose", text)
        self._source(f"ALTER TABLE bookings.{BROKEN} RENAME TO {BROKEN}_old")
        try:
            run = self._run("loading one table", "failed", {"tables": [BROKEN]}, report=False)
            self._world.slack.wait_for(1, timeout=15)
        finally:
            self._source(f"ALTER TABLE bookings.{BROKEN}_old RENAME TO {BROKEN}")
        return run

    def _recovery(self) -> Run:
        self._screen.chapter("Run 4: mended", "The table has its name back and nothing is new: everything is skipped.")
        return self._run("looking for news", "success", report=False)

    def _source(self, statement: str) -> None:
        with psycopg.connect(self._world.source) as connection:
            connection.execute(statement.encode())

    def _run(self, title: str, expected: str, conf: Mapping[str, Any] | None = None, report: bool = True) -> Run:
        """Trigger the DAG, show its progress and what it did."""
        started = time.monotonic()
        run_id = self._api.trigger(DAG, conf)
        with watching(self._screen) as watch:
            state = self._api.wait(DAG, run_id, timeout=1800, watch=watch.seen, poll=1.0)
        tasks = self._api.tasks(DAG, run_id)
        run = read_run(self._world.warehouse, run_id, state, time.monotonic() - started, tasks)
        self._summary(title, run, expected)
        if report:
            self._screen.show(run_table(run))
        return run

    def _summary(self, title: str, run: Run, expected: str) -> None:
        right = run.state == expected
        groups = " · ".join(f"{name}: {in_words(states)}" for name, states in by_group(run.tasks).items())
        verdict = f"{run.state}, as it should" if right and expected == "failed" else run.state
        self._screen.result(right, f"{title}: {verdict}", groups, run.seconds)
        for task in run.tasks:
            if not right and task.state == "failed":
                self._screen.note(f"{task.task_id}\n{self._log(run, task.task_id)[-1500:]}")

    def _log(self, run: Run, task_id: str) -> str:
        tries = {task.task_id: task.try_number for task in run.tasks}
        return self._api.log(DAG, run.run_id, task_id, tries[task_id])

    def _verdict(self, first: Run, second: Run, failed: Run, idle: Run) -> list[Check]:
        self._screen.chapter("What is in the warehouse now")
        self._screen.show(mart_table(checks.mart_counts(self._world.warehouse)))
        with self._screen.step("comparing staging with the source, marts with staging"):
            found = [
                *(Check(f"run {n} ended as it should", run.state == wanted, run.state) for n, run, wanted in
                  ((1, first, "success"), (2, second, "success"), (3, failed, "failed"), (4, idle, "success"))),
                *checks.run_checks(first, second, idle),
                *checks.staging_equals_source(self._world.source, self._world.warehouse),
                *checks.marts_reconcile(self._world.warehouse),
                *checks.slack_checks(
                    list(self._world.slack.messages), failed, FAILING_TASK, self._world.airflow.url,
                    self._log(failed, FAILING_TASK),
                ),
            ]  # fmt: skip
        self._screen.show(check_table(found))
        return found
