"""Walk a plan without Airflow: the same steps, in parallel, each after its upstream."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

from loadsheet.connections import Connections
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step, build_plan, step_id
from loadsheet.spec.models import Pipeline
from loadsheet.steps import execute

State = Literal["started", "done", "skipped", "failed", "upstream_failed"]
OnStep = Callable[[Step, State, Outcome | Exception | None], None]
OnProgress = Callable[[Step, int, int], None]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended: `result` is its outcome, the exception it failed with, or None when an upstream failed."""

    step: Step
    state: State
    result: Outcome | Exception | None
    seconds: float = 0.0


def run_pipeline(
    pipeline: Pipeline,
    request: RunRequest,
    connections: Connections,
    on_step: OnStep = lambda step, state, result: None,
    progress: OnProgress = lambda step, rows, size: None,
    parallel: int = 2,
) -> dict[str, StepResult]:
    """Run every step, `parallel` at a time, and return the results by step id, in plan order.

    A failed step fails what is downstream of it (`upstream_failed`) and nothing else; no exception of a step leaves
    this function. `on_step` and `progress` are called from worker threads.
    """
    walk = _Walk(pipeline, request, connections, on_step, progress)
    with ThreadPoolExecutor(parallel, thread_name_prefix="loadsheet") as pool:
        walk.through(pool)
    return {step.id: walk.results[step.id] for step in walk.steps.values()}


class _Walk:
    def __init__(
        self, pipeline: Pipeline, request: RunRequest, connections: Connections, on_step: OnStep, progress: OnProgress
    ):
        self.pipeline, self.request, self.connections = pipeline, request, connections
        self.on_step, self.progress = on_step, progress
        self.steps = {step.id: step for step in build_plan(pipeline)}
        self.results: dict[str, StepResult] = {}

    def through(self, pool: ThreadPoolExecutor) -> None:
        order = TopologicalSorter({step.id: step.upstream for step in self.steps.values()})
        order.prepare()
        running: dict[Future[StepResult], str] = {}
        while order.is_active():
            for name in sorted(order.get_ready(), key=list(self.steps).index):
                running[pool.submit(self._run, self.steps[name])] = name
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name = running.pop(future)
                self.results[name] = future.result()
                order.done(name)

    def _run(self, step: Step) -> StepResult:
        if any(self.results[name].state in ("failed", "upstream_failed") for name in step.upstream):
            return self._ended(step, "upstream_failed", None, 0.0)
        self.on_step(step, "started", None)
        started = time.monotonic()
        try:
            outcome: Outcome | Exception = self._execute(step)
        except Exception as error:
            outcome = error
        state: State = "failed" if isinstance(outcome, Exception) else outcome.status
        return self._ended(step, state, outcome, time.monotonic() - started)

    def _execute(self, step: Step) -> Outcome:
        extracted = self.results.get(step_id("extract", step.name)) if step.kind == "load" else None
        load_id = extracted.result.load_id if extracted and isinstance(extracted.result, Outcome) else None
        return execute(
            step, self.pipeline, self.request, self.connections, load_id=load_id,
            progress=lambda rows, size: self.progress(step, rows, size),
        )  # fmt: skip

    def _ended(self, step: Step, state: State, result: Outcome | Exception | None, seconds: float) -> StepResult:
        self.on_step(step, state, result)
        return StepResult(step=step, state=state, result=result, seconds=seconds)
