"""Airflow's connections as the core knows them."""

from __future__ import annotations

import os

from airflow.sdk import Connection as AirflowConnection
from airflow.sdk.exceptions import AirflowNotFoundException

from loadsheet.connections import Connection
from loadsheet.errors import ConnectionMissing


def airflow_connection(conn_id: str) -> Connection:
    """The connection as Airflow finds it (secrets backend, environment, database). Raises ConnectionMissing."""
    try:
        found = AirflowConnection.get(conn_id)
    except AirflowNotFoundException:
        raise ConnectionMissing(_why_not(conn_id, f"AIRFLOW_CONN_{conn_id.upper()}")) from None
    return Connection(
        conn_id=conn_id,
        conn_type=found.conn_type or "",
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        schema=found.schema or "",
        extra=found.extra_dejson,
    )


def _why_not(conn_id: str, variable: str) -> str:
    if variable in os.environ:  # Airflow passes over one that it cannot read
        return (
            f"Airflow cannot read {variable}: expected JSON, or conn_type://login:password@host:port/schema with "
            "special characters of the login and the password percent-encoded"
        )
    return (
        f"Airflow has no connection {conn_id!r}. Add it under Admin > Connections, import connections/ with "
        f"`airflow connections import`, or set {variable}."
    )
