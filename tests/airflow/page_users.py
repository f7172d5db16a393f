"""An auth manager for tests of the page: that of Airflow, with one DAG that only some may see, and
one that only some may run."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

HIDDEN = "payroll"
READ_ONLY = "away"
ROLES = {"admin": "admin", "op": "op", "user": "user", "viewer": "viewer", "guest": "user"}
"""User -> role of SimpleAuthManager. The guest sees all but the DAG HIDDEN, and no code, and starts
no run of READ_ONLY."""


class GuestAuthManager(SimpleAuthManager):
    """As SimpleAuthManager, but for the guest."""

    def is_authorized_dag(self, *, user: Any, **asked: Any) -> bool:
        """Whether the user may do it."""
        details = asked.get("details")
        if user.username == "guest":
            if details and details.id == HIDDEN:
                return False
            if asked.get("access_entity") == DagAccessEntity.CODE:
                return False
            if details and details.id == READ_ONLY and asked["method"] != "GET":
                return False
        return super().is_authorized_dag(user=user, **asked)
