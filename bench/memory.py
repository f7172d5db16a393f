"""`python -m bench.memory`: what a worker needs above an idle interpreter, at 1 M and at 10 M rows,
step by step."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench import data, job
from bench.records import Record, show, store
from bench.transfer import Out, World_
from bench.world import world

# One step in a process of its own, as an Airflow task is; prints the peak and what the interpreter
# alone needs.
WORKER = """
import sys
def peak():
    [line] = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1])
idle = peak()
from pathlib import Path
from loadsheet.connections.lookup import project_connections
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.spec.pipeline_file import load_pipeline
from loadsheet.engine.execute import execute
folder, kind, name, load_id = sys.argv[1:]
pipeline = load_pipeline(Path(folder) / "pipelines" / "bench" / "pipeline.yml")
request = RunRequest(run_id="memory", full_refresh="all")
connections = project_connections(Path(folder))
done = execute(Step(kind=kind, name=name), pipeline, request, connections, load_id=load_id or None)
print(done.load_id or "-", peak() - idle)
"""


def main(
    rows: Annotated[str, typer.Option(help="Sizes of the table.")] = "1000000,10000000",
    formats: Annotated[str, typer.Option(help="Formats of the lake.")] = "auto,csv",
    times: int = 3,
    file: World_ = None,
    out: Out = None,
) -> None:
    """Peak memory of an extract and of a load, above the interpreter's own."""
    records: list[Record] = []
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in (int(text) for text in rows.split(",")):
            source = data.shape(place, "large", size)
            for wire in formats.split(","):
                task = job.job_for(source, place.new_warehouse("memory"), Path(folder), kind="full")
                _, env = job.ours(wire).command(place, task)
                peaks = [dict(_steps(Path(folder), env, task.tables[0].name)) for _ in range(times)]
                for kind in ("extract", "load"):
                    values = tuple(peak[kind] / 1000 for peak in peaks)
                    case = f"{kind}, {wire}"
                    records.append(
                        Record(
                            bench="memory",
                            case=case,
                            contender=f"{size:,} rows",
                            unit="MB",
                            values=values,
                        )
                    )
                    show(records[-1:])
        if out:
            store(out, {"postgresql": place.version()}, records)


def _steps(folder: Path, env: dict[str, str], table: str) -> Iterator[tuple[str, int]]:
    load_id = ""
    for kind in ("create_bucket", "extract", "load"):
        command = [sys.executable, "-c", WORKER, str(folder), kind, table, load_id]
        done = subprocess.run(
            command, env=env, cwd=job.ROOT, text=True, stdout=subprocess.PIPE, check=True
        )
        load_id, peak = done.stdout.split()
        yield kind, int(peak)


if __name__ == "__main__":
    typer.run(main)
