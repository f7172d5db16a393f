"""Runs all steps of a plan without Airflow, in parallel, each after its upstream.

`run_pipeline` is the entry. Two places hold the steps that can start: `_ready` those that wait for
a free thread, `_waiting` those that wait for the time of their retry. The main thread moves steps
from one to the other and collects results; the pool's threads do the steps (`_try_step`).
"""

from __future__ import annotations

import gc
import heapq
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Literal

from loadsheet.connections.lookup import Connections
from loadsheet.engine import sizes
from loadsheet.engine.both_steps import servers_for_both
from loadsheet.engine.execute import Verify, execute
from loadsheet.engine.nothing_new import find_nothing_new
from loadsheet.engine.sessions import KeptServers
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step, build_plan, step_id, tasks_of
from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)

State = Literal["started", "done", "skipped", "failed", "upstream_failed"]
OnProgress = Callable[[Step, int | None, int], None]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A step failed with `error` and will be tried again in `delay` seconds."""

    number: int
    of: int
    """How many retries there are at most."""
    delay: float
    error: Exception

    def __str__(self) -> str:
        reason = str(self.error)
        if isinstance(self.error, LoadsheetError):
            reason = self.error.reason  # its place is the step, which is known here
        return f"retry {self.number} of {self.of} in {self.delay:g} s: {reason}"


OnStep = Callable[[Step, State | Literal["waiting"], Outcome | Exception | Retry | None], None]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended."""

    step: Step
    state: State
    result: Outcome | Exception | None
    """Its outcome, the exception it failed with, or None when an upstream step failed."""
    seconds: float = 0.0
    """From the start of its first try to the end of its last, waits included."""
    tries: int = 1


def run_pipeline(
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    on_step: OnStep = lambda step, state, result: None,
    progress: OnProgress = lambda step, rows, size: None,
    parallel: int = 2,
    retrying: bool = False,
    verify: Verify | None = None,
    servers: KeptServers | None = None,
) -> dict[str, StepResult]:
    """Run every step, `parallel` at a time, and return the results by step id, in plan order.

    With `retrying`, a step with a temporary failure is tried again, as `tasks.retries` and
    `tasks.retry_delay` in the spec say. `on_step` is called with each change of a step's state,
    `progress` while a step reads or loads; both are called from worker threads. `verify` does the
    step of that kind, in a pipeline that has one. `servers` may have sessions that the steps can
    use; they are closed at the end. A failed step fails what is downstream of it
    (`upstream_failed`) and nothing else: no exception of a step leaves this function.
    """
    # Imported modules stay alive, so the collector need not visit them again and again: that took
    # 0.1 s of a run of 6.
    gc.freeze()
    with servers_for_both(pipeline, connections, servers) as kept:
        run = _Run(pipeline, request, connections, kept, on_step, progress, retrying, verify)
        with ThreadPoolExecutor(parallel, thread_name_prefix="loadsheet") as pool:
            run.run_all(pool, parallel)
    return {step.id: run.results[step.id] for step in run.steps.values()}


