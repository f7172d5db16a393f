"""`python -m bench.idle`: what many tables cost that have nothing new: a run, the status, the plan.

With `--before FOLDER`, the code of another checkout does the same on the same servers, by turns, so
that the ratios do not depend on how busy the machine is. CPU time says more than the wall.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench import data, job
from bench.measure import Usage, measured
from bench.records import Record, show, store
from bench.transfer import Out, World_
from bench.world import World, ask, world

_COMMANDS = {
    "run": ("run", "bench", "--json"),
    "status": ("status", "bench", "--json"),
    "plan": ("plan", "bench", "--connect", "--json"),
}


def main(
    tables: Annotated[str, typer.Option(help="Comma-separated numbers of tables.")] = "8,500,5000",
    what: Annotated[str, typer.Option(help="Comma-separated commands.")] = "run,status,plan",
    times: int = 3,
    before: Annotated[Path | None, typer.Option(help="Another checkout, to compare with.")] = None,
    file: World_ = None,
    out: Out = None,
) -> None:
    """Wall and CPU seconds of each command on tables of 10 rows with a cursor, all loaded."""
    records: list[Record] = []
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for count in map(int, tables.split(",")):
            found = list(_costs(place, Path(folder), count, what.split(","), times, before))
            records += found
            show(found)
        facts = {"postgresql": place.version()}
    if out:
        store(out, facts, records)


def _costs(
    place: World, folder: Path, count: int, commands: list[str], times: int, before: Path | None
) -> Iterator[Record]:
    source = data.tiny(place, count)
    state = folder / f"idle_{count}"
    state.mkdir()
    task = job.job_for(source, place.new_warehouse(f"idle_{count}"), state, kind="full")
    start, env = job.ours("auto").command(place, task)
    start = start[: start.index("run")]
    who = {"now": job.ROOT} | ({"before": before.resolve()} if before else {})
    log = state / "output.log"

    def use(command: str, root: Path) -> Usage:
        words = [*start, *_COMMANDS[command]]
        return measured(place, words, env | {"PYTHONPATH": os.fspath(root)}, root, log)

    use("run", job.ROOT)
    for dsn in (task.source, task.warehouse):
        ask(dsn, "VACUUM ANALYZE")
    for command in commands:
        usages: dict[str, list[Usage]] = {name: [] for name in who}
        for _ in range(times):
            for name, root in who.items():
                usages[name].append(use(command, root))
        for name, found in usages.items():
            yield from _records(f"{command}, {count} tables", name, found)


def _records(case: str, name: str, usages: list[Usage]) -> Iterator[Record]:
    values = {
        "s": tuple(usage.wall for usage in usages),
        "CPU s of Loadsheet": tuple(usage.client for usage in usages),
        "CPU s of both servers": tuple(usage.source + usage.warehouse for usage in usages),
        "MB": tuple(usage.peak_mb for usage in usages),
    }
    for unit, found in values.items():
        yield Record(bench="idle", case=case, contender=name, unit=unit, values=found)


if __name__ == "__main__":
    typer.run(main)
