"""A worker's memory does not grow with the table: parts are small and only one is held."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.project import ROOT, Project

# VmHWM is the process's own peak; ru_maxrss would be inherited from the process that started it.
WORKER = """
import sys
from loadsheet.cli.main import app
app(standalone_mode=False)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def peak_kib(project: Project) -> int:
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, "--project", str(project.folder), "run", "shop", "--full-refresh"],
        env=project.environment(), cwd=ROOT, text=True, capture_output=True, check=True,
    )  # fmt: skip
    return int(worker.stdout.splitlines()[-1])


def fill(project: Project, rows: int) -> None:
    # Hashes hardly compress: 120,000 of these rows fill more than one part.
    project.in_source(
        "INSERT INTO big SELECT coalesce((SELECT max(id) FROM big), 0) + i, string_agg(md5(random()::text), '') "
        f"FROM generate_series(1, {rows}) i, generate_series(1, 10) GROUP BY i"
    )


@pytest.mark.parametrize("wire", ["auto", "parquet"])
def test_three_times_the_rows_need_no_more_memory(project: Project, wire: str) -> None:
    project.in_source("CREATE TABLE big (id int PRIMARY KEY, noise text)")
    project.spec({"big": None}, lake={"format": wire})
    fill(project, 120_000)
    small = peak_kib(project)
    fill(project, 2 * 120_000)
    large = peak_kib(project)
    parts = [name for name in project.objects() if "part-" in name]
    print(f"peak {small} KiB, then {large} KiB; {len(parts)} parts")
    assert len(parts) >= 6
    assert large < small * 1.2
