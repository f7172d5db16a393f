"""The steps of one table, one by one, as Airflow's tasks run them: in this process, or each in one
of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from loadsheet import failpoints
from loadsheet.connections.lookup import Connection
from loadsheet.engine.execute import execute
from loadsheet.errors import LoadsheetError
from loadsheet.lake.store import Lake
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.models import Pipeline
from loadsheet.spec.pipeline_file import load_pipeline
from tests.forked import FORKS
from tests.project import Project

SOURCE = """
CREATE TABLE item (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO item SELECT i, md5(i::text) FROM generate_series(1, 5000) i;
"""


@dataclass
class ByHand:
    """The steps of table `item` (others by their name) of a project, one by one."""

    project: Project
    source: str = SOURCE
    tables: dict[str, Any] = field(default_factory=lambda: {"item": {"incremental": "at"}})
    pipeline: Pipeline = field(init=False)
    workers: list[Worker] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.source:
            self.project.in_source(self.source)
        self.spec()
        self.step("create_bucket", "run")

    def spec(self, transforms: dict[str, Any] | None = None, **more: Any) -> None:
        """Write pipeline.yml and read it."""
        self.project.spec(self.tables, transforms, **more)
        self.pipeline = load_pipeline(
            self.project.folder / "pipelines" / self.project.name / "pipeline.yml"
        )

    def step(
        self,
        kind: str,
        run: str,
        load_id: str | None = None,
        connections: Callable[[str], Connection] | None = None,
        name: str = "item",
        **request: Any,
    ) -> Outcome:
        """Do one step of run `run`."""
        asked = RunRequest(run_id=run, **request)
        where = connections or self.project.connections
        return execute(Step(kind=kind, name=name), self.pipeline, asked, where, load_id=load_id)

    def both(self, run: str, **request: Any) -> Outcome:
        """Extract and load."""
        return self.step("load", run, self.step("extract", run, **request).load_id)

    def start(
        self,
        kind: str,
        run: str,
        load_id: str | None = None,
        stop_at: str = "",
        lake: str | None = None,
        prepare: Callable[[], None] | None = None,
        name: str = "item",
        **request: Any,
    ) -> Worker:
        """Do one step in a process of its own, which stops itself at the failpoint `stop_at`.

        `lake` is an S3 endpoint to use instead of the project's; `prepare` is called first, in the
        process.
        """
        connections = {
            conn: self.project.connections(conn) for conn in ("shop_source", "warehouse", "lake")
        }
        if lake:
            connections["lake"].extra["endpoint_url"] = lake
        ours, theirs = FORKS.Pipe()
        work = (
            theirs,
            self.pipeline.file,
            connections,
            Step(kind=kind, name=name),
            run,
            load_id,
            stop_at,
            prepare,
            request,
        )
        process = FORKS.Process(target=_work, args=work, daemon=True)
        process.start()
        theirs.close()
        self.workers.append(Worker(process, ours))
        return self.workers[-1]

    def close(self) -> None:
        """End every process: one that sleeps would outlive the test."""
        for worker in self.workers:
            worker.kill()

    @property
    def lake(self) -> Lake:
        """The project's bucket."""
        return Lake(self.project.connections("lake"), self.project.bucket)


@dataclass
class Worker:
    """A process that does one step."""

    process: BaseProcess
    pipe: Pipe

    def stop(self) -> None:
        """SIGSTOP, wherever it stands."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> bool:
        """SIGKILL; whether it was still alive."""
        alive = self.process.is_alive()
        self._signal(signal.SIGKILL)
        self.process.join(30)
        return alive

    @property
    def is_stopped(self) -> bool:
        """Whether it sleeps after a SIGSTOP."""
        try:
            return (
                Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
                == "T"
            )
        except FileNotFoundError:
            return False

    def wait_until_stopped(self) -> bool:
        """Wait for it to stop itself; False when it has ended instead."""
        wait_until(lambda: self.is_stopped or not self.process.is_alive(), "the worker to stop")
        return self.is_stopped

    def result(self) -> Outcome | Exception:
        """How the step ended."""
        assert self.pipe.poll(120), "the worker says nothing"
        answer = self.pipe.recv()
        self.process.join(30)
        assert isinstance(answer, (Outcome, Exception))
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if self.process.pid and self.process.is_alive():
            os.kill(self.process.pid, number)


def wait_until(met: Callable[[], bool], what: str, seconds: float = 60) -> float:
    """Wait for a condition; how long it took. Fails when it takes more than `seconds`."""
    began = time.monotonic()
    while not met():
        assert time.monotonic() - began < seconds, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def may_be_retried(error: object) -> bool:
    """Whether an executor retries a step that ended like this."""
    return isinstance(error, LoadsheetError) and error.retryable


def _work(
    pipe: Pipe,
    file: Path,
    connections: dict[str, Connection],
    step: Step,
    run: str,
    load_id: str | None,
    stop_at: str,
    prepare: Callable[[], None] | None,
    request: dict[str, Any],
) -> None:
    if prepare:
        prepare()
    if stop_at:
        os.environ[failpoints.VARIABLE] = stop_at
        failpoints._fire = _stop_there
    try:
        answer: Outcome | Exception = execute(
            step,
            load_pipeline(file),
            RunRequest(run_id=run, **request),
            connections.__getitem__,
            load_id=load_id,
        )
    except LoadsheetError as error:
        answer = type(error)(*error.args)
        answer.retryable = error.retryable
    except Exception as error:
        answer = RuntimeError(f"{type(error).__name__}: {error}")
    pipe.send(answer)


def _stop_there(armed: str, point: str) -> None:
    if armed == point:
        os.environ.pop(failpoints.VARIABLE)
        os.kill(os.getpid(), signal.SIGSTOP)
