"""The last failure of each table and transform, in the ledger: for people, never for a decision."""

from __future__ import annotations

from typing import Literal

from loadsheet.postgres import Session

Kind = Literal["table", "transform"]

# `since` is the first failure since it last worked.
_REMEMBER = """
INSERT INTO loadsheet.failure AS f (pipeline, kind, name, step, run_id, code, message, since, failed_at)
SELECT %(pipeline)s, %(kind)s, %(name)s, %(step)s, %(run_id)s, %(code)s, %(message)s, now, now
FROM (SELECT clock_timestamp() AS now) clock
ON CONFLICT (pipeline, kind, name) DO UPDATE SET
    step = excluded.step, run_id = excluded.run_id, code = excluded.code, message = excluded.message,
    since = CASE WHEN f.worked_at IS NULL THEN f.since ELSE excluded.since END,
    failed_at = excluded.failed_at, worked_at = NULL
"""


def remember(
    session: Session, pipeline: str, kind: Kind, name: str, *, step: str, run_id: str, code: str, message: str
) -> None:
    """Note that `step` failed; `message` must be fit to be shown."""
    session.execute(
        _REMEMBER,
        {
            "pipeline": pipeline, "kind": kind, "name": name, "step": step, "run_id": run_id, "code": code,
            "message": message,
        },
    )  # fmt: skip


def settle(session: Session, pipeline: str, kind: Kind, name: str) -> None:
    """Say that it works again. Writes nothing where nothing had failed."""
    session.execute(
        "UPDATE loadsheet.failure SET worked_at = clock_timestamp() "
        "WHERE pipeline = %s AND kind = %s AND name = %s AND worked_at IS NULL",
        (pipeline, kind, name),
    )
