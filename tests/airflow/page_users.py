"""An auth manager for tests of the page: that of Airflow, and one DAG which only some may see."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

HIDDEN = "payroll"
ROLES = {"admin": "admin", "op": "op", "user": "user", "viewer": "viewer", "guest": "user"}
"""User -> role of SimpleAuthManager. The guest sees all but the DAG HIDDEN, and no code."""


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
        return super().is_authorized_dag(user=user, **asked)
