"""`python -m bench.verify equal|deletes`: what it costs to compare a table with its source, and to
find the keys that went, beside a full extract and beside how others do it."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bench import comparing, content, data, job
from bench.job import Command, Job
from bench.measure import Usage, measured
from bench.memory import WORKER
from bench.records import Record, show, store
from bench.relay import Relay
from bench.transfer import UNITS, Out, Stage, Times, World_
from bench.world import World, ask, world

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_DAMAGED = 100
_WIRE = "MB over the wire"
_EXTRACT = "full extract"
_VERIFY = "loadsheet verify"

Rows = Annotated[str, typer.Option("--rows", help="Sizes of the table, comma-separated.")]


@dataclass(frozen=True)
class Way:
    """A process that reads the source's table, or compares it with its copy."""

    name: str
    command: Callable[[World, Job], Command]
    differences: Callable[[str], int | None] | None = None
    """How many rows differ by its output; None where it shows only that some do."""
    finds: bool = False
    """Whether its exit code is 1 where rows differ."""


def _extract(place: World, task: Job) -> Command:
    """The extract step of a full refresh: what any comparison in the client would have to read."""
    _, env = job.ours().command(place, task)
    folder, table = str(task.state), task.tables[0].name
    return [sys.executable, "-c", WORKER, folder, "extract", table, ""], env


def _verify(place: World, task: Job) -> Command:
    _, env = job.ours().command(place, task)
    command = [sys.executable, "-m", "loadsheet", "--project", str(task.state)]
    return [*command, "verify", "bench", "--json"], env


def _counted(output: str) -> int:
    (table,) = json.loads(output)["tables"]
    if table["state"] not in ("equal", "differs"):
        raise RuntimeError(f"loadsheet verify: {table['state']}: {table['why']}")
    return sum(table["counts"].values())


def _other(way: str) -> Way:
    def command(place: World, task: Job) -> Command:
        _, env = job.ours().command(place, task)
        file = task.write(task.state / "job.json")
        return [sys.executable, "-m", "bench.comparing", way, str(file)], env

    return Way(way, command, lambda output: json.loads(output)["differences"])


def _ways() -> list[Way]:
    return [
        Way(_EXTRACT, _extract),
        Way(_VERIFY, _verify, _counted, finds=True),
        *map(_other, comparing.WAYS),
    ]


class Series:
    """The values of every run, by case, way and unit."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, case: str, name: str, usage: Usage) -> None:
        """Remember one run."""
        for field, unit in UNITS.items():
            self.add_value(case, name, unit, getattr(usage, field))
        typer.echo(f"{case}: {name}: {usage.wall:.2f} s, {usage.source:.2f} s of the source's CPU")

    def add_value(self, case: str, name: str, unit: str, value: float) -> None:
        """Remember one figure."""
        self._values.setdefault((case, name, unit), []).append(round(value, 4))

    def finish(self, bench: str, place: World, out: Path | None) -> None:
        """Show the figures that matter, and store all."""
        records = [
            Record(bench=bench, case=case, contender=name, unit=unit, values=tuple(values))
            for (case, name, unit), values in self._values.items()
        ]
        shown = ("s", UNITS["source"], UNITS["peak_mb"], _WIRE)
        show([record for record in records if record.unit in shown])
        if out:
            store(out, {"postgresql": place.version()}, records)


@app.command()
def equal(
    rows: Rows = "1000000,3000000,10000000",
    times: Times = 3,
    file: World_ = None,
    out: Out = None,
) -> None:
    """Compare a table with its copy: when they are equal, and when 100 rows of the copy are
    missing."""
    series = Series()
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in (int(text) for text in rows.split(",")):
            task = _loaded(place, Path(folder), size)
            case = f"{size:,} rows, equal"
            for way in _ways():
                series.add_value(case, way.name, _WIRE, _wire(place, task, way))
            _measure(series, case, place, task, _ways(), times, differing=0)
            _delete(task.warehouse, f"{task.target_schema}.{task.tables[0].name}")
            ways = [way for way in _ways() if way.name != _EXTRACT]
            case = f"{size:,} rows, {_DAMAGED} missing"
            _measure(series, case, place, task, ways, times, differing=_DAMAGED)
        series.finish("verify", place, out)


@app.command()
def deletes(
    rows: Rows = "10000000",
    times: Times = 3,
    file: World_ = None,
    out: Out = None,
) -> None:
    """An increment with `deletes: hard`: when nothing was deleted in the source, and when 100 rows
    were."""
    series = Series()
    increment = Way("loadsheet run, deletes: hard", job.ours(keys={"deletes": "hard"}).command)
    ways = [Way(_EXTRACT, _extract), _other("all keys"), increment]
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in (int(text) for text in rows.split(",")):
            task = _loaded(place, Path(folder), size)
            case = f"{size:,} rows, 0 deleted"
            _measure(series, case, place, task, ways, times, differing=0)
            table = f"{task.source_schema}.{task.tables[0].name}"
            for _ in range(times):
                _delete(task.source, table)
                case = f"{size:,} rows, {_DAMAGED} deleted"
                # The increment comes last: it deletes the rows that the others find.
                _measure(series, case, place, task, ways, 1, differing=_DAMAGED)
                wrong = content.differences(task)
                if wrong:
                    raise RuntimeError("; ".join(wrong))
        series.finish("deletes", place, out)


def _loaded(place: World, folder: Path, size: int) -> Job:
    """A table of so many rows, loaded; the job that loads it again."""
    source = data.shape(place, "large", size)
    Stage(place, source, folder).full(job.ours())
    state = folder / "loadsheet_auto"
    return job.job_for(source, f"{place.warehouse}/{state.name}", state, kind="full")


def _delete(dsn: str, table: str) -> None:
    """Delete rows that are spread over the table."""
    chosen = f"SELECT id FROM {table} ORDER BY md5(id::text) LIMIT {_DAMAGED}"
    ask(dsn, f"DELETE FROM {table} WHERE id IN ({chosen})")
    ask(dsn, f"VACUUM ANALYZE {table}")


def _measure(
    series: Series,
    case: str,
    place: World,
    task: Job,
    ways: list[Way],
    times: int,
    differing: int,
) -> None:
    for _ in range(times):
        for way in ways:
            series.add(case, way.name, _once(place, task, way, differing))


def _once(place: World, task: Job, way: Way, differing: int) -> Usage:
    """One run, whose answer is looked at."""
    command, env = way.command(place, task)
    log = task.state / "output.log"
    usage = measured(place, command, env, job.ROOT, log, int(way.finds and differing > 0))
    if way.differences:
        found = way.differences(log.read_text())
        if found != differing and (found is not None or not differing):
            raise RuntimeError(f"{way.name} found {found} rows that differ, not {differing}")
    return usage


def _wire(place: World, task: Job, way: Way) -> float:
    """MB between the client and the two databases, both ways. Measured in a run of its own: the
    relay takes CPU, too."""
    with Relay(task.source) as source, Relay(task.warehouse) as warehouse:
        _once(place, replace(task, source=source.dsn, warehouse=warehouse.dsn), way, 0)
        return (source.bytes + warehouse.bytes) / 1e6


if __name__ == "__main__":
    app()
