"""`python -m bench.report`: bench/results/*.json -> bench/results.md, ratios first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from bench.records import Record, read

HERE = Path(__file__).parent
# What others are compared with: the first of these that took part.
_REFERENCES = ("limit", "by hand", "native", "full extract", "loadsheet auto")
_HEAD = """# Results

Written by `python -m bench.report` from `results/*.json`, which the benchmarks write. A ratio is
the quotient of two medians, relative to the contender in the first line. Runs were interleaved, so
all contenders met the same conditions. A contender's file below `bench/` describes how it works.
"""


def main() -> None:
    """Rewrite results.md."""
    pages = [_page(file) for file in sorted((HERE / "results").glob("*.json"))]
    (HERE / "results.md").write_text("\n".join([_HEAD, *pages]))


def _page(file: Path) -> str:
    facts, records = read(file)
    lines = [f"## {file.stem.replace('_', ' ')}", ""]
    if facts:
        lines += [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    for case, group in groupby(sorted(records, key=lambda r: r.case), key=lambda r: r.case):
        lines += [f"### {case}", "", *_table(list(group)), ""]
    notes = {(r.contender, r.note) for r in records if r.note}
    return "\n".join([*lines, *(f"- {name}: {note}" for name, note in sorted(notes)), ""])


def _table(records: Sequence[Record]) -> Iterator[str]:
    units = list(dict.fromkeys(record.unit for record in records))
    by_name = {(r.contender, r.unit): r for r in records}
    names = _ordered(dict.fromkeys(record.contender for record in records))
    first = by_name.get((names[0], units[0]))
    yield f"| | ratio | {' | '.join(units)} | n |"
    yield "|---|---|" + "---|" * (len(units) + 1)
    for name in names:
        mine = by_name.get((name, units[0]))
        ratio = f"{mine.median / first.median:.2f}" if mine and first and first.median else ""
        cells = [_cell(by_name.get((name, unit)), spread=unit == units[0]) for unit in units]
        yield f"| {name} | {ratio} | {' | '.join(cells)} | {len(mine.values) if mine else ''} |"


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(
        names, key=lambda name: _REFERENCES.index(name) if name in _REFERENCES else len(_REFERENCES)
    )


def _cell(record: Record | None, spread: bool) -> str:
    if record is None:
        return ""
    text = _number(record.median)
    return (
        f"{text} ({_number(min(record.values))} to {_number(max(record.values))})"
        if spread
        else text
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
