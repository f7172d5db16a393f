"""A worker's memory does not grow with the table: parts are small and only one is held."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from urllib.parse import urlsplit

from tests.faults.proxy import Proxy
from tests.project import ROOT, Project

# VmHWM is the process's own peak; ru_maxrss would be inherited from the process that started it.
WORKER = """
import sys
from loadsheet.cli.main import app
app(standalone_mode=False)
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


# More than 64 MiB at once: both sizes are read by two readers.
ROWS = 185_000
WIRES = ("auto", "parquet")
HASH = "encode(sha512(random()::text::bytea), 'hex')"


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
    # Hashes hardly compress: every 21,000 of these rows fill a part.
    project.in_source(
        "INSERT INTO big SELECT coalesce((SELECT max(id) FROM big), 0) + i,"
        f" {' || '.join([HASH] * 3)} FROM generate_series(1, {rows}) i"
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
        # `auto`), and whoever held the added rows would hold 140 MB more.
        assert max(small[wire], large[wire]) - idle < 180_000, wire
        assert large[wire] - small[wire] < 40_000, wire


MOST_KIB = 160_000
MOST_BYTES = 1_000_000


def keys(project: Project, rows: int) -> None:
    project.in_source(
        "INSERT INTO item SELECT coalesce((SELECT max(id) FROM item), 0) + i, md5(i::text)"
        f" FROM generate_series(1, {rows}) i"
    )
    project.succeed()


def bytes_of_verify(project: Project) -> int:
    """What a comparison sends and receives over the lines to both servers."""
    lines = {}
    for end, uri in (("source", project.source), ("warehouse", project.warehouse)):
        url = urlsplit(uri)
        lines[end] = Proxy((url.hostname or "", url.port or 0))
    with lines["source"] as source, lines["warehouse"] as warehouse:
        through = replace(project)
        for end, line in lines.items():
            url = urlsplit(getattr(project, end))
            login = url.netloc.rpartition("@")[0]
            setattr(through, end, url._replace(netloc=f"{login}@127.0.0.1:{line.port}").geturl())
        assert through.verify()["item"].state == "equal"
        return sum(sum(line.passed.values()) for line in (source, warehouse))


def test_verify_sends_little_for_equal_tables_and_its_memory_does_not_grow(
    project: Project,
) -> None:
    """All rows differ at last, so the keys of all are read."""
    project.in_source("CREATE TABLE item (id int PRIMARY KEY, name text)")
    project.spec({"item": {"incremental": {"cursor": "id", "hold_back": "0s"}}})
    peaks: list[int] = []
    sent: list[int] = []
    for rows in (20_000, 80_000):
        keys(project, rows)
        sent.append(bytes_of_verify(project))
        project.in_warehouse("UPDATE staging.item SET name = name || '!'")
        peaks.append(peak_kib(project, "verify", "shop"))
        project.in_warehouse("UPDATE staging.item SET name = rtrim(name, '!')")
    print(f"{sent} bytes, peaks {peaks} KiB")
    # A comparison in the client would receive 4 MB here, and hold them.
    assert max(sent) < MOST_BYTES
    assert max(peaks) < MOST_KIB
    assert peaks[1] - peaks[0] < 20_000
