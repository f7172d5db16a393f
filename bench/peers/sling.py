"""sling 1.4.11: one process per table, `parallel` at a time; direct, without a lake.

The last release whose program is on the package index (`sling-linux-amd64`). The package `sling`
is newer, and fetches its program from GitHub at the first run.

Tuned as docs.slingdata.io advises: `use_bulk` (COPY) is on, its default; SLING_DIRECT_INSERT writes
a full load straight into the target, not into a temporary table that is then copied. The primary
key is made by sling's `post_sql`: 10.7 and 10.4 s; made with the table by `table_keys` 14.9 and
12.1 s, and that without direct insert 14.2 and 12.7 s (2.3 M rows, two runs of each). An increment
is mode `incremental` with `primary_key` and `update_key`: rows above max(updated_at) of the target,
upserted from a temporary table. SLING_THREADS (several streams in one process) needs a paid token,
hence processes.

Different in the target: no NOT NULL but the key's; char(n) becomes varchar(n), numeric(p,s)
numeric, point varchar.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from children import Command, Job, plain, read_job, run_all
from sling_linux_amd64 import SLING_BIN


def main() -> int:
    """Do the job; 0 if all went well."""
    return run_all(read_job(), command)


def command(job: Job, table: dict[str, Any]) -> Command:
    """`sling run` of one table's replication, which is written into the state folder."""
    full, target = job["kind"] == "full", f"{job['target_schema']}.{table['name']}"
    options = {"column_casing": "source"}
    if full:
        options["post_sql"] = f"ALTER TABLE {target} ADD PRIMARY KEY ({', '.join(table['key'])})"
    replication = {
        "source": "BENCH_SOURCE",
        "target": "BENCH_WAREHOUSE",
        "env": {"SLING_DIRECT_INSERT": str(full).lower()},
        "defaults": {
            "mode": "full-refresh" if full else "incremental",
            "object": target,
            "primary_key": table["key"],
            "update_key": table["cursor"],
            "target_options": options,
        },
        "streams": {f"{job['source_schema']}.{table['name']}": {}},
    }
    file = Path(job["state"]) / f"{table['name']}.json"
    file.write_text(json.dumps(replication))
    return [SLING_BIN, "run", "-r", str(file)], {
        "BENCH_SOURCE": plain(job["source"]),
        "BENCH_WAREHOUSE": plain(job["warehouse"]),
        "SLING_HOME_DIR": job["state"],
        "SLING_DISABLE_TELEMETRY": "true",
        # nobody: now and then it asks whether there is a newer release
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }


if __name__ == "__main__":
    sys.exit(main())
