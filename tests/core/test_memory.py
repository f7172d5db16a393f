"""A worker's memory does not grow with the table: parts are small and only one is held."""

from __future__ import annotations

import subprocess
import sys

from tests.project import ROOT, Project

# VmHWM is the process's own peak; ru_maxrss would be inherited from the process that started it.
WORKER = """
import sys
from loadsheet.cli.main import app
app(standalone_mode=False)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


# More than 64 MiB at once: both sizes are read by two readers.
ROWS = 220_000
WIRES = ("auto", "parquet")


def peak_kib(project: Project, *command: str) -> int:
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, "--project", str(project.folder), *command],
        env=project.environment(),
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    return int(worker.stdout.splitlines()[-1])


def fill(project: Project, rows: int) -> None:
    # Hashes hardly compress: every 25,000 of these rows fill a part.
    project.in_source(
        "INSERT INTO big SELECT coalesce((SELECT max(id) FROM big), 0) + i,"
        f" string_agg(md5(random()::text), '') FROM generate_series(1, {rows}) i,"
        " generate_series(1, 10) GROUP BY i"
    )


def peaks(project: Project) -> dict[str, int]:
    """The peak of a run in each format of the lake."""
    found = {}
    for wire in WIRES:
        project.spec({"big": None}, lake={"format": wire})
        found[wire] = peak_kib(project, "run", "shop", "--full-refresh")
    return found


def test_three_times_the_rows_need_no_more_memory(project: Project) -> None:
    # One test for both formats: to fill the source takes as long as a run.
    project.in_source("CREATE TABLE big (id int PRIMARY KEY, noise text)")
    fill(project, ROWS)
    small = peaks(project)
    fill(project, 2 * ROWS)
    large = peaks(project)
    idle = peak_kib(project, "--version")
    print(f"idle {idle} KiB, peak {small} KiB, then {large} KiB")
    for wire in WIRES:
        # A worker that does one step needs at most 160 MB (`bench.memory`); this one process does
        # all of them. Which buffers are full at once is chance (102 to 117 MB were seen with
        # `auto`), and whoever held the added rows would hold 150 MB more.
        assert max(small[wire], large[wire]) - idle < 180_000, wire
        assert large[wire] - small[wire] < 40_000, wire
