"""Imports modules in a process that forks, so that what it forks has them already.

The DAG processor forks a process for each parse. The scheduler, with the LocalExecutor, forks
workers, which fork a process for each task. Of a task that moves a few rows, importing Loadsheet's
engine and its clients was three quarters of the CPU time after Airflow's own start: 550 ms of an
extract, 235 of a load, 330 of a transform; with them in the parent, 100, 65 and 70 are left
(medians of 3 on a busy machine).

What is imported here must start no thread and open nothing: both are lost or shared in a fork.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module

from airflow.configuration import conf

_log = logging.getLogger(__name__)
PARSING = (
    "dagfactory.dagbuilder",
    "loadsheet.airflow.dag_file",
    "loadsheet.airflow.freshness",
    "loadsheet.airflow.look",
    "loadsheet.airflow.operators",
    "loadsheet.airflow.alerts.callbacks",
    "loadsheet.airflow.spec_alerts",
    "loadsheet.airflow.table_operators",
    "loadsheet.spec.build",
    "loadsheet.spec.dependencies",
    "loadsheet.spec.rules.pipeline",
    "loadsheet.spec.schema",
    "loadsheet.spec.sql_files",
    "loadsheet.spec.sql_reading",
    "loadsheet.spec.strict_yaml",
)
"""What a parse needs, of a pipeline file that is new."""
WORKING = (
    "loadsheet.airflow.dag_file",
    "loadsheet.airflow.factory",
    "loadsheet.airflow.look",
    "loadsheet.airflow.operators",
    "loadsheet.airflow.shown",
    "loadsheet.airflow.alerts.callbacks",
    "loadsheet.airflow.table_operators",
    "loadsheet.connections.s3",
    "loadsheet.engine.again",
    "loadsheet.engine.batch",
    "loadsheet.engine.both_steps",
    "loadsheet.engine.details",
    "loadsheet.engine.execute",
    "loadsheet.engine.extract",
    "loadsheet.engine.load",
    "loadsheet.engine.look",
    "loadsheet.engine.request",
    "loadsheet.engine.resume",
    "loadsheet.engine.transform",
    "loadsheet.lake.sdk",
    "loadsheet.source.discovery",
    "loadsheet.source.stream",
    "loadsheet.spec.build",
    "loadsheet.spec.pipeline_file",
    "loadsheet.warehouse.published",
)
"""What a task needs, of a pipeline file that this machine has checked before."""


def preload_for_tasks() -> None:
    """In a scheduler: import what tasks need if its LocalExecutor forks them. Never raises."""
    if "LocalExecutor" not in conf.get("core", "executor", fallback=""):
        return
    try:
        preload(WORKING)
    except ModuleNotFoundError:  # the scheduler can do without
        _log.exception("every task will import Loadsheet by itself")


def preload(modules: Sequence[str]) -> None:
    """Import `modules`. One that cannot be imported is logged: whoever needs it reports it, too.

    Raises ModuleNotFoundError for a module of ours that does not exist: the list is out of date,
    and everything forked would be slow.
    """
    for module in modules:
        try:
            import_module(module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError):
                package = (error.name or "").partition(".")[0]
                if package == "loadsheet":
                    raise
            _log.exception("%s cannot be imported", module)
