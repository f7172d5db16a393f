"""Extract and load steps that a newer extraction of their table overtakes: they extract it again.

Of two extractions of a table only the newer can be loaded, or rows that were read earlier could
overwrite rows that were read later. Runs that overlap (a backfill, a schedule, cleared runs)
overtake each other. The rows of the older extraction need not be in the newer one, which may have
read another interval, and may never be loaded. So nothing is assumed of them: the table is
extracted again, under a new fence, by the same rules as any extraction. Where the newer one has
loaded everything, nothing is new, and the step is skipped.

Steps that extract again would overtake each other for ever, so they take turns (`warehouse.turn`).
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import replace

from loadsheet.engine.load import load
from loadsheet.engine.sessions import Servers
from loadsheet.errors import Fenced, Superseded, TargetLost
from loadsheet.lake.parts import Progress
from loadsheet.outcome import Outcome, RunRequest, skipped
from loadsheet.spec.models import Pipeline, Table
from loadsheet.sql.text import Relation
from loadsheet.warehouse import fence
from loadsheet.warehouse.turn import turn

_log = logging.getLogger(__name__)

# A turn is interrupted only by first extractions, and each run has one. More in a row than this
# have another cause.
_MOST_TRIES = 20


def extract_step(
    pipeline: Pipeline, table: Table, request: RunRequest, servers: Servers, progress: Progress
) -> Outcome:
    """Extract the table; again, where another extraction overtakes this one.

    Raises as `engine.extract.extract`, and Fenced only after many tries.
    """
    return _Step(pipeline, table, request, servers, progress).extract()


def load_step(
    pipeline: Pipeline,
    table: Table,
    request: RunRequest,
    load_id: str,
    servers: Servers,
    progress: Progress,
) -> Outcome:
    """Load what the extract step has stored as `load_id`. Where a newer extraction has overtaken
    that one, extract the table again and load it; skipped where that finds nothing new. Then fill
    the columns that older rows lack, if the spec asks for that.

    Raises as `engine.load.load` and `engine.extract.extract`, and Fenced only after many tries.
    """
    outcome = _Step(pipeline, table, request, servers, progress).load(load_id)
    if table.fill is None or request.sample:
        return outcome
    from loadsheet.engine.fill import fill_older_rows  # it needs the extraction's modules

    return fill_older_rows(pipeline, table, request, servers, progress, outcome)


class _Step:
    """One table's extract or load step."""

    def __init__(
        self,
        pipeline: Pipeline,
        table: Table,
        request: RunRequest,
        servers: Servers,
        progress: Progress,
    ):
        self._pipeline = pipeline
        self._table = table
        self._request = request
        self._servers = servers
        self._progress = progress
        self._target = Relation(pipeline.warehouse.schema, table.name)

    def extract(self) -> Outcome:
        try:
            return self._extract_once()
        except Fenced as error:
            self._refuse_unless_overtaken(error)
        with self._turn():
            return self._extract_until_done()

    def load(self, load_id: str) -> Outcome:
        try:
            return self._load_once(load_id)
        except Superseded as error:
            self._refuse_unless_overtaken(error)
        note = ""
        with self._turn():
            for _ in range(_MOST_TRIES):
                try:
                    # Before anything is extracted: another try of this step may have loaded it, and
                    # the newer extraction may be of this run (its extract step was cleared).
                    outcome = self._load_once(load_id)
                    return replace(outcome, message=outcome.message + note)
                except Superseded as error:
                    self._refuse_unless_overtaken(error)
                extracted = self._extract_until_done()
                note = "; a newer extraction had overtaken this one, so it was extracted again"
                if extracted.load_id is None:
                    return skipped(f"{extracted.message}{note}")
                load_id = extracted.load_id
        raise self._still_overtaken()

    def _extract_until_done(self) -> Outcome:
        for _ in range(_MOST_TRIES):
            try:
                return self._extract_once()
            except Fenced as error:
                self._refuse_unless_overtaken(error)
        raise self._still_overtaken()

    def _extract_once(self) -> Outcome:
        # What a load needs of the extraction's modules, it needs only here.
        from loadsheet.engine.extract import extract
        from loadsheet.source.discovery import has_relation

        pipeline, table = self._pipeline, self._table
        lake, open_warehouse = self._servers.lake, self._servers.warehouse
        with self._servers.source() as source:
            if table.matched and not has_relation(source, pipeline.source.schema, table.name):
                return skipped("no longer in the source; the loaded rows stay")
            return extract(
                pipeline, table, self._request, source, lake, open_warehouse, self._progress
            )

    def _load_once(self, load_id: str) -> Outcome:
        lake, open_warehouse = self._servers.lake, self._servers.warehouse
        return load(self._pipeline, self._table, load_id, lake, open_warehouse, self._progress)

    def _refuse_unless_overtaken(self, error: Fenced | Superseded) -> None:
        """Raises `error` unless another extraction of this pipeline's table is what caused it.

        A target that is gone or was changed, and a table that has another pipeline's name now, need
        a decision by a person.
        """
        if isinstance(error, TargetLost):
            raise error
        name, table = self._pipeline.name, self._table.name
        with self._servers.warehouse() as session:
            is_known = fence.is_known(session, name, table, self._target)
        if not is_known:
            raise error
        _log.info("%s. Starting again", error)

    def _turn(self) -> AbstractContextManager[None]:
        return turn(self._servers.own_warehouse, self._pipeline.name, self._target)

    def _still_overtaken(self) -> Fenced:
        return Fenced(
            f"{self._pipeline.name}.{self._table.name}: other runs have overtaken this one"
            f" {_MOST_TRIES} times; retry when they have ended"
        )