class _Run:
    """One run: the results so far and the steps that are left.

    A step that waits for its retry occupies no thread. Otherwise a server that is down would soon
    stop all steps, also those that do not need it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        request: RunRequest,
        connections: Connections,
        servers: KeptServers,
        on_step: OnStep,
        progress: OnProgress,
        retrying: bool,
        verify: Verify | None,
    ):
        self.pipeline = pipeline
        self.request = request
        self.connections = connections
        self.on_step = on_step
        self.progress = progress
        self.retrying = retrying
        self.verify = verify
        self.servers = servers
        self.steps = {step.id: step for step in build_plan(pipeline)}
        self.results: dict[str, StepResult] = {}
        self._nothing_new: dict[str, Outcome] = {}
        self._pages: Mapping[str, int] = {}
        """How large the tables are in the source, where their order matters."""
        self._plan_order = {name: index for index, name in enumerate(self.steps)}
        self._started_at: dict[str, float] = {}
        self._tries: Counter[str] = Counter()
        self._ready: list[tuple[int, int, int, str]] = []
        """Steps that can start, by `_rank`; the step's id is last."""
        self._waiting: list[tuple[float, str]] = []
        """Steps that wait for their retry, by its time."""

    def run_all(self, pool: ThreadPoolExecutor, parallel: int) -> None:
        """Start every step as soon as possible; returns when all have ended."""
        self._nothing_new = find_nothing_new(self.pipeline, self.request, self.servers)
        extracted = self._extracted_tables()
        if len(extracted) > parallel:
            self._pages = sizes.pages(self.pipeline, extracted, self.servers)
        order = TopologicalSorter({step.id: step.upstream for step in self.steps.values()})
        order.prepare()
        running: dict[Future[StepResult | Retry], str] = {}
        while order.is_active():
            startable = list(order.get_ready())
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= now:
                startable.append(heapq.heappop(self._waiting)[1])
            for name in startable:
                heapq.heappush(self._ready, (*self._rank(self.steps[name]), name))
            # Not all at once into the pool: its queue could not be sorted by rank again when a
            # result makes a more important step ready.
            while self._ready and len(running) < parallel:
                name = heapq.heappop(self._ready)[-1]
                running[pool.submit(self._try_step, self.steps[name])] = name
            for future in self._wait_for_any(running):
                name = running.pop(future)
                result = future.result()
                if isinstance(result, Retry):
                    heapq.heappush(self._waiting, (time.monotonic() + result.delay, name))
                else:
                    self.results[name] = result
                    order.done(name)

    def _extracted_tables(self) -> list[str]:
        """The tables whose extract steps have to look at the source."""
        return [
            step.name
            for step in self.steps.values()
            if step.kind == "extract"
            and self.request.wants(step.name)
            and step.name not in self._nothing_new
        ]

    def _wait_for_any(
        self, running: dict[Future[StepResult | Retry], str]
    ) -> set[Future[StepResult | Retry]]:
        """The steps that have ended; waits for one of them, or until a retry is due."""
        patience: float | None = None
        if self._waiting:
            patience = max(self._waiting[0][0] - time.monotonic(), 0.0)
        if running:
            return wait(running, patience, FIRST_COMPLETED).done
        time.sleep(patience or 0.0)
        return set()

    def _rank(self, step: Step) -> tuple[int, int, int]:
        """The order in which ready steps start, lowest first.

        A load starts before another extract, so that tables arrive early. Of each kind the largest
        starts first, so that it does not run alone at the end. Otherwise in plan order.
        """
        position = self._plan_order[step.id]
        extracted = self._outcome_of_extract(step)
        if extracted:
            return 0, -extracted.counts.get("bytes", 0), position
        if step.kind == "extract":
            return 1, -self._pages.get(step.name, 0), position
        return 0, 0, position

    def _outcome_of_extract(self, step: Step) -> Outcome | None:
        """What the extract step of a load step has done; None for other steps."""
        if step.kind != "load":
            return None
        extracted = self.results.get(step_id("extract", step.name))
        if extracted is None or not isinstance(extracted.result, Outcome):
            return None
        return extracted.result

    def _try_step(self, step: Step) -> StepResult | Retry:
        """Do the step once, in a worker thread. Returns its result, or the retry that must
        follow."""
        for name in step.upstream:
            if self.results[name].state in ("failed", "upstream_failed"):
                self.on_step(step, "upstream_failed", None)
                return StepResult(step=step, state="upstream_failed", result=None)
        started_at = self._started_at.setdefault(step.id, time.monotonic())
        self._tries[step.id] += 1
        self.on_step(step, "started", None)
        extracted = self._outcome_of_extract(step)
        load_id = None
        if extracted:
            load_id = extracted.load_id
        result: Outcome | Exception
        state: State
        try:
            result = self._found(step) or execute(
                step,
                self.pipeline,
                self.request,
                self.connections,
                load_id=load_id,
                servers=self.servers,
                verify=self.verify,
                progress=lambda rows, size: self.progress(step, rows, size),
            )
            state = result.status
        except Exception as error:
            retry = self._retry_after(step, error)
            if retry:
                _log.info("%s of %s: %s", step.id, self.pipeline.name, retry)
                self.on_step(step, "waiting", retry)
                return retry
            result = error
            state = "failed"
        self.on_step(step, state, result)
        return StepResult(
            step=step,
            state=state,
            result=result,
            seconds=time.monotonic() - started_at,
            tries=self._tries[step.id],
        )

    def _found(self, step: Step) -> Outcome | None:
        """The outcome of an extract step whose table was found to have nothing new."""
        if step.kind != "extract":
            return None
        outcome = self._nothing_new.get(step.name)
        if outcome is None:
            return None
        outcome = replace(outcome, message=on_one_line(outcome.message))
        _log.info("%s of %s: %s", step.id, self.pipeline.name, outcome.message)
        return outcome

    def _retry_after(self, step: Step, error: Exception) -> Retry | None:
        """The retry that the spec allows after `error`; None after the last try, or where a retry
        would not help."""
        if not self.retrying:
            return None
        # Any other exception is a bug, which a retry would only repeat.
        if not isinstance(error, LoadsheetError) or not error.retryable:
            return None
        tasks = tasks_of(step, self.pipeline)
        number = self._tries[step.id]
        if number > tasks.retries:
            return None
        delay = tasks.retry_delay.total_seconds()
        return Retry(number=number, of=tasks.retries, delay=delay, error=error)
