"""What only Airflow knows: connections and Variables in its secrets backend and its database, for
the command line.

Airflow is asked where it is installed: for everything with `--airflow`, and for what the project
does not define where a secrets backend is configured.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from loadsheet.errors import InputError

SECRETS_BACKENDS = ("AIRFLOW__SECRETS__BACKEND", "AIRFLOW__WORKERS__SECRETS_BACKEND")
"""The variables of the environment that configure Airflow's secrets backends."""


class _Answers:
    """Airflow's answers, each asked for once: it takes seconds to import, a backend a request."""

    def __init__(self) -> None:
        self.is_first = False
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Any] = {}

    def get(self, kind: str, name: str, variables: Mapping[str, str]) -> Any:
        with self._lock:
            if (kind, name) not in self._known:
                _set_configuration(variables)
                # By its name: only loadsheet.airflow may import Airflow.
                module = import_module("loadsheet.airflow.command_line")
                ask: Callable[..., Any] = getattr(module, kind)
                self._known[kind, name] = ask(name, with_database=self.is_first)
            return self._known[kind, name]


_answers = _Answers()


def ask_first() -> None:
    """From now on, everything comes from Airflow. Raises InputError where it is not installed."""
    if not is_installed():
        raise InputError(
            "--airflow: Airflow is not installed here; run the command where it is, or define the"
            " connections in the environment, `.env` or connections/"
        )
    _answers.is_first = True


def is_asked_first() -> bool:
    """Whether `--airflow` was given."""
    return _answers.is_first


def is_installed() -> bool:
    """Whether this Python has Airflow. Nothing is imported."""
    return find_spec("airflow") is not None


def has_backend(variables: Mapping[str, str]) -> bool:
    """Whether the variables configure a secrets backend."""
    return any(variables.get(name, "").strip() for name in SECRETS_BACKENDS)


def connection(conn_id: str, variables: Mapping[str, str]) -> Any:
    """The connection as Airflow finds it. Raises ConnectionMissing, with the backend's reason where
    it fails. `variables` may hold Airflow's configuration."""
    return _answers.get("connection", conn_id, variables)


def variable(name: str, variables: Mapping[str, str]) -> str | None:
    """The text of Airflow's Variable; None where there is none. Raises InputError where Airflow
    cannot be asked."""
    text: str | None = _answers.get("variable", name, variables)
    return text


def _set_configuration(variables: Mapping[str, str]) -> None:
    """Airflow reads its configuration from the environment, and not from the project's `.env`."""
    for name, value in variables.items():
        if name.startswith("AIRFLOW__") or name == "AIRFLOW_HOME":
            os.environ.setdefault(name, value)
