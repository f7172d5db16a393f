"""Airflow's configuration for one bundle folder, one database and one port, as environment
variables."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from demo.servers.process import LOOPBACK

# A proxy has no business between processes of one machine, and Slack's client ignores NO_PROXY.
_NOT_INHERITED = ("AIRFLOW_", "AIRFLOW__", "PYTHON", "PG", "http_proxy", "https_proxy", "all_proxy")


def settings(
    home: Path, bundle: Path, database: str, port: int, user: str, passwords: Path
) -> dict[str, str]:
    """What differs from Airflow's defaults. `database` is a postgresql:// URI, `bundle` the project
    with its code.

    Nothing listens but the api-server, on 127.0.0.1; every secret is new; nothing is reported to
    anybody.
    """
    url = f"http://{LOOPBACK}:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.replace(
            "postgresql://", "postgresql+psycopg2://", 1
        ),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(bundle),
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        # the default waits for DNS, which may not answer
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": LOOPBACK,
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        # The default makes a third of all tasks wait at their end: docs/deploy.md.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": _bundles(bundle),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
        # Edits do not wait for it: the bundle passes them on.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "AIRFLOW__DAG_FACTORY__ENABLE_TELEMETRY": "False",
        "DO_NOT_TRACK": "1",
        "SCARF_ANALYTICS": "false",
        "PYTHONPATH": str(bundle),  # where the bundle's class is
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "160",
    }


def _bundles(folder: Path) -> str:
    kwargs = {"path": str(folder), "refresh_interval": 1}
    classpath = "loadsheet.airflow.bundle.LocalPipelineBundle"
    return json.dumps([{"name": "project", "classpath": classpath, "kwargs": kwargs}])


def inherited(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Our environment without what would steer Airflow, Python or PostgreSQL elsewhere."""
    return {name: value for name, value in environ.items() if not _steers(name)}


def _steers(name: str) -> bool:
    return name.startswith(_NOT_INHERITED) or name.lower() in _NOT_INHERITED
