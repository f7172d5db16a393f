"""`python -m bench.growth`: how time grows with the rows of a table, the share of its rows that
changed, the tables of a pipeline, the number of specs.

`python -m bench.plots` draws what this has stored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench import data, factory, job
from bench.records import Record, show, store
from bench.transfer import More, Out, Stage, World_, changed
from bench.world import World, world

_Sizes = Annotated[str, typer.Option(help="Comma-separated; empty for none.")]
_CHANGED_OF = 1_000_000
_INCREMENTS_BY = ("limit", "auto", "ingestr")


def main(
    rows: _Sizes = "10000,100000,1000000,10000000",
    shares: _Sizes = "0,1,10,25,50,100",
    tables: _Sizes = "10,100,1000,5000",
    specs: _Sizes = "1,10,100,1000",
    times: int = 3,
    file: World_ = None,
    out: Out = None,
    more: More = False,
) -> None:
    """A full load per number of rows; an increment per share of changed rows (in per cent); a first
    run and one with nothing new per number of tables; a parse per specs."""
    records: list[Record] = []
    with world(file) as place, tempfile.TemporaryDirectory() as folder:
        for size in _numbers(rows):
            found = list(_rows(place, Path(folder), size, times))
            records += found
            show(found)
        if shares:
            found = list(_shares(place, Path(folder), _numbers(shares), times))
            records += found
            show(found)
        for size in _numbers(tables):
            found = list(_tables(place, Path(folder), size, times if size <= 100 else 1))
            records += found
            show(found)
        facts = {"postgresql": place.version()}
    for size in _numbers(specs):
        found = list(_specs(size, times))
        records += found
        show(found)
    if out:
        store(out, facts, records, more)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def _record(case: str, name: str, size: int, seconds: list[float]) -> Record:
    return Record(
        bench="growth", case=case, contender=f"{name}, {size}", unit="s", values=tuple(seconds)
    )


def _rows(place: World, folder: Path, size: int, times: int) -> Iterator[Record]:
    stage = Stage(place, data.shape(place, "large", size), folder)
    for contender in (job.limit(), job.ours("auto")):
        walls = [stage.full(contender).wall for _ in range(times)]
        yield _record("rows", contender.name, size, walls)


def _shares(place: World, folder: Path, per_cent: list[int], times: int) -> Iterator[Record]:
    """Increments of one table, of rows that are spread over it, by the limit, by Loadsheet and by
    the peer that is the fastest with increments."""
    source = data.shape(place, "large", _CHANGED_OF)
    stage, who = Stage(place, source, folder), [job.by_name(name) for name in _INCREMENTS_BY]
    for contender in who:
        stage.full(contender)
    for share in per_cent:
        walls: dict[str, list[float]] = {}
        for _ in range(times):
            for contender, usage in changed(stage, source, share / 100, who):
                walls.setdefault(contender.name, []).append(round(usage.wall, 4))
        for name, values in walls.items():
            yield _record("share", name, share, values)


def _tables(place: World, folder: Path, size: int, times: int) -> Iterator[Record]:
    stage, ours = Stage(place, data.tiny(place, size), folder), job.ours("auto")
    first, unchanged = [], []
    for _ in range(times):
        first.append(stage.full(ours).wall)
        unchanged.append(stage.increment(ours, ("", "")).wall)
    for name, values in (("first run", first), ("nothing new", unchanged)):
        yield _record("tables", name, size, values)


def _specs(size: int, times: int) -> Iterator[Record]:
    """Checking and building so many specs of 24 steps in a new process: for the first time, and
    unchanged."""
    values: dict[str, list[float]] = {"first parse ever": [], "parse, nothing changed": []}
    with tempfile.TemporaryDirectory() as folder:
        factory.write_project(Path(folder) / "project", size)
        for number in range(times):
            for found in values.values():
                cache = Path(folder) / f"cache{number}"
                found.append(factory.child("all", Path(folder) / "project", cache=cache)["s"])
    for name, found in values.items():
        yield _record("specs", name, size, found)


if __name__ == "__main__":
    typer.run(main)
