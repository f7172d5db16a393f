"""The project of a peer for `bench.dag_tables`: dag-factory as its documentation shows it, with one
task per table. Each asks the source for rows above the highest cursor that the warehouse has,
merges them, and is skipped when there are none. No lake, no ledger, no check.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from bench.job import Job
from bench.world import ask

_SCHEMA = "peer"
_DAG = """
# The word airflow is required for Airflow to read this file.
from pathlib import Path

from dagfactory import load_yaml_dags

load_yaml_dags(globals_dict=globals(), config_filepath=str(Path(__file__).with_name("bench.yml")))
"""
_TASK = f"""
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk.exceptions import AirflowSkipException


def copy_news(table):
    source, warehouse = PostgresHook("bench_source"), PostgresHook("warehouse")
    since = warehouse.get_first(f"SELECT max(updated_at) FROM {_SCHEMA}.{{table}}")[0]
    columns = ["id", "name", "updated_at"]
    rows = source.get_records(
        f"SELECT {{', '.join(columns)}} FROM {{table}} WHERE updated_at > %s", parameters=[since]
    )
    if not rows:
        raise AirflowSkipException("nothing new")
    warehouse.insert_rows(
        f"{_SCHEMA}.{{table}}", rows, target_fields=columns, replace=True, replace_index="id"
    )
"""
_COPY = f"""
DO $$ DECLARE t text; BEGIN
    CREATE SCHEMA IF NOT EXISTS {_SCHEMA};
    FOR t IN SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS {_SCHEMA}.%%1$I', t);
        EXECUTE format('CREATE TABLE {_SCHEMA}.%%1$I AS'
            ' SELECT id, name, updated_at FROM %%2$I.%%1$I', t, %s);
        EXECUTE format('ALTER TABLE {_SCHEMA}.%%1$I ADD PRIMARY KEY (id)', t);
    END LOOP;
END $$
"""


def replace_bundle(task: Job, parallel: int) -> Job:
    """Write the project in place of the one in the job's folder, and copy the loaded tables. The
    job with the peer's tables."""
    shutil.rmtree(task.state)
    dags = task.state / "dags"
    dags.mkdir(parents=True)
    tasks = {}
    for table in task.tables:
        tasks[table.name] = {
            "operator": "airflow.providers.standard.operators.python.PythonOperator",
            "python_callable": "copy_news.copy_news",
            "op_kwargs": {"table": table.name},
        }
    document = {
        "bench": {
            "schedule": None,
            "catchup": False,
            "max_active_tasks": parallel,
            "default_args": {"owner": "bench", "start_date": "2026-01-01"},
            "tasks": tasks,
        }
    }
    (dags / "bench.yml").write_text(json.dumps(document))
    (dags / "bench.py").write_text(_DAG)
    (task.state / "copy_news.py").write_text(_TASK)
    schema = f"'{task.target_schema}'"
    ask(task.warehouse, _COPY % (schema, schema))
    return replace(task, target_schema=_SCHEMA)


def settings(bundle: Path) -> dict[str, str]:
    """Airflow's, where they differ from those of ours: a plain folder of DAG files."""
    classpath = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundles = [{"name": "project", "classpath": classpath, "kwargs": {"path": str(bundle)}}]
    return {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}
