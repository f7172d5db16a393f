"""What a step of one table works with: given to the extraction, the load, and the fill that may
follow it."""

from __future__ import annotations

from dataclasses import dataclass

from loadsheet.engine.load import load
from loadsheet.engine.sessions import Servers
from loadsheet.lake.parts import Progress
from loadsheet.outcome import Outcome, RunRequest
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation


@dataclass(frozen=True, kw_only=True)
class TableStep:
    """An extract or load step of a table, in a run."""

    pipeline: Pipeline
    table: Table
    request: RunRequest
    servers: Servers
    progress: Progress

    @property
    def target(self) -> Relation:
        """The staging table."""
        return Relation(self.pipeline.warehouse.schema, self.table.name)

    def load(self, load_id: str) -> Outcome:
        """Commit what was extracted as `load_id`; raises as `engine.load.load`."""
        servers = self.servers
        return load(
            self.pipeline,
            self.table,
            load_id,
            servers.lake,
            servers.warehouse,
            self.progress,
            servers.early,
        )
