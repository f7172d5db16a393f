"""`python -m bench.dag`: the flights tables as a DAG in a real Airflow, beside `loadsheet run` of
the same file."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from bench import content, data, job
from bench.records import Record, show, store
from bench.transfer import Out, Stage, World_
from bench.world import World, world
from demo.airflow import Airflow

_BUNDLE = ("dags", "operators", "loadsheet", "schemas")


def main(
    of: Annotated[str, typer.Option(help="Scale of the flights.")] = "medium",
    times: int = 3,
    parallel: Annotated[int, typer.Option(help="Tasks at once.")] = 2,
    file: World_ = None,
    out: Out = None,
) -> None:
    """A full load and a run with nothing new, from the trigger to the DAG run's end."""
    values: dict[tuple[str, str], list[float]] = {}
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        source = data.flights(place, of)
        stage = Stage(place, source, Path(folder))
        for _ in range(times):
            contender = job.ours("auto")
            values.setdefault(("full", "loadsheet run"), []).append(stage.full(contender).wall)
            values.setdefault(("nothing new", "loadsheet run"), []).append(
                stage.increment(contender, ("", "")).wall
            )
            full, unchanged = _in_airflow(place, source, Path(folder) / "airflow", parallel)
            values.setdefault(("full", "DAG"), []).append(full)
            values.setdefault(("nothing new", "DAG"), []).append(unchanged)
        records = [
            Record(bench="dag", case=f"{of}, {case}", contender=who, unit="s", values=tuple(v))
            for (case, who), v in values.items()
        ]
        show(records)
        if out:
            store(out, {"postgresql": place.version(), "tasks at once": str(parallel)}, records)


def _in_airflow(
    place: World, source: data.Source, folder: Path, parallel: int
) -> tuple[float, float]:
    """Seconds of a first run and of one with nothing new."""
    copy_bundle(folder)
    task = job.job_for(source, place.new_warehouse("dag"), folder, kind="full")
    _, env = job.ours("auto", max_active_tasks=parallel).command(place, task)
    connections = {name: value for name, value in env.items() if name.startswith("AIRFLOW_CONN_")}
    metadata = place.new_warehouse("airflow_metadata")
    with Airflow(folder / "home", folder, metadata, extra=connections) as airflow:
        airflow.wait_for_dag("bench")
        airflow.api.unpause("bench")
        place.settle()
        seconds = _run(airflow), _run(airflow)
    if wrong := content.differences(task):
        raise RuntimeError("; ".join(wrong))
    return seconds


def copy_bundle(folder: Path) -> None:
    """A DAG bundle without pipelines in `folder`, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in _BUNDLE:
        shutil.copytree(
            job.ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(job.ROOT / ".airflowignore", folder)


def _run(airflow: Airflow) -> float:
    started = time.monotonic()
    state = airflow.api.wait("bench", airflow.api.trigger("bench"), timeout=600)
    if state != "success":
        raise RuntimeError(f"the DAG run ended as {state}")
    return time.monotonic() - started


if __name__ == "__main__":
    typer.run(main)
