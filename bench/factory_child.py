"""One measurement of `bench.factory` in a process of its own; the last line it prints is the result
as JSON.

Airflow's own modules are imported before the clock starts: its dag processor forks from a process
that has them, and a worker needs them whoever has written the DAG.
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import airflow.sdk.execution_time.task_runner  # noqa: F401
from airflow.sdk import DAG

HEAVY = (
    "dagfactory",
    "jsonschema",
    "yaml",
    "loadsheet.sql.libpg",
    "pandas",
    "pyarrow",
    "numpy",
    "psycopg",
    "minio",
)


def write(root: Path) -> dict[str, Any]:
    """The same DAGs by hand, one file each, below `hand` and `tuned`."""
    from bench.handwritten import source
    from loadsheet.plan.dag_config import dag_config
    from loadsheet.spec.pipeline_file import find_specs, load_pipeline

    for kind in ("hand", "tuned"):
        (root / kind).mkdir()
        for spec in find_specs(root):
            pipeline = load_pipeline(spec)
            text = source(pipeline.name, dag_config(pipeline, root), tuned=kind == "tuned")
            (root / kind / f"{pipeline.name}.py").write_text(text, encoding="utf-8")
    return {}


def single(root: Path) -> dict[str, Any]:
    """Milliseconds to build one DAG once everything is imported, the spec checked and the file by
    hand compiled; and those in which Airflow turns it into what it stores, as its dag processor
    does after every parse."""
    from airflow.serialization.serialized_objects import DagSerialization

    from bench.handwritten import source
    from loadsheet.airflow.factory import build_dag
    from loadsheet.plan.dag_config import dag_config
    from loadsheet.spec.pipeline_file import find_specs, load_pipeline

    pipeline = load_pipeline(find_specs(root)[0])
    config = dag_config(pipeline, root)
    by_hand = compile(source(pipeline.name, config), "hand.py", "exec")
    tuned = compile(source(pipeline.name, config, tuned=True), "tuned.py", "exec")
    contenders: dict[str, Callable[[], DAG]] = {
        "Loadsheet": lambda: build_dag(pipeline, root),
        "by hand": lambda: _run(by_hand),
        "by hand, tuned": lambda: _run(tuned),
    }
    facts = [_facts(build()) for build in contenders.values()]
    assert facts[0] == facts[1] == facts[2], "not the same DAG"
    dags = {name: build() for name, build in contenders.items()}
    storing = {name: lambda dag=dag: DagSerialization.to_dict(dag) for name, dag in dags.items()}
    return {"build": _turns(contenders, 40), "store": _turns(storing, 10)}


def _turns(contenders: Mapping[str, Callable[[], object]], times: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(times):
        for name, work in contenders.items():
            found[name].append(_seconds(work) * 1000)
    return {name: statistics.median(values) for name, values in found.items()}


def all_(root: Path) -> dict[str, Any]:
    """Seconds to check and build every spec, our imports included."""

    def everything() -> None:
        from loadsheet.airflow.registry import pipeline_dags

        assert not any("broken-spec" in dag.tags for dag in pipeline_dags(root).values())

    return {"s": _seconds(everything)}


def native(root: Path, folder: str) -> dict[str, Any]:
    """Seconds to read, compile and run every DAG file written by hand, the operators' import
    included."""

    def everything() -> None:
        for file in sorted((root / folder).glob("*.py")):
            _run(compile(file.read_bytes(), str(file), "exec"))

    return {"s": _seconds(everything)}


def worker(root: Path, dag_id: str) -> dict[str, Any]:
    """Milliseconds from the DAG file to the operator's pipeline, as in a worker."""
    os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = dag_id
    before = set(sys.modules)

    def start() -> None:
        dag = runpy.run_path(str(root / "dags" / "load_pipelines.py"))[dag_id]
        from loadsheet.spec.pipeline_file import load_pipeline

        load_pipeline(root / dag.get_task("look").spec)

    milliseconds = _seconds(start) * 1000
    return {"ms": milliseconds, "heavy": sorted(set(HEAVY) & (set(sys.modules) - before))}


def worker_native(root: Path, dag_id: str) -> dict[str, Any]:
    """The same with the DAG written by hand: its operator needs the pipeline just as well, so only
    the DAG counts."""
    from bench.handwritten import source
    from loadsheet.plan.dag_config import dag_config
    from loadsheet.spec.pipeline_file import find_specs, load_pipeline

    pipeline = load_pipeline(find_specs(root)[0])
    text = source(dag_id, dag_config(pipeline, root))
    return {"ms": _seconds(lambda: _run(compile(text, "hand.py", "exec"))) * 1000}


def _run(code: Any) -> DAG:
    space: dict[str, Any] = {}
    exec(code, space)  # noqa: S102  # what Airflow does with a DAG file
    dag: DAG = space["dag"]
    return dag


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _facts(dag: DAG) -> Any:
    """What Airflow stores of a DAG, but for the order of tasks, the file, and copies of the params
    in tasks."""
    from airflow.serialization.serialized_objects import DagSerialization

    stored = DagSerialization.to_dict(dag)["dag"]
    tasks = [task["__var"] for task in stored.pop("tasks")]
    for task in tasks:
        # says of each that it comes from the DAG
        copied = json.dumps(task.pop("params", stored["params"]))
        assert copied.replace('"source": "dag"', '"source": null') == json.dumps(stored["params"])
    stored.pop("fileloc")
    return json.loads(
        json.dumps([stored, sorted(tasks, key=lambda task: task["task_id"])], sort_keys=True)
    )


KINDS: dict[str, Callable[..., Any]] = {
    "write": write,
    "single": single,
    "all": all_,
    "native": native,
    "worker": worker,
    "worker-native": worker_native,
}

if __name__ == "__main__":
    print("\n" + json.dumps(KINDS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
