"""The DAG that tells when tables and marts are late and sends the daily digests, and which projects
have it: docs/freshness.md, docs/alerts.md.

It is a DAG of its own because a late pipeline may be paused, broken or gone, and then none of its
tasks runs. It is built without dag-factory: there is nothing to configure.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, BaseOperator, get_parsing_context

from loadsheet.airflow.dag_ids import quick_text
from loadsheet.airflow.locate import remember_project
from loadsheet.spec.compiled import read_entry, write_entry
from loadsheet.spec.models import FRESHNESS_DAG
from loadsheet.spec.pipeline_file import find_specs

if TYPE_CHECKING:
    from airflow.sdk import Context

EVERY = "*/5 * * * *"
_LIMIT = timedelta(minutes=4)
_ASKS = re.compile(r"fresh_within|\bdigest\b")
_DOC = """\
Looks every 5 minutes whether the tables and marts of this project are as fresh as `fresh_within` in
their pipeline files says, and posts one message when they are late and one when they are fresh
again. Sends the daily digests that `notify` asks for. It reads the ledgers in the warehouses,
changes nothing there, and does not fail because a warehouse cannot be reached. Keep it running:
while it is paused, nothing tells that something is late, and the digests wait.
"""


class FreshnessOperator(BaseOperator):
    """Looks once. What it remembers from look to look is in the Variable with the DAG's id."""

    template_fields = ()
    ui_color = "#d9d9d9"

    def execute(self, context: Context) -> None:
        """Raises what Airflow's own API raises, and nothing of a pipeline or its servers."""
        # needs the drivers, which parsing a DAG file does not
        from loadsheet.airflow.freshness_watch import watch

        dag = self.get_dag()
        assert dag
        watch(Path(dag.loadsheet_project), dag.dag_id, context["ti"])  # type: ignore[attr-defined]


def freshness_dag(root: Path, dag_id: str = FRESHNESS_DAG) -> DAG:
    """The DAG that watches the project `root`."""
    dag = DAG(
        dag_id,
        description="Tells when tables and marts are late, and sends the daily digests",
        schedule=EVERY,
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        # Of a project in Git, the newest commit says what is promised.
        disable_bundle_versioning=True,
        is_paused_upon_creation=False,
        doc_md=_DOC,
        tags=["loadsheet"],
    )
    # The next look comes in minutes, and does what this one could not.
    FreshnessOperator(task_id="look", dag=dag, retries=0, execution_timeout=_LIMIT)
    remember_project(dag, root)
    return dag


def watched_dag(root: Path, dag_id: str = FRESHNESS_DAG) -> DAG | None:
    """The DAG that watches the project; None where none of its pipeline files asks for it. A worker
    has it in any case."""
    is_in_worker = get_parsing_context().dag_id == dag_id
    return freshness_dag(root, dag_id) if is_in_worker or asks_for_looks(root) else None


def asks_for_looks(root: Path) -> bool:
    """Whether a pipeline file of the project has `fresh_within` or asks for a digest, or did before
    it was removed.

    Read from the text, so that a broken file counts as well. That a file was there is noted in the
    cache: a DAG that went together with the file could not tell that it is gone.
    """
    key = hashlib.sha256(f"freshness\n{root.resolve()}".encode(errors="surrogateescape"))
    noted = read_entry(key.hexdigest())
    before = noted if isinstance(noted, list) else []
    asking = {
        spec.relative_to(root).as_posix()
        for spec in find_specs(root)
        if _ASKS.search(quick_text(spec))
    }
    asking.update(file for file in before if not (root / file).exists())
    if sorted(asking) != before:
        write_entry(key.hexdigest(), sorted(asking))
    return bool(asking)
