"""The checks of a step as data quality facets of OpenLineage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from loadsheet.checks import Check, Checked
from loadsheet.errors import CheckFailed, Corrupt, Differs
from loadsheet.outcome import Outcome

if TYPE_CHECKING:
    from loadsheet.plan.steps import Step
    from loadsheet.warehouse.ledger import Kind

_WHAT = {
    "not_null": "no row has NULL",
    "unique": "no two rows share a value",
    "max_shrink": "the table keeps enough of its rows",
    "matches_manifest": "the rows that were loaded are those that were extracted",
    "equals_source": "the table has the rows of its source",
    "equals_select": "the mart has the rows that its SELECT returns",
}


def checked_by(step: Step, result: Outcome | Exception) -> tuple[Checked, ...]:
    """What the step has checked, which has ended in `result`. Of one that has failed, the check
    that has failed it."""
    if isinstance(result, (Outcome, Differs)):
        return result.checked
    check = _failed_check(result)
    if check is None:
        return ()
    kind: Kind = "transform" if step.kind == "transform" else "table"
    return (Checked(kind=kind, name=step.name, checks=(check,)),)


def _failed_check(error: BaseException | None) -> Check | None:
    while error:
        if isinstance(error, CheckFailed) and error.result:
            return error.result
        if isinstance(error, Corrupt):
            return Check(assertion="matches_manifest", success=False)
        error = error.__cause__
    return None


def assertions(checks: Iterable[Check]) -> Any:
    """The facet with the results of the checks."""
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    found = []
    for check in checks:
        params = {"columns": list(check.columns)} if len(check.columns) > 1 else {}
        found.append(
            quality.Assertion(
                assertion=check.assertion,
                success=check.success,
                column=check.columns[0] if len(check.columns) == 1 else None,
                severity="error",
                description=_WHAT[check.assertion],
                actual=check.found or None,
                params=params,
            )
        )
    return quality.DataQualityAssertionsDatasetFacet(assertions=found)


def row_count(rows: int) -> Any:
    """The facet with the number of rows of a table that was compared."""
    from openlineage.client.facet_v2 import data_quality_metrics_input_dataset as quality

    return quality.DataQualityMetricsInputDatasetFacet(columnMetrics={}, rowCount=rows)
