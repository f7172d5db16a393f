"""What a run has done before it was stopped, by the ledger: so that a run of the same id need not do it again."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.warehouse import ledger


def has_loaded(session: Session, pipeline: str, table: str, run_id: str) -> bool:
    """Whether the run has committed a load of the table."""
    return _exists(session, "load WHERE pipeline = %s AND table_name = %s AND run_id = %s", pipeline, table, run_id)


def sealed_load(session: Session, pipeline: str, table: str, run_id: str) -> str | None:
    """The load that the run has extracted completely and not loaded; None as soon as a newer extraction has begun."""
    load_id = ledger.next_load_id(session, pipeline, table, run_id)
    sealed = "scope WHERE pipeline = %s AND table_name = %s AND sealed_load_id = %s"
    return load_id if _exists(session, sealed, pipeline, table, load_id) else None


def has_built(session: Session, pipeline: str, transform: str, run_id: str) -> bool:
    """Whether the run has built the transform in full."""
    built = "transform_run WHERE pipeline = %s AND transform = %s AND run_id = %s AND full_build"
    return _exists(session, built, pipeline, transform, run_id)


def _exists(session: Session, where: str, *values: str) -> bool:
    return session.execute(f"SELECT EXISTS (SELECT FROM loadsheet.{where})", values).fetchone() == (True,)
