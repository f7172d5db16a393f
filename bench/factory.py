"""What the factory costs beside the same DAGs written by hand. `python -m bench.factory [--json
FILE]`, in `.venv`.

Every run is a process of its own, and the contenders take turns. A DAG has 24 steps: those of
`pipelines/flights` without three of its marts. What each case measures says
`bench/factory_child.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.records import Record, store

REPO = Path(__file__).resolve().parents[1]
FLIGHTS = REPO / "pipelines" / "flights"
LEFT_OUT = ("fct_boarding_pass", "fct_booking_ticket", "fct_seat_occupied_daily")
OURS, HAND, TUNED = "Loadsheet", "by hand", "by hand, tuned"
NOTES = {
    TUNED: (
        "its trigger form is given to the DAG after the tasks, so that Airflow does not copy it"
        " into each"
    ),
}


def main() -> None:
    """Measure, print a table, write the values."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the values go")
    parser.add_argument(
        "--work", type=Path, help="a folder for the pipelines, kept for the next time"
    )
    parser.add_argument("--repeat", type=int, default=5, help="runs of each contender (default: 5)")
    parser.add_argument(
        "--specs", type=int, default=1000, help="how many specs are many (default: 1000)"
    )
    given = parser.parse_args()
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="loadsheet-bench-") as temp:
        work = given.work or Path(temp) / "work"
        if not work.exists():
            _prepare(work, given.specs)
        for case, contender, unit, value in _measure(work, Path(temp), given.specs, given.repeat):
            values[case, contender, unit].append(value)
    _print(values)
    if given.json:
        records = [
            Record(
                bench="factory",
                case=case,
                contender=who,
                unit=unit,
                values=tuple(found),
                note=NOTES.get(who, ""),
            )
            for (case, who, unit), found in values.items()
        ]
        store(given.json, {}, records)


def write_project(root: Path, count: int, *, renamed: bool = True) -> None:
    """A DAG bundle with the loader and `count` pipelines `p0000`...; the last one is `renamed` in
    `z_folder`."""
    (root / "dags").mkdir(parents=True)
    shutil.copy(REPO / "dags" / "load_pipelines.py", root / "dags")
    lines = (FLIGHTS / "pipeline.yml").read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if line.strip().partition(":")[0] not in LEFT_OUT)
    marts = [file for file in sorted((FLIGHTS / "sql").glob("*.sql")) if file.stem not in LEFT_OUT]
    for number in range(count):
        name, folder = f"p{number:04}", f"p{number:04}"
        if renamed and number == count - 1 > 0:
            name, folder = "renamed", "z_folder"
        sql = root / "pipelines" / folder / "sql"
        sql.mkdir(parents=True)
        spec = text.replace("pipeline: flights", f"pipeline: {name}")
        spec = spec.replace("schema: staging, mart_schema: mart", _schemas(name))
        (sql.parent / "pipeline.yml").write_text(spec)
        for mart in marts:  # no two alike: nothing may be remembered from one to the next
            query = mart.read_text(encoding="utf-8")
            (sql / mart.name).write_text(
                query.replace("staging.", f"staging_{name}.").replace("mart.", f"mart_{name}.")
            )


def _schemas(name: str) -> str:
    """No two pipelines may write one table."""
    return f"schema: staging_{name}, mart_schema: mart_{name}"


def _prepare(work: Path, count: int) -> None:
    write_project(work / "one", 1)
    write_project(work / "many", count)
    child("write", work / "many")


def _measure(
    work: Path, temp: Path, count: int, repeat: int
) -> Iterator[tuple[str, str, str, float]]:
    one, many = work / "one", work / "many"
    for number in range(repeat):
        for what, found in child("single", one).items():
            for contender, value in found.items():
                yield f"{what} one DAG of 24 steps", contender, "ms", value
        case = f"{count} specs"
        yield (
            f"{case}, first time ever",
            OURS,
            "s",
            child("all", many, cache=temp / f"cache{number}")["s"],
        )
        yield (
            f"{case}, nothing changed",
            OURS,
            "s",
            child("all", many, cache=temp / f"cache{number}")["s"],
        )
        for contender, folder in ((HAND, "hand"), (TUNED, "tuned")):
            found = child("native", many, folder)["s"]
            for state in ("first time ever", "nothing changed"):
                yield f"{case}, {state}", contender, "s", found
        for root, dag_id, which in (
            (one, "p0000", "1 spec"),
            (many, f"p{count // 2:04}", case),
            (many, "renamed", f"{case}, its folder has another name"),
        ):
            empty = Path(tempfile.mkdtemp(dir=temp))
            for state in ("empty cache", "the task before has filled the cache"):
                found = child("worker", root, dag_id, cache=empty)
                yield f"worker's start, {which}, {state}", OURS, "ms", found["ms"]
        yield "worker's start, 1 DAG file", HAND, "ms", child("worker-native", one, "p0000")["ms"]


def child(*arguments: str | Path, cache: Path | None = None) -> dict[str, Any]:
    """What `bench.factory_child`, a process of its own, has measured. `cache` is where checks are
    remembered."""
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(Path(tempfile.gettempdir()) / "loadsheet-bench-airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY": "False",
        "LOADSHEET_CACHE": str(cache or ""),
    }
    command = [sys.executable, "-W", "ignore", "-m", "bench.factory_child", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _print(values: dict[tuple[str, str, str], list[float]]) -> None:
    for (case, contender, unit), found in values.items():
        middle, spread = statistics.median(found), f"{min(found):.2f} to {max(found):.2f}"
        print(f"{case:90} {contender:15} {middle:8.2f} {unit:2} ({spread}, n={len(found)})")


if __name__ == "__main__":
    main()
