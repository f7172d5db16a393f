"""What a pipeline's roles lack, as `loadsheet doctor` shows it: the privileges that the preview of
its steps misses."""

from __future__ import annotations

from dataclasses import dataclass, field

from loadsheet.connections.lookup import Connections
from loadsheet.engine.diagnosis import told
from loadsheet.errors import LoadsheetError
from loadsheet.preview.models import Remark
from loadsheet.preview.pipeline import preview_pipeline
from loadsheet.spec.models import Pipeline


@dataclass(kw_only=True)
class Lacking:
    """The privileges that one pipeline lacks, and those that others have too many, each once."""

    pipeline: str
    remarks: list[Remark] = field(default_factory=list)
    others: int = 0
    """Further errors of the preview, which no privilege removes."""


def lacking_privileges(pipeline: Pipeline, connections: Connections) -> Lacking:
    """What a run of the pipeline now would be refused. Nothing is written.

    Raises what neither the engine nor a server means as a refusal.
    """
    found = Lacking(pipeline=pipeline.name)
    try:
        _, previews = preview_pipeline(pipeline, connections)
    except Exception as error:
        is_refusal = isinstance(error, LoadsheetError)
        text = str(error) if is_refusal else told(error)
        if not is_refusal and not text:
            raise
        found.remarks.append(Remark(severity="error", code="preview", message=text))
        return found
    seen: set[str] = set()
    for preview in previews.values():
        for remark in preview.remarks:
            is_too_much = remark.code == "search-path"
            if remark.message in seen or not (remark.severity == "error" or is_too_much):
                continue
            seen.add(remark.message)
            if is_too_much or remark.code == "privilege" or remark.fix.startswith("GRANT "):
                found.remarks.append(remark)
            else:
                found.others += 1
    return found
