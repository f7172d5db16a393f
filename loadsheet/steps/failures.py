"""Notes in the ledger that a step failed, so that `loadsheet status` knows it wherever the step ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from loadsheet.connections import Connections
from loadsheet.errors import LoadsheetError, Overtaken, Superseded
from loadsheet.limit import limited
from loadsheet.outcome import RunRequest
from loadsheet.plan.steps import Step
from loadsheet.postgres import connect_warehouse
from loadsheet.redact import summary
from loadsheet.spec.models import Pipeline
from loadsheet.warehouse import failures, ledger

_LONGEST_WAIT = timedelta(seconds=5)
_LONGEST_MESSAGE = 2_000


@contextmanager
def noted(step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections) -> Iterator[None]:
    """Notes what the step of a table or transform fails with, and lets it pass.

    In a session of its own, because the step's may be broken. A note that cannot be written, or not soon, is left out:
    nothing may stand in the error's place.
    """
    try:
        yield
    except (Overtaken, Superseded):
        raise  # a newer run has the table, and says how it stands
    except Exception as error:
        if step.kind != "create_bucket":
            with suppress(Exception):
                _note(step, pipeline, request, connections, error)
        raise


def _note(step: Step, pipeline: Pipeline, request: RunRequest, connections: Connections, error: Exception) -> None:
    expected = isinstance(error, LoadsheetError)
    place = f"{pipeline.name}.{step.name}: {step.kind} failed in run {request.run_id}: "
    message = str(error).removeprefix(place) if expected else summary(error)
    brief = limited("noting the failure", _LONGEST_WAIT)
    with brief, connect_warehouse(connections(pipeline.warehouse.conn_id)) as session:
        ledger.ensure(session)
        failures.remember(
            session, pipeline.name, "transform" if step.kind == "transform" else "table", step.name,
            step=step.kind, run_id=request.run_id, code=error.code if isinstance(error, LoadsheetError) else "",
            message=message[:_LONGEST_MESSAGE],
        )  # fmt: skip
