"""Walk a plan without Airflow: the same steps, in parallel, each after its upstream."""

from __future__ import annotations

import gc
import heapq
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

from loadsheet.connections.lookup import Connections
from loadsheet.engine.execute import execute
from loadsheet.engine.sessions import KeptServers
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step, build_plan, step_id, tasks_of
from loadsheet.spec.models import Pipeline

State = Literal["started", "done", "skipped", "failed", "upstream_failed"]
OnProgress = Callable[[Step, int | None, int], None]


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A step failed with `error` and is tried again in `delay` seconds: retry `number` of at most
    `of`."""

    number: int
    of: int
    delay: float
    error: Exception

    def __str__(self) -> str:
        return f"retry {self.number} of {self.of} in {self.delay:g} s: {self.error}"


OnStep = Callable[[Step, State | Literal["waiting"], Outcome | Exception | Retry | None], None]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended: `result` is its outcome, the exception it failed with, or None when an
    upstream failed.

    `seconds` are from its first try's beginning to its last one's end.
    """

    step: Step
    state: State
    result: Outcome | Exception | None
    seconds: float = 0.0
    tries: int = 1


def run_pipeline(
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    on_step: OnStep = lambda step, state, result: None,
    progress: OnProgress = lambda step, rows, size: None,
    parallel: int = 2,
    retrying: bool = False,
) -> dict[str, StepResult]:
    """Run every step, `parallel` at a time, and return the results by step id, in plan order.

    With `retrying` a step whose failure may pass is tried again, as often and after as long as the
    spec's `tasks` say; `on_step` is told of each wait. A failed step fails what is downstream of it
    (`upstream_failed`) and nothing else; no exception of a step leaves this function. `on_step` and
    `progress` are called from worker threads.
    """
    walk = _Walk(pipeline, request, connections, on_step, progress, retrying)
    gc.freeze()  # what is imported stays: looking at it again and again took 0.1 s of a run of 6
    try:
        with ThreadPoolExecutor(parallel, thread_name_prefix="loadsheet") as pool:
            walk.through(pool, parallel)
    finally:
        walk.servers.close()
    return {step.id: walk.results[step.id] for step in walk.steps.values()}


class _Walk:
    """The steps that are left. A ready step is begun when one of the threads is free; one that
    waits for its retry has none, or a server that is away would keep as many steps as there are
    threads from all the others."""

    def __init__(
        self,
        pipeline: Pipeline,
        request: RunRequest,
        connections: Connections,
        on_step: OnStep,
        progress: OnProgress,
        retrying: bool,
    ):
        self.pipeline, self.request, self.connections = pipeline, request, connections
        self.on_step, self.progress, self.retrying = on_step, progress, retrying
        self.servers = KeptServers(pipeline, connections)
        self.steps = {step.id: step for step in build_plan(pipeline)}
        self.results: dict[str, StepResult] = {}
        self._places = {name: place for place, name in enumerate(self.steps)}
        self._began: dict[str, float] = {}
        self._tries: Counter[str] = Counter()
        self._ready: list[tuple[int, int, int, str]] = []
        self._later: list[tuple[float, str]] = []
        """Steps that wait for their retry, by the moment at which it is due."""

    def through(self, pool: ThreadPoolExecutor, parallel: int) -> None:
        """Begin every step as soon as it can be; returns when all have ended."""
        order = TopologicalSorter({step.id: step.upstream for step in self.steps.values()})
        order.prepare()
        running: dict[Future[StepResult | Retry], str] = {}
        while order.is_active():
            for name in (*order.get_ready(), *self._due()):
                heapq.heappush(self._ready, (*self._rank(self.steps[name]), name))
            while self._ready and len(running) < parallel:
                name = heapq.heappop(self._ready)[-1]
                running[pool.submit(self._run, self.steps[name])] = name
            for future in self._ended(running):
                name, result = running.pop(future), future.result()
                if isinstance(result, Retry):
                    heapq.heappush(self._later, (time.monotonic() + result.delay, name))
                else:
                    self.results[name] = result
                    order.done(name)

    def _due(self) -> list[str]:
        now, due = time.monotonic(), []
        while self._later and self._later[0][0] <= now:
            due.append(heapq.heappop(self._later)[1])
        return due

    def _ended(
        self, running: dict[Future[StepResult | Retry], str]
    ) -> set[Future[StepResult | Retry]]:
        """Those that have ended; waits for one, or until a retry is due."""
        patience = max(self._later[0][0] - time.monotonic(), 0.0) if self._later else None
        if running:
            return wait(running, patience, FIRST_COMPLETED).done
        time.sleep(patience or 0.0)
        return set()

    def _rank(self, step: Step) -> tuple[int, int, int]:
        """Lowest first: what is extracted is loaded before more is extracted, the largest first, so
        that no large one is left to run alone at the end; else as in the plan."""
        place = self._places[step.id]
        extracted = self.results.get(step_id("extract", step.name)) if step.kind == "load" else None
        if extracted and isinstance(extracted.result, Outcome):
            return 0, -extracted.result.counts.get("bytes", 0), place
        return int(step.kind == "extract"), 0, place

    def _run(self, step: Step) -> StepResult | Retry:
        """One try."""
        if any(self.results[name].state in ("failed", "upstream_failed") for name in step.upstream):
            self.on_step(step, "upstream_failed", None)
            return StepResult(step=step, state="upstream_failed", result=None)
        began = self._began.setdefault(step.id, time.monotonic())
        self._tries[step.id] += 1
        self.on_step(step, "started", None)
        try:
            outcome: Outcome | Exception = self._execute(step)
        except Exception as error:
            if retry := self._retry(step, error):
                self.on_step(step, "waiting", retry)
                return retry
            outcome = error
        state: State = "failed" if isinstance(outcome, Exception) else outcome.status
        self.on_step(step, state, outcome)
        seconds = time.monotonic() - began
        return StepResult(
            step=step, state=state, result=outcome, seconds=seconds, tries=self._tries[step.id]
        )

    def _retry(self, step: Step, error: Exception) -> Retry | None:
        """The retry that the spec allows after `error`; None when it was the last try, or another
        would not help."""
        tasks, number = tasks_of(step, self.pipeline), self._tries[step.id]
        if (
            not self.retrying
            or number > tasks.retries
            or not (isinstance(error, LoadsheetError) and error.retryable)
        ):
            return None
        return Retry(
            number=number, of=tasks.retries, delay=tasks.retry_delay.total_seconds(), error=error
        )

    def _execute(self, step: Step) -> Outcome:
        extracted = self.results.get(step_id("extract", step.name)) if step.kind == "load" else None
        load_id = (
            extracted.result.load_id
            if extracted and isinstance(extracted.result, Outcome)
            else None
        )
        return execute(
            step,
            self.pipeline,
            self.request,
            self.connections,
            load_id=load_id,
            servers=self.servers,
            progress=lambda rows, size: self.progress(step, rows, size),
        )
