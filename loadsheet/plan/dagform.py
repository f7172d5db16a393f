"""The form that Airflow shows when somebody triggers a pipeline. Its values reach `loadsheet.options.run_request`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def form_params(tables: Sequence[str], others: bool = False) -> dict[str, Any]:
    """dag-factory's configuration of the form for a pipeline with these tables, and `others` that only a run knows."""
    moment = {"default": None, "type": ["string", "null"], "format": "date-time"}
    return {
        "full_refresh": _param("Read, load and build everything again", default=False, type="boolean"),
        "tables": _param(
            "Tables to move; none chosen moves all",
            default=[],
            type=["array", "null"],
            items={"type": "string"} if others else {"type": "string", "enum": list(tables)},
            examples=list(tables),  # what makes the form offer them as choices
        ),
        "accept_source": _param(
            "Go on from the watermarks although the source was failed over: it is known to have lost nothing",
            default=False,
            type="boolean",
        ),
        "interval_start": _param("Read only rows whose cursor is at or after this", **moment),
        "interval_end": _param("... and before this", **moment),
    }


def _param(description: str, **schema: Any) -> dict[str, Any]:
    return {"__type__": "airflow.sdk.Param", "description": description, **schema}
