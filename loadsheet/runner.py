"""Walk a plan without Airflow: the same steps, in parallel, each after its upstream."""

from __future__ import annotations

import gc
import heapq
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from typing import Literal

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from loadsheet.connections import Connections
from loadsheet.errors import LoadsheetError
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step, build_plan, step_id, tasks_of
from loadsheet.servers import KeptServers
from loadsheet.spec.models import Pipeline
from loadsheet.steps import execute

State = Literal["started", "done", "skipped", "failed", "upstream_failed"]
OnProgress = Callable[[Step, int | None, int], None]
# Steps that wait for their retry hold a thread, but none of the places at work.
_WAITING = 32


@dataclass(frozen=True, kw_only=True)
class Retry:
    """A step failed with `error` and is tried again in `delay` seconds: retry `number` of at most `of`."""

    number: int
    of: int
    delay: float
    error: Exception

    def __str__(self) -> str:
        return f"retry {self.number} of {self.of} in {self.delay:g} s: {self.error}"


OnStep = Callable[[Step, State | Literal["waiting"], Outcome | Exception | Retry | None], None]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended: `result` is its outcome, the exception it failed with, or None when an upstream failed.

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

    With `retrying` a step whose failure may pass is tried again, as often and after as long as the spec's `tasks`
    say; `on_step` is told of each wait. A failed step fails what is downstream of it (`upstream_failed`) and nothing
    else; no exception of a step leaves this function. `on_step` and `progress` are called from worker threads.
    """
    walk = _Walk(pipeline, request, connections, on_step, progress, parallel, retrying)
    gc.freeze()  # what is imported stays: looking at it again and again took 0.1 s of a run of 6
    try:
        with ThreadPoolExecutor(parallel + _WAITING, thread_name_prefix="loadsheet") as pool:
            walk.through(pool)
    finally:
        walk.servers.close()
    return {step.id: walk.results[step.id] for step in walk.steps.values()}


class _Walk:
    """The steps that are left. A ready step is begun when one of the places at work is free."""

    def __init__(
        self, pipeline: Pipeline, request: RunRequest, connections: Connections, on_step: OnStep, progress: OnProgress,
        parallel: int, retrying: bool,
    ):  # fmt: skip
        self.pipeline, self.request, self.connections = pipeline, request, connections
        self.on_step, self.progress, self.retrying = on_step, progress, retrying
        self.servers = KeptServers(pipeline, connections)
        self.steps = {step.id: step for step in build_plan(pipeline)}
        self.results: dict[str, StepResult] = {}
        self.began: dict[str, float] = {}
        self._places = parallel
        self._changed = threading.Condition()

    def through(self, pool: ThreadPoolExecutor) -> None:
        """Begin every step as soon as it can be; returns when all have ended."""
        order = TopologicalSorter({step.id: step.upstream for step in self.steps.values()})
        order.prepare()
        ready: list[tuple[int, int, int, str]] = []
        running: dict[Future[StepResult], str] = {}
        while order.is_active():
            for name in order.get_ready():
                heapq.heappush(ready, (*self._rank(self.steps[name]), name))
            while ready and self._take_place():
                future = pool.submit(self._run, self.steps[(name := heapq.heappop(ready)[-1])])
                running[future] = name
                future.add_done_callback(lambda _: self._give_place())
            with self._changed:
                self._changed.wait_for(lambda: any(f.done() for f in running) or (ready and self._places))
            for future in [future for future in running if future.done()]:
                name = running.pop(future)
                self.results[name] = future.result()
                order.done(name)

    def _rank(self, step: Step) -> tuple[int, int, int]:
        """Lowest first: what is extracted is loaded before more is extracted, the largest first, so that no large one
        is left to run alone at the end; else as in the plan."""
        place = self._plan_order[step.id]
        extracted = self.results.get(step_id("extract", step.name)) if step.kind == "load" else None
        if extracted and isinstance(extracted.result, Outcome):
            return 0, -extracted.result.counts.get("bytes", 0), place
        return int(step.kind == "extract"), 0, place

    @cached_property
    def _plan_order(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.steps)}

    def _take_place(self) -> bool:
        with self._changed:
            if not self._places:
                return False
            self._places -= 1
            return True

    def _give_place(self) -> None:
        with self._changed:
            self._places += 1
            self._changed.notify_all()

    def _run(self, step: Step) -> StepResult:
        if any(self.results[name].state in ("failed", "upstream_failed") for name in step.upstream):
            self.on_step(step, "upstream_failed", None)
            return StepResult(step=step, state="upstream_failed", result=None)
        tries = self._tries(step)
        try:
            outcome: Outcome | Exception = tries(self._try, step)
        except Exception as error:
            outcome = error
        state: State = "failed" if isinstance(outcome, Exception) else outcome.status
        self.on_step(step, state, outcome)
        seconds = time.monotonic() - self.began[step.id]
        made = tries.statistics["attempt_number"]
        return StepResult(step=step, state=state, result=outcome, seconds=seconds, tries=made)

    def _tries(self, step: Step) -> Retrying:
        tasks = tasks_of(step, self.pipeline)
        retries, delay = tasks.retries if self.retrying else 0, tasks.retry_delay.total_seconds()

        def tell(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            if isinstance(error, Exception):
                self.on_step(step, "waiting", Retry(number=state.attempt_number, of=retries, delay=delay, error=error))

        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, LoadsheetError) and error.retryable),
            stop=stop_after_attempt(1 + retries), wait=wait_fixed(delay), before_sleep=tell, sleep=self._sleep,
            reraise=True,
        )  # fmt: skip

    def _sleep(self, seconds: float) -> None:
        """Wait for a retry without holding a place."""
        self._give_place()
        time.sleep(seconds)
        with self._changed:
            self._changed.wait_for(lambda: self._places)
            self._places -= 1

    def _try(self, step: Step) -> Outcome:
        self.began.setdefault(step.id, time.monotonic())
        self.on_step(step, "started", None)
        return self._execute(step)

    def _execute(self, step: Step) -> Outcome:
        extracted = self.results.get(step_id("extract", step.name)) if step.kind == "load" else None
        load_id = extracted.result.load_id if extracted and isinstance(extracted.result, Outcome) else None
        return execute(
            step, self.pipeline, self.request, self.connections, load_id=load_id, servers=self.servers,
            progress=lambda rows, size: self.progress(step, rows, size),
        )  # fmt: skip
