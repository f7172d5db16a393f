"""`python -m bench.dag_tables`: many tables of which few have news, as a DAG in a real Airflow, by
granularity: processes of tasks, CPU, and seconds from the trigger to the run's end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
import typer

from bench import content, dag, data, job
from bench.records import Record, show, store
from bench.transfer import Out, World_
from bench.world import World, ask, world
from demo.airflow import Airflow

_PARSE = """
import time
from pathlib import Path
from loadsheet.airflow.factory import build_dag
from loadsheet.spec.pipeline_file import load_pipeline
import dagfactory.dagbuilder, loadsheet.airflow.look, loadsheet.airflow.table_operators
began = time.process_time()
build_dag(load_pipeline(Path("pipelines/bench/pipeline.yml")))
print(time.process_time() - began)
"""


def main(
    sizes: Annotated[str, typer.Option(help="Tables, and how many of them change.")] = "500:5",
    granularity: Annotated[str, typer.Option(help="Comma-separated.")] = "step,table,batch",
    times: int = 1,
    parallel: Annotated[int, typer.Option(help="Tasks at once.")] = 2,
    file: World_ = None,
    out: Out = None,
) -> None:
    """One run with nothing new and one with news, of tables that were loaded before."""
    records: list[Record] = []
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in sizes.split(","):
            tables, changed = map(int, size.split(":"))
            for chosen in granularity.split(","):
                found: dict[tuple[str, str], list[float]] = {}
                for number in range(times):
                    home = Path(folder) / f"{tables}_{chosen}_{number}"
                    for key, value in _measure(place, home, tables, changed, chosen, parallel):
                        found.setdefault(key, []).append(value)
                for (case, unit), values in found.items():
                    case = f"{tables} tables, {case}"
                    record = Record(
                        bench="dag_tables",
                        case=case,
                        contender=chosen,
                        unit=unit,
                        values=tuple(values),
                    )
                    records.append(record)
                show(records)
        if out:
            store(out, {"postgresql": place.version(), "tasks at once": str(parallel)}, records)


def _measure(
    place: World, folder: Path, tables: int, changed: int, granularity: str, parallel: int
) -> Iterator[tuple[tuple[str, str], float]]:
    """Values by case and unit."""
    source = data.tiny(place, tables)
    dag.copy_bundle(folder)
    task = job.job_for(source, place.new_warehouse("dag"), folder, kind="full")
    ours = job.ours("auto", max_active_tasks=parallel, granularity=granularity)
    start, env = ours.command(place, task)
    env |= {"LOADSHEET_CACHE": str(folder / "cache"), "PYTHONPATH": str(job.ROOT)}
    subprocess.run(start, env=env, cwd=job.ROOT, check=True, stdout=subprocess.DEVNULL)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _PARSE],
            cwd=folder,
            env=env,
            check=True,
            capture_output=True,
            text=True,
        )
    yield ("parse, cached", "CPU s"), float(done.stdout.splitlines()[-1])
    own = ("AIRFLOW_CONN_", "LOADSHEET_CACHE")
    extra = {name: value for name, value in env.items() if name.startswith(own)}
    metadata = place.new_warehouse("airflow_metadata")
    with Airflow(folder / "home", folder, metadata, extra=extra) as airflow:
        airflow.wait_for_dag("bench", timeout=300)
        airflow.api.unpause("bench")
        _run(airflow)  # the first run in an Airflow waits for more than its tasks
        for case, number in (("nothing new", 0), (f"{changed} with news", changed)):
            # Spread over the file, as in life.
            for table in source.tables[:: max(tables // number, 1)][:number] if number else ():
                ask(
                    source.dsn,
                    f"UPDATE {table.name} SET updated_at = clock_timestamp() WHERE id = 1",
                )
            place.settle()
            before = _cpu_seconds(airflow)
            seconds, processes = _run(airflow)
            used = {name: cpu - before[name] for name, cpu in _cpu_seconds(airflow).items()}
            yield (case, "s"), seconds
            yield (case, "processes"), processes
            yield (case, "CPU s of scheduler and tasks"), used["scheduler"]
            yield (case, "CPU s of the API server"), used["api-server"]
    if wrong := content.differences(task):
        raise RuntimeError("; ".join(wrong))


def _run(airflow: Airflow) -> tuple[float, int]:
    """The seconds of a run, and the tasks for which a process was started."""
    started = time.monotonic()
    run_id = airflow.api.trigger("bench")
    state = airflow.api.wait("bench", run_id, timeout=3600)
    seconds = time.monotonic() - started
    if state != "success":
        raise RuntimeError(f"the DAG run ended as {state}")
    return seconds, sum(task.try_number > 0 for task in airflow.api.tasks("bench", run_id))


def _cpu_seconds(airflow: Airflow) -> dict[str, float]:
    """What the components have used so far, with all processes below them and those that have
    ended."""
    used = {}
    for name, component in airflow._processes.items():
        above = psutil.Process(component.pids[0])
        total = 0.0
        for process in (above, *above.children(recursive=True)):
            try:
                total += sum(process.cpu_times()[:4])
            except psutil.NoSuchProcess:  # ended meanwhile: its parent has its time
                continue
        used[name] = total
    return used


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY", "False")
    typer.run(main)
