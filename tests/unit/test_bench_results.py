"""The stored results of the benchmarks, and the figures that the documents take from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.records import Record, read, store
from tests.unit.test_readme import README, ROOT, TEXTS

RESULTS = ROOT / "bench" / "results"
FACTS = {"postgresql": "16.14"}
PEERS = {
    "limit": "limit",
    "Loadsheet": "loadsheet auto",
    "dlt 1.31": "dlt connectorx",
    "ingestr 1.1.22": "ingestr",
    "sling 1.4.11": "sling",
}
"""Contenders, as the documents name them."""
HEAD = "| | wall s | times the limit | client CPU s | warehouse CPU s | peak MB |"
COLUMNS = ("s", "client CPU s", "warehouse CPU s", "peak MB")


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


def medians(file: str) -> dict[tuple[str, str], float]:
    """Of the flights, by contender and unit."""
    _, records = read(RESULTS / file)
    return {(r.contender, r.unit): r.median for r in records if r.case == "medium"}


def agrees(shown: str, value: float) -> bool:
    """Whether `shown` is `value`, rounded to as many digits."""
    _, _, digits = shown.partition(".")
    return abs(float(shown) - value) <= 0.501 * 10.0 ** -len(digits)


def wrong_figures(text: str) -> list[str]:
    """The cells of the table of peers, full loads, that are not in the results."""
    found = medians("peers_full.json")
    lines = text.partition(HEAD)[2].partition("\n\n")[0].strip().splitlines()
    wrong = []
    for line in lines[1:]:
        name, *cells = (cell.strip(" *") for cell in line.strip("|").split("|"))
        values = [found[PEERS[name], unit] for unit in COLUMNS]
        values.insert(1, values[0] / found["limit", "s"])
        wrong += [
            f"{name}: {cell}, measured {value:.4g}"
            for cell, value in zip(cells, values, strict=True)
            if not agrees(cell, value)
        ]
    return wrong if lines else ["there is no table"]


def test_the_table_of_peers_shows_the_stored_medians() -> None:
    assert wrong_figures(TEXTS["docs/performance.md"]) == []


def test_a_figure_that_was_not_measured_is_found() -> None:
    text = TEXTS["docs/performance.md"]
    shown = re.search(r"\| ingestr 1\.1\.22 \| ([\d.]+) \|", text)
    assert shown

    changed = text.replace(shown[0], f"| ingestr 1.1.22 | {float(shown[1]) + 1:.1f} |", 1)

    assert [line.partition(":")[0] for line in wrong_figures(changed)] == ["ingestr 1.1.22"]


@pytest.mark.parametrize(
    ("shown", "value", "expected"),
    [("6.0", 6.04, True), ("6.0", 6.06, False), ("28", 28.4, True), ("28", 28.6, False)],
)
def test_a_figure_agrees_with_its_rounding_alone(shown: str, value: float, expected: bool) -> None:
    assert agrees(shown, value) is expected


def test_the_readme_tells_the_measured_ratio_to_the_limit() -> None:
    found = medians("full_medium.json")
    (shown,) = re.findall(r"took about ([\d.]+)\s+times as long as `psql COPY", README)

    assert agrees(shown, found["loadsheet auto", "s"] / found["limit", "s"])
