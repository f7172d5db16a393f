"""`python -m bench.dag_tables`: many tables of which few have news, as a DAG in a real Airflow, by
granularity: processes of tasks, CPU, and seconds from the trigger to the run's end.

Thousands of tables take minutes to load for the first time. In the servers of `python -m bench.keep
FILE` they stay loaded: `--world FILE --only-load` loads what is not there yet, and may be stopped
and started again; later commands with the same file only measure. `--json` replaces the cases that
were measured and leaves the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import psutil
import psycopg
import typer

from bench import content, dag, dag_factory, data, job
from bench.airflow_run import run_dag
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
# A run that is stopped loses what its tables have not committed: not much, if it is short.
_LOADED_AT_ONCE = 1000

Found = Iterator[tuple[tuple[str, str], float]]
"""Values by case and unit."""


def main(
    sizes: Annotated[str, typer.Option(help="Tables, and how many of them change.")] = "500:5",
    granularity: Annotated[
        str, typer.Option(help="Comma-separated; also dag-factory, with one task per table.")
    ] = "step,table,batch",
    times: int = 1,
    parallel: Annotated[int, typer.Option(help="Tasks at once.")] = 2,
    only_load: Annotated[bool, typer.Option("--only-load", help="Measure nothing.")] = False,
    file: World_ = None,
    out: Out = None,
) -> None:
    """One run with nothing new and one with news, of tables that were loaded before."""
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in sizes.split(","):
            tables, changed = map(int, size.split(":"))
            for chosen in granularity.split(","):
                bench = _Bench(place, Path(folder), tables, changed, chosen, parallel)
                bench.load()
                if only_load:
                    continue
                found: dict[tuple[str, str], list[float]] = {}
                for _ in range(times):
                    for key, value in bench.measure():
                        found.setdefault(key, []).append(value)
                records = [
                    Record(
                        bench="dag_tables",
                        case=f"{tables} tables, {case}",
                        contender=chosen,
                        unit=unit,
                        values=tuple(values),
                    )
                    for (case, unit), values in found.items()
                ]
                show(records)
                if out:  # each by itself: a bench that is stopped keeps what it has measured
                    facts = {"postgresql": place.version(), "tasks at once": str(parallel)}
                    store(out, facts, records, more=True)


class _Bench:
    """Tables in the source, loaded into a warehouse, and a DAG that loads them again."""

    def __init__(
        self, place: World, folder: Path, tables: int, changed: int, chosen: str, parallel: int
    ):
        self._place, self._changed, self._chosen, self._parallel = place, changed, chosen, parallel
        self._source = data.tiny(place, tables)
        self._bundle = folder / f"tables_{tables}"
        dag.copy_bundle(self._bundle)
        warehouse = place.same_warehouse(f"dag_tables_{tables}")
        self._task = job.job_for(self._source, warehouse, self._bundle, kind="full")
        granularity = "auto" if self._is_peer else chosen
        ours = job.ours("auto", max_active_tasks=parallel, granularity=granularity)
        self._run, env = ours.command(place, self._task)
        cache = {"LOADSHEET_CACHE": str(folder / "cache"), "PYTHONPATH": str(job.ROOT)}
        self._env = env | cache

    @property
    def _is_peer(self) -> bool:
        return self._chosen == "dag-factory"

    def load(self) -> None:
        """Load the tables that have not been loaded."""
        loaded = ask(
            self._task.warehouse,
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = to_regnamespace(%s)",
            self._task.target_schema,
        )
        left = [table.name for table in self._task.tables if (table.name,) not in loaded]
        for first in range(0, len(left), _LOADED_AT_ONCE):
            some = ",".join(left[first : first + _LOADED_AT_ONCE])
            subprocess.run(
                [*self._run, "--tables", some],
                env=self._env,
                cwd=job.ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    def measure(self) -> Found:
        """All cases, in a new Airflow."""
        connections = {
            name: value for name, value in self._env.items() if name.startswith("AIRFLOW_CONN_")
        }
        task = self._task
        if self._is_peer:
            task = dag_factory.replace_bundle(task, self._parallel)
            extra = connections | dag_factory.settings(self._bundle)
        else:
            yield ("parse, cached", "CPU s"), self._parse()
            extra = connections | {"LOADSHEET_CACHE": self._env["LOADSHEET_CACHE"]}
        metadata = self._place.new_warehouse("dag_tables_metadata")
        # Else autovacuum does it while a run is measured.
        ask(task.source, "VACUUM ANALYZE")
        ask(task.warehouse, "VACUUM ANALYZE")
        with (
            tempfile.TemporaryDirectory() as home,
            Airflow(Path(home), self._bundle, metadata, extra=extra) as airflow,
        ):
            airflow.wait_for_dag("bench", timeout=300)
            airflow.api.unpause("bench")
            if not self._is_peer:  # which starts every task in either case
                run_dag(airflow, "bench")  # the first run in an Airflow takes longer
                yield from self._case(airflow, metadata, "nothing new", 0)
            yield from self._case(airflow, metadata, f"{self._changed} with news", self._changed)
        if wrong := content.differences(task):
            raise RuntimeError("; ".join(wrong))

    def _parse(self) -> float:
        """The CPU seconds that the file takes to become a DAG, when it has been read before."""
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", _PARSE],
                cwd=self._bundle,
                env=self._env,
                check=True,
                capture_output=True,
                text=True,
            )
        return float(done.stdout.splitlines()[-1])

    def _case(self, airflow: Airflow, metadata: str, case: str, changed: int) -> Found:
        if changed:
            self._change(changed)
        self._place.settle()
        before, transactions = _cpu_seconds(airflow), _transactions(metadata)
        run = run_dag(airflow, "bench")
        yield (case, "s"), run.seconds
        yield (case, "processes"), run.processes
        for name, unit in (
            ("scheduler", "CPU s of scheduler and tasks"),
            ("api-server", "CPU s of the API server"),
        ):
            yield (case, unit), _cpu_seconds(airflow)[name] - before[name]
        yield (
            (case, "transactions in the metadata database"),
            _transactions(metadata) - transactions,
        )
        yield (case, "s of waiting for the first task"), run.waited

    def _change(self, number: int) -> None:
        """Change a row of so many tables, spread over the file, as in life."""
        tables = self._source.tables[:: len(self._source.tables) // number][:number]
        with closing(psycopg.connect(self._source.dsn, autocommit=True)) as session:
            for table in tables:
                statement = f"UPDATE {table.name} SET updated_at = clock_timestamp() WHERE id = 1"
                session.execute(statement.encode())


def _transactions(metadata: str) -> float:
    """The transactions that the database of Airflow's metadata has seen."""
    rows = ask(
        metadata,
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname ="
        " current_database()",
    )
    return float(rows[0][0])


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
