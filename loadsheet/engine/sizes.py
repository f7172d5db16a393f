"""How large the tables of a run are in the source, so that the largest are extracted first: one
that came last would run alone at the end, while a thread has nothing to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta

import psycopg

from loadsheet.deadline import limited
from loadsheet.engine.sessions import Servers
from loadsheet.errors import LoadsheetError
from loadsheet.redact import summary
from loadsheet.spec.models import Pipeline

_log = logging.getLogger(__name__)

_LONGEST = timedelta(seconds=10)
# As the last VACUUM, ANALYZE or CREATE INDEX has counted them: looking at the files would wait for
# a table that is locked.
_PAGES = """
WITH RECURSIVE part (name, oid) AS (
    SELECT relname::text, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = %s AND relname = ANY (%s)
    UNION ALL
    SELECT name, inhrelid FROM part JOIN pg_inherits ON inhparent = part.oid
)
SELECT name, sum(greatest(c.relpages, 0) + greatest(coalesce(long.relpages, 0), 0))::bigint
FROM part JOIN pg_class c ON c.oid = part.oid LEFT JOIN pg_class long ON long.oid = c.reltoastrelid
GROUP BY name
"""


def pages(pipeline: Pipeline, tables: Iterable[str], servers: Servers) -> Mapping[str, int]:
    """The pages of the tables, their partitions and their long values, by name; 0 where the
    source's statistics do not know them yet. Empty where the source does not answer: each table's
    own step meets that again."""
    names = list(tables)
    try:
        with (
            limited("looking at the tables' sizes", min(_LONGEST, pipeline.tasks.timeout)),
            servers.source() as source,
        ):
            return dict(source.execute(_PAGES, (pipeline.source.schema, names)).fetchall())
    except (LoadsheetError, psycopg.Error) as error:
        _log.info("tables are extracted in the file's order: %s", summary(error))
        return {}
