"""Which types of extensions the warehouse has, in whatever schemas they are installed."""

from __future__ import annotations

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.extensions import TYPES, Offered
from loadsheet.sql.text import Relation
from loadsheet.warehouse import tables

# A type that the role may not use is as good as none.
_TYPES = """
SELECT extname, typname, format_type(t.oid, NULL)
FROM pg_extension e
JOIN pg_depend d ON refclassid = 'pg_extension'::regclass AND refobjid = e.oid AND deptype = 'e'
JOIN pg_type t ON classid = 'pg_type'::regclass AND objid = t.oid
WHERE extname = ANY (%s)
  AND has_schema_privilege(typnamespace, 'USAGE') AND has_type_privilege(t.oid, 'USAGE')
"""


def offered(session: Session, pipeline: Pipeline, target: Relation, in_full: bool) -> Offered:
    """The types that the warehouse has for the columns of `target`. As their values travel as text,
    the lake's format `binary` takes none.

    A column that was loaded as text stays text until the table is read again (`in_full`): its type
    cannot be changed in place, and an extension that was created later must not stop the loads.
    """
    if pipeline.lake.format == "binary":
        return Offered(names={})
    names = {}
    for extension, name, qualified in session.execute(_TYPES, (list(TYPES),)).fetchall():
        names[extension, name] = qualified
    texts = []
    if not in_full:
        for column, type_name in tables.columns_of(session, target).items():
            if type_name in ("text", "text[]"):
                texts.append(column)
    return Offered(names=names, texts=frozenset(texts))
