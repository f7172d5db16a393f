"""The stored results of the benchmarks, and the figures that the documents take from them."""

from __future__ import annotations

from pathlib import Path

from bench.records import Record, read, store

FACTS = {"postgresql": "16.14"}


def record(contender: str, *values: float) -> Record:
    return Record(bench="full", case="medium", contender=contender, unit="s", values=values)


def test_slices_of_a_series_are_stored_as_one_series(tmp_path: Path) -> None:
    file = tmp_path / "results" / "full.json"
    store(file, FACTS, [record("limit", 6.2), record("sling", 23.5)], more=True)
    store(file, FACTS, [record("limit", 6.1, 6.4), record("ingestr", 12.2)], more=True)

    facts, records = read(file)

    assert facts == FACTS
    assert records == [
        record("limit", 6.2, 6.1, 6.4),
        record("sling", 23.5),
        record("ingestr", 12.2),
    ]


def test_a_new_series_replaces_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "full.json"
    store(file, FACTS, [record("limit", 6.2)])
    store(file, FACTS, [record("limit", 6.1)])

    assert read(file)[1] == [record("limit", 6.1)]
