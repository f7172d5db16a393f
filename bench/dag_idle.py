"""`python -m bench.dag_idle`: the demo's DAG with nothing new, and where the seconds from the
trigger to the run's end go: before the first task has a process, in this task, and after it.

`--setting NAME=VALUE` measures it with another setting of Airflow as well.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bench import dag, data, job
from bench.airflow_run import run_dag
from bench.records import Record, show, store
from bench.transfer import Out, World_
from bench.world import World, world
from demo.airflow import Airflow


def main(
    times: int = 3,
    setting: Annotated[
        list[str] | None, typer.Option(help="AIRFLOW__…=value; may be repeated.")
    ] = None,
    file: World_ = None,
    out: Out = None,
) -> None:
    """Idle runs of pipelines/flights after a first load."""
    records: list[Record] = []
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for chosen in ("", *(setting or ())):
            records += _measure(place, Path(folder) / "flights", times, chosen)
        show(records)
        if out:
            store(out, {"postgresql": place.version()}, records, more=True)


def _measure(place: World, bundle: Path, times: int, setting: str) -> list[Record]:
    source = data.flights(place, "demo")
    dag.copy_bundle(bundle)
    shutil.copytree(job.ROOT / "pipelines", bundle / "pipelines")
    extra = {
        "AIRFLOW_CONN_FLIGHTS_SOURCE": source.dsn,
        "AIRFLOW_CONN_WAREHOUSE": place.new_warehouse("dag_idle"),
        "AIRFLOW_CONN_LAKE": job.lake_connection(place),
        "AIRFLOW_CONN_SLACK": "slackwebhook://:no@127.0.0.1:9",
        # Nothing but the measured runs.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    }
    if setting:
        name, _, text = setting.partition("=")
        extra[name] = text
    values: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as home,
        Airflow(
            Path(home), bundle, place.new_warehouse("dag_idle_metadata"), extra=extra
        ) as running,
    ):
        running.wait_for_dag("flights")
        running.api.unpause("flights")
        for _ in range(2):  # what is loaded for the first time is recorded once more
            run_dag(running, "flights")
        for _ in range(times):
            place.settle()
            run = run_dag(running, "flights")
            for unit, value in (
                ("s", run.seconds),
                ("s before the first task", run.waited),
                ("s of tasks", run.worked),
                ("s after the last task", run.seconds - run.waited - run.worked),
                ("processes", run.processes),
            ):
                values.setdefault(unit, []).append(value)
    return [
        Record(
            bench="dag_idle",
            case="flights, nothing new",
            contender=setting or "the demo's settings",
            unit=unit,
            values=tuple(found),
        )
        for unit, found in values.items()
    ]


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY", "False")
    typer.run(main)
