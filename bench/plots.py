"""`python -m bench.plots` (in an environment with requirements/bench.txt):
bench/results/growth.json -> docs/images."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
TITLES = {
    "rows": "A full load, by rows of the table",
    "share": "An increment of 1,000,000 rows, by per cent of them that changed",
    "tables": "A run of tables with 10 rows, by their number",
    "specs": "Checking and building all specs, by their number",
}


def main() -> None:
    """One picture per kind of growth."""
    pyplot.rcParams["svg.hashsalt"] = "loadsheet"  # the same values give the same file
    records = json.loads((HERE / "results" / "growth.json").read_text())["records"]
    for case, title in TITLES.items():
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for record in (r for r in records if r["case"] == case):
            name, _, size = record["contender"].rpartition(", ")
            lines[name].append((int(size), statistics.median(record["values"])))
        if lines:
            _draw(case, title, lines)


def _draw(case: str, title: str, lines: dict[str, list[tuple[int, float]]]) -> None:
    """Both axes are logarithmic, and a dotted line shows what growing in proportion means. A share
    begins at zero, which has no logarithm."""
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, points in lines.items():
        sizes, seconds = zip(*sorted(points), strict=True)
        axes.plot(sizes, seconds, marker="o", label=name)
        if sizes[0] > 0:
            proportional = [seconds[-1] * size / sizes[-1] for size in sizes]
            axes.loglog(sizes, proportional, ":", color="grey", linewidth=0.8)
    axes.set(title=title, xlabel=case, ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(IMAGES / f"growth-{case}.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
