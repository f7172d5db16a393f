"""The link of a task to what its run did, on Loadsheet's page.

Airflow's API server makes it when a person looks at the task. A link that the operators had
themselves would be one more XCom and one more call to the API server for every task.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk.bases.operatorlink import BaseOperatorLink
from airflow.sdk.configuration import conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PAGE = "loadsheet/"
"""The path of the page, below Airflow's."""
_OPERATORS = {
    "loadsheet.airflow.look": ("LookOperator",),
    "loadsheet.airflow.operators": (
        "CreateBucketOperator",
        "ResolveTablesOperator",
        "PostgresToMinioOperator",
        "HelpExtractOperator",
        "MinioToPostgresOperator",
        "SqlTransformOperator",
        "VerifyTablesOperator",
    ),
    "loadsheet.airflow.table_operators": (
        "TableOperator",
        "BatchOperator",
        "TransformAfterBatchOperator",
    ),
}


def page_address() -> str:
    """The address of the page. Below the path of Airflow, wherever that is."""
    airflow = conf.get("api", "base_url", fallback="/").rstrip("/")
    return f"{airflow}/{PAGE}"


class RunLink(BaseOperatorLink):
    """To the run on the page, from each task of a pipeline."""

    name = "Loadsheet: this run"
    # Airflow compares their names alone. So the API server imports no operator.
    operators = [  # noqa: RUF012 (as in Airflow's class)
        SimpleNamespace(__module__=module, __name__=name)  # type: ignore[misc]
        for module, names in _OPERATORS.items()
        for name in names
    ]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address of the run."""
        dag_id, run_id = quote(ti_key.dag_id, safe=""), quote(ti_key.run_id, safe="")
        return f"{page_address()}#/p/{dag_id}/run/{run_id}"
