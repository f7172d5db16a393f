"""Loadsheet as a plugin of Airflow: the page in its navigation, a tab on each DAG, run and task,
and a link from each task to its run.

Every process of Airflow imports this module, each task's too. The page itself, with FastAPI and the
drivers, is imported where Airflow asks for it: in the API server.
"""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import Any

# A task's process has this module already; `airflow.plugins_manager` costs it 1 ms more.
from airflow.sdk.plugins_manager import AirflowPlugin

from loadsheet.airflow.links import RunLink

_log = logging.getLogger(__name__)

PREFIX = "/loadsheet"
_NAME = "Loadsheet"


def _icon(color: str, ground: str) -> str:
    """A table with an arrow. Airflow cannot color it as it does its own, on light and dark blue."""
    return (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'"
        f" fill='none' stroke='%23{color}' stroke-width='2'%3E"
        f"%3Crect x='3' y='4' width='18' height='16' rx='2' fill='{ground}'/%3E"
        "%3Cpath d='M3 10h18M9 10v10M12 15h6M16 13l2 2-2 2'/%3E%3C/svg%3E"
    )


def _view(destination: str, place: str = "") -> dict[str, Any]:
    """One frame of the page. Its address is relative: Airflow may be below a path."""
    return {
        "name": _NAME,
        "href": f"{PREFIX.removeprefix('/')}/{place}",
        "destination": destination,
        # Unique: Airflow drops a second view with the same one.
        "url_route": "loadsheet" if destination == "nav" else f"loadsheet-{destination}",
        "icon": _icon("334155", "white"),
        "icon_dark_mode": _icon("d4d4d8", "none"),
    }


class LoadsheetPlugin(AirflowPlugin):
    """What Airflow shows of Loadsheet."""

    name = "loadsheet"
    external_views = [  # noqa: RUF012 (as in Airflow's class)
        _view("nav") | {"nav_top_level": True},
        _view("dag", "dags/{DAG_ID}"),
        _view("dag_run", "dags/{DAG_ID}/runs/{RUN_ID}"),
        _view("task", "dags/{DAG_ID}/tasks/{TASK_ID}"),
        _view("task_instance", "dags/{DAG_ID}/tasks/{TASK_ID}"),
    ]

    operator_extra_links: list[Any] = [RunLink()]  # noqa: RUF012

    @classmethod
    def on_load(cls, *_: Any, **__: Any) -> None:
        """Airflow calls it in every process that loads plugins."""
        if sys.argv[1:2] == ["scheduler"]:
            from loadsheet.airflow.preload import preload_for_tasks

            preload_for_tasks()

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The page, below PREFIX; empty, with the reason in the log, where it cannot be built."""
        try:
            from loadsheet.airflow.page import page

            app = page()
        except Exception:  # Airflow's API server would not start
            _log.exception("Loadsheet's page is missing")
            return []
        return [{"app": app, "url_prefix": PREFIX, "name": _NAME}]
