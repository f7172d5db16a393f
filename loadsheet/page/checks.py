"""What is checked of a table or mart: limits in the pipeline file, tests, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from loadsheet.project.folder import display_path
from loadsheet.spec.models import FreshWithin, Pipeline, Table
from loadsheet.sqltest.models import Case
from loadsheet.wording import age

Fields = dict[str, Any]


def checks_of(pipeline: Pipeline, kind: str, name: str, cases: Sequence[Case]) -> list[Fields]:
    """The checks of a table or transform of the pipeline file; `cases` are the pipeline's tests.

    Each has a `kind` (`limit`, `freshness`, `comparison` or `test`), a `text`, and `where` it is
    written, which is None for what needs no line of its own. The ledger has results of freshness
    and comparisons: the fields `freshness` and `verified` of the target.
    """
    found: list[Fields] = []
    if kind == "table":
        table = pipeline.table(name)
        limits = table.fresh_within
        found += [_check("limit", text) for text in _limits(table)]
    else:
        limits = pipeline.transform(name).fresh_within
        found += _tests(pipeline, name, cases)
    if limits:
        found.append(_check("freshness", _fresh(limits)))
    other = "its source" if kind == "table" else "the rows of its SELECT"
    how = f" ({pipeline.verify})" if pipeline.verify else ""
    found.append(_check("comparison", f"equals {other}{how}"))
    return found


def _limits(table: Table) -> list[str]:
    texts = []
    if table.schema_contract == "freeze":
        texts.append("the source's columns stay as they are: a load with others fails")
    if table.max_shrink is not None:
        texts.append(f"a full load removes at most {table.max_shrink:.0%} of the rows")
    if table.deletes and table.deletes.removes:
        texts.append(f"a run deletes at most {table.deletes.max_delete:.0%} of the rows")
    return texts


def _tests(pipeline: Pipeline, name: str, cases: Sequence[Case]) -> list[Fields]:
    mart = f"{pipeline.warehouse.mart_schema}.{name}"
    found = []
    for case in cases:
        if any(mart in step.expect for step in case.steps):
            file, line, _ = case.where.rsplit(":", 2)
            found.append(_check("test", case.name, f"{display_path(file)}:{line}"))
    return found


def _fresh(limits: FreshWithin) -> str:
    parts = []
    if limits.warn is not None:
        parts.append(f"warning from {_length(limits.warn)} on")
    if limits.fail is not None:
        parts.append(f"late from {_length(limits.fail)} on")
    return f"fresh: {', '.join(parts)}"


def _length(length: timedelta) -> str:
    return age(length.total_seconds())


def _check(kind: str, text: str, where: str | None = None) -> Fields:
    return {"kind": kind, "text": text, "where": where}
