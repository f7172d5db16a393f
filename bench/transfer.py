"""`python -m bench.transfer full|increment`: whole tables and increments, every contender in turn,
n times."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from bench import content, data, job
from bench.job import Contender, Job
from bench.measure import Usage, measured
from bench.records import Record, show, store
from bench.world import World, ask, world

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_NOW = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
UNITS = {
    "wall": "s",
    "client": "client CPU s",
    "source": "source CPU s",
    "warehouse": "warehouse CPU s",
    "s3": "S3 CPU s",
    "peak_mb": "peak MB",
    "wal_mb": "WAL MB",
}


class Series:
    """The usage of every run, by case and contender."""

    def __init__(self, bench: str):
        self.bench = bench
        self._runs: dict[tuple[str, str], list[Usage]] = {}

    def add(self, case: str, contender: Contender, usage: Usage) -> None:
        """Remember one run."""
        self._runs.setdefault((case, contender.name), []).append(usage)
        figures = ", ".join(f"{getattr(usage, name):.2f} {unit}" for name, unit in UNITS.items())
        typer.echo(f"{case}: {contender.name}: {figures}")

    def records(self) -> list[Record]:
        """One record per case, contender and kind of figure."""
        return [
            Record(
                bench=self.bench,
                case=case,
                contender=name,
                unit=UNITS[field.name],
                values=tuple(round(getattr(usage, field.name), 4) for usage in runs),
            )
            for (case, name), runs in self._runs.items()
            for field in fields(Usage)
        ]


class Stage:
    """A folder of state per contender, and a warehouse database of its own."""

    def __init__(self, place: World, source: data.Source, folder: Path):
        self._place, self._source, self._folder = place, source, folder

    def full(self, contender: Contender) -> Usage:
        """Everything into an empty warehouse."""
        state = self._folder / re.sub(r"\W", "_", contender.name).lower()
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        warehouse = self._place.new_warehouse(state.name)
        return self._run(contender, job.job_for(self._source, warehouse, state, kind="full"))

    def increment(self, contender: Contender, interval: tuple[str, str]) -> Usage:
        """What has changed since the last job."""
        state = self._folder / re.sub(r"\W", "_", contender.name).lower()
        warehouse = f"{self._place.warehouse}/{state.name}"
        return self._run(
            contender,
            job.job_for(self._source, warehouse, state, kind="increment", interval=interval),
        )

    def _run(self, contender: Contender, task: Job) -> Usage:
        command, env = contender.command(self._place, task)
        usage = measured(self._place, command, env, job.ROOT, task.state / "output.log")
        if wrong := content.differences(task, contender.broken):
            raise RuntimeError(f"{contender.name}: {'; '.join(wrong)}")
        # else autovacuum does it while the next one is measured
        ask(task.warehouse, "VACUUM ANALYZE")
        return usage


World_ = Annotated[Path | None, typer.Option("--world", help="A file of `python -m bench.keep`.")]
Times = Annotated[int, typer.Option("--times", help="How often each.")]
Who = Annotated[
    str,
    typer.Option(
        "--who", help="Comma-separated: limit, auto, csv, parquet, ingestr, dlt connectorx, sling …"
    ),
]
Out = Annotated[Path | None, typer.Option("--json", help="Where to store the values.")]
More = Annotated[
    bool,
    typer.Option("--more", help="Add to the values that are stored: a long series in slices."),
]


def source_of(place: World, name: str) -> data.Source:
    """`demo`, `medium` … for the flights; `large:10000000`, `random:N`, `wide:N`, `cells:N` for a
    table of N rows, `large:Nx2` for two; `tiny:N` for N tables."""
    kind, _, size = name.partition(":")
    if not size:
        return data.flights(place, name)
    if kind == "tiny":
        return data.tiny(place, int(size))
    rows, _, tables = size.partition("x")
    return data.shape(place, kind, int(rows), int(tables or 1))


@app.command()
def full(
    of: str = "medium",
    times: Times = 5,
    who: Who = "limit,auto,csv",
    file: World_ = None,
    out: Out = None,
    more: More = False,
) -> None:
    """All rows of `--of`: flights (small, medium), large:10000000, large:1500000x2, random:3000000,
    wide:100000, cells:2000, tiny:1000."""
    series = Series("full")
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        stage = Stage(place, source_of(place, of), Path(folder))
        for _ in range(times):
            for contender in [job.by_name(name) for name in who.split(",")]:
                series.add(of, contender, stage.full(contender))
        _finish(series, place, out, more)


@app.command()
def increment(
    of: str = "medium",
    share: str = "0,0.001,0.01,0.1",
    times: Times = 3,
    who: Who = "auto",
    recent: Annotated[
        bool, typer.Option("--recent", help="The last rows of each table, not spread over it.")
    ] = False,
    file: World_ = None,
    out: Out = None,
    more: More = False,
) -> None:
    """Changes of `--share` of every table's rows, after a full load by everybody."""
    series = Series("increment")
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        source = source_of(place, of)
        stage, all_of_them = (
            Stage(place, source, Path(folder)),
            [job.by_name(name) for name in who.split(",")],
        )
        for contender in all_of_them:
            stage.full(contender)
        for _ in range(times):
            for part in (float(text) for text in share.split(",")):
                for contender, usage in changed(stage, source, part, all_of_them, recent):
                    series.add(
                        f"{of} {part:.1%} changed{', recent rows' if recent else ''}",
                        contender,
                        usage,
                    )
        _finish(series, place, out, more)


def changed(
    stage: Stage, source: data.Source, share: float, who: Sequence[Contender], recent: bool = False
) -> Iterable[tuple[Contender, Usage]]:
    """An increment of each of `who`, after `share` of the rows of every table were changed."""

    def now() -> str:
        return str(ask(source.dsn, _NOW)[0][0])

    start = now()
    data.touch(source, share, recent)
    interval = (start, now())
    for contender in who:
        yield contender, stage.increment(contender, interval)


def _finish(series: Series, place: World, out: Path | None, more: bool) -> None:
    records = series.records()
    show([record for record in records if record.unit in ("s", "peak MB")])
    if out:
        store(out, {"postgresql": place.version()}, records, more)


if __name__ == "__main__":
    app()
