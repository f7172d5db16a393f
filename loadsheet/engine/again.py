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

from loadsheet.engine.table_step import TableStep
from loadsheet.errors import Fenced, Superseded, TargetLost
from loadsheet.outcome import Outcome, skipped
from loadsheet.warehouse.scope import is_known
from loadsheet.warehouse.turn import turn

_log = logging.getLogger(__name__)

# A turn is interrupted only by first extractions, and each run has one. More in a row than this
# have another cause.
_MOST_TRIES = 20


def extract_step(step: TableStep) -> Outcome:
    """Extract the table; again, where another extraction overtakes this one.

    Raises as `engine.extract.extract`, and Fenced only after many tries.
    """
    return _Repeated(step).extract()


def load_step(step: TableStep, load_id: str) -> Outcome:
    """Load what the extract step has stored as `load_id`. Where a newer extraction has overtaken
    that one, extract the table again and load it; skipped where that finds nothing new. Then fill
    the columns that older rows lack, if the spec asks for that.

    Raises as `engine.load.load` and `engine.extract.extract`, and Fenced only after many tries.
    """
    outcome = _Repeated(step).load(load_id)
    if step.table.fill is None or step.request.sample:
        return outcome
    from loadsheet.engine.fill import fill_older_rows  # it needs the extraction's modules

    return fill_older_rows(step, outcome)


class _Repeated:
    """A step that is repeated when it is overtaken."""

    def __init__(self, step: TableStep):
        self._step = step

    def extract(self) -> Outcome:
        try:
            return self._extract_once()
        except Fenced as error:
            self._refuse_unless_overtaken(error)
        with self._turn():
            return self._extract_until_done()

    def load(self, load_id: str) -> Outcome:
        try:
            return self._step.load(load_id)
        except Superseded as error:
            self._refuse_unless_overtaken(error)
        note = ""
        with self._turn():
            for _ in range(_MOST_TRIES):
                try:
                    # Before anything is extracted: another try of this step may have loaded it, and
                    # the newer extraction may be of this run (its extract step was cleared).
                    outcome = self._step.load(load_id)
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

        step = self._step
        pipeline, table, servers = step.pipeline, step.table, step.servers
        with servers.source() as source:
            if table.matched and not has_relation(source, pipeline.source.schema, table.name):
                return skipped("no longer in the source; the loaded rows stay")
            return extract(
                pipeline,
                table,
                step.request,
                source,
                servers.lake,
                servers.warehouse,
                step.progress,
                servers.early,
                servers.described.take(table.name),
            )

    def _refuse_unless_overtaken(self, error: Fenced | Superseded) -> None:
        """Raises `error` unless another extraction of this pipeline's table is what caused it.

        A target that is gone or was changed, and a table that has another pipeline's name now, need
        a decision by a person.
        """
        if isinstance(error, TargetLost):
            raise error
        step = self._step
        name, table = step.pipeline.name, step.table.name
        with step.servers.warehouse() as session:
            if not is_known(session, name, table, step.target):
                raise error
        _log.info("%s. Starting again", error)

    def _turn(self) -> AbstractContextManager[None]:
        step = self._step
        return turn(step.servers.new_warehouse, step.pipeline.name, step.target)

    def _still_overtaken(self) -> Fenced:
        step = self._step
        return Fenced(
            f"{step.pipeline.name}.{step.table.name}: other runs have overtaken this one"
            f" {_MOST_TRIES} times; retry when they have ended"
        )
