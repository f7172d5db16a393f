"""How soon Airflow shows an edited pipeline, and what it costs to keep looking. `python -m
bench.parsing`, in `.venv`.

A DAG processor of Airflow's own with many pipelines of 24 steps (those of `bench.factory`) and the
demo's settings. CPU is that of the DAG processor with its children, and of the PostgreSQL that
holds Airflow's metadata.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.factory import REPO, write_project
from bench.records import Record, show, store
from bench.world import _cpu, ask
from demo.airflow import Airflow
from demo.servers import PostgresServer

OURS = "a DAG file per pipeline"
COUNT = "SELECT count(*) FROM dag WHERE NOT is_stale"
PARSED = "SELECT count(*) FROM dag WHERE last_parsed_time > to_timestamp(%s)"
Values = dict[tuple[str, str], list[float]]


@dataclass
class Running:
    """A DAG processor at work on `project`, its metadata database, and its files."""

    project: Path
    database: str
    pids: dict[str, int]
    bundles: Path

    def cpu(self) -> dict[str, float]:
        """Seconds used so far, per process with its children."""
        return {name: _cpu(psutil.Process(pid)) for name, pid in self.pids.items()}

    def wait(
        self, query: str, *values: object, wanted: Callable[[int], bool], poll: float = 0.02
    ) -> float:
        """Seconds until the query's number is as wanted; raises TimeoutError after two minutes."""
        began = time.monotonic()
        while not wanted(int(ask(self.database, query, *values)[0][0])):
            if time.monotonic() - began > 120:
                raise TimeoutError(query)
            time.sleep(poll)
        return time.monotonic() - began


def main() -> None:
    """Measure, print a table, write the values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the values go")
    parser.add_argument("--specs", type=int, default=100, help="how many pipelines (default: 100)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="how long to watch it rest (default: 20)"
    )
    parser.add_argument("--repeat", type=int, default=5, help="edits of each kind (default: 5)")
    given = parser.parse_args()
    values: Values = defaultdict(list)
    with processor(given.specs) as running:
        _rest(running, given.seconds, values)
        _round(running, given.specs, values)
        for number in range(given.repeat):
            _edits(running, number, values)
    for interval in (3600, 600):
        for who in running.pids:
            rest, parse = (
                values["at rest", f"{who}, % of a core"][0],
                values["one parse", f"{who}, CPU ms"][0],
            )
            steady = rest + given.specs * parse / 10 / interval
            values[
                f"steady load, each file parsed every {interval} s", f"{who}, % of a core"
            ].append(steady)
    records = [
        Record(bench="parsing", case=case, contender=OURS, unit=unit, values=tuple(found))
        for (case, unit), found in values.items()
    ]
    show(records)
    if given.json:
        store(given.json, {"pipelines": str(given.specs)}, records)


@contextmanager
def processor(specs: int) -> Iterator[Running]:
    """A DAG processor that has read every pipeline."""
    with (
        tempfile.TemporaryDirectory(prefix="loadsheet-bench-") as temp,
        PostgresServer() as postgres,
    ):
        project = Path(temp) / "project"
        write_project(project, specs)
        database = postgres.create_database("airflow")
        airflow = Airflow(
            Path(temp) / "airflow", project, database, extra={"PYTHONPATH": str(REPO)}
        )
        airflow.prepare()
        try:
            airflow.start_component("dag-processor")
            running = Running(
                project, database, {"metadata database": postgres.pid}, airflow.home / "bundles"
            )
            running.wait(COUNT, wanted=lambda count: count == specs, poll=0.5)
            running.pids["DAG processor"] = airflow._processes["dag-processor"].pids[0]
            time.sleep(5)
            yield running
        finally:
            airflow.stop()


def _used(running: Running, work: Callable[[], None]) -> tuple[float, dict[str, float]]:
    before, began = running.cpu(), time.monotonic()
    work()
    took, after = time.monotonic() - began, running.cpu()
    return took, {name: after[name] - before[name] for name in after}


def _rest(running: Running, seconds: float, values: Values) -> None:
    took, used = _used(running, lambda: time.sleep(seconds))
    for who, cpu in used.items():
        values["at rest", f"{who}, % of a core"].append(100 * cpu / took)


def _round(running: Running, specs: int, values: Values) -> None:
    """Every file once, as after `min_file_process_interval`: its time says that it has changed, and
    nothing has."""

    def parse_all() -> None:
        now = time.time()
        for stub in running.bundles.rglob("*.yml.py"):
            os.utime(stub)
        running.wait(PARSED, now, wanted=lambda count: count == specs, poll=0.2)

    took, used = _used(running, parse_all)
    values["one parse", "wall ms, two at a time"].append(1000 * took / specs)
    for who, cpu in used.items():
        rest = values["at rest", f"{who}, % of a core"][0] / 100 * took
        values["one parse", f"{who}, CPU ms"].append(1000 * (cpu - rest) / specs)


def _edits(running: Running, number: int, values: Values) -> None:
    folder = running.project / "pipelines" / f"p{number:04}"
    shows = "SELECT count(*) FROM dag_code WHERE dag_id = %s AND source_code LIKE %s"
    _append(folder / "pipeline.yml", f"# edit {number}\n")
    seen = running.wait(shows, folder.name, f"%edit {number}%", wanted=bool)
    values["an edited YAML shows", "s"].append(seen)
    stored = "SELECT coalesce(max(hashtext(dag_hash)), 0) FROM serialized_dag WHERE dag_id = %s"
    before = int(ask(running.database, stored, folder.name)[0][0])
    _append(folder / "sql" / "dim_date.sql", f"-- edit {number}\n")
    values["edited SQL shows", "s"].append(
        running.wait(stored, folder.name, wanted=lambda found: found != before)
    )
    new = folder.with_name(f"new{number}")
    shutil.copytree(folder, new)
    _append(new / "pipeline.yml", "", pipeline=new.name)
    live = "SELECT count(*) FROM dag WHERE NOT is_stale AND dag_id = %s"
    values["a new file shows", "s"].append(running.wait(live, new.name, wanted=bool))
    shutil.rmtree(new)
    values["a deleted file is gone", "s"].append(
        running.wait(live, new.name, wanted=lambda found: not found)
    )


def _append(file: Path, text: str, pipeline: str = "") -> None:
    lines = file.read_text().splitlines(keepends=True)
    named = [
        f"pipeline: {pipeline}\n" if pipeline and line.startswith("pipeline:") else line
        for line in lines
    ]
    file.write_text("".join(named) + text)


if __name__ == "__main__":
    main()
