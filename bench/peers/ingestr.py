"""ingestr 1.1.22: one process per table, which is how it works, `parallel` at a time; direct,
without a lake.

The last release whose wheel carries its program, which is written in Go. Since 1.1.23 the package
fetches it from GitHub at the first run.

Tuned as its documentation ("Incremental Loading") advises: a full load is strategy `replace` with
`--primary-key`, so that ingestr makes the key itself. An increment is strategy `merge` with
`--incremental-key`; ingestr keeps no state, so `--interval-start` and `--interval-end` give the
changed rows by hand. With the option `interval: false` they are left out, and it reads and merges
every row. `--no-load-timestamp` leaves out the column that it would add to every row. "Parallel
Extract Partitioning" is for tables whose one query is the bottleneck; here two tables at a time
keep both cores busy. The option `flags` gives it more options.

Different in the target: no NOT NULL but the key's; char(n) becomes varchar(n), a point becomes text
that is no point any more (`{{129.7706 62.0933} true}`).
"""

from __future__ import annotations

import sys
import sysconfig
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from children import Command, Job, plain, read_job, run_all

_PROGRAM = str(Path(sysconfig.get_path("scripts")) / "ingestr")


def main() -> int:
    """Do the job; 0 if all went well."""
    return run_all(read_job(), command)


def command(job: Job, table: dict[str, Any]) -> Command:
    """`ingestr ingest` of one table."""
    arguments = [
        _PROGRAM,
        "ingest",
        "--yes",
        "--progress",
        "log",
        "--no-load-timestamp",
        "--source-table",
        f"{job['source_schema']}.{table['name']}",
        "--dest-table",
        f"{job['target_schema']}.{table['name']}",
        "--incremental-strategy",
        "replace" if job["kind"] == "full" else "merge",
    ]
    for column in table["key"]:
        arguments += ["--primary-key", column]
    for option, value in job["options"].get("flags", {}).items():
        arguments += [f"--{option}", str(value)]
    if job["kind"] == "increment":
        arguments += _increment(job, table)
    # The addresses as variables, so that no password is in the list of processes.
    return arguments, {
        "SOURCE_URI": plain(job["source"]),
        "DESTINATION_URI": plain(job["warehouse"]),
        "INGESTR_DISABLE_TELEMETRY": "true",
        "HOME": job["state"],
    }


def _increment(job: Job, table: dict[str, Any]) -> list[str]:
    if not job["interval"] or not job["options"].get("interval", True):
        return []
    start, end = (datetime.fromisoformat(text) for text in job["interval"])
    end += timedelta(seconds=1)  # it drops fractions of seconds, at the end too
    return [
        "--incremental-key",
        table["cursor"],
        "--interval-start",
        start.isoformat(),
        "--interval-end",
        end.isoformat(),
    ]


if __name__ == "__main__":
    sys.exit(main())
