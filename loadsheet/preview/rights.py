"""Which privileges the roles have and need, with the GRANT for each that is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from loadsheet.postgres import Session
from loadsheet.preview.models import StepPreview
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.spec.sql_reading import is_made_elsewhere, meaning
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import tables_read
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import tables

# LOCK TABLE, by which a table is held still while it is read, wants the right to all of it; a view
# has no such lock.
_READS = """
SELECT current_user::text, has_schema_privilege(%(schema)s, 'USAGE'),
       has_table_privilege(%(oid)s::oid, 'SELECT') OR (NOT %(is_table)s AND NOT EXISTS (
           SELECT FROM unnest(%(columns)s::text[]) name WHERE NOT has_column_privilege(%(oid)s::oid, name, 'SELECT')))
"""
# By the catalog: to_regclass() raises an error in a schema that the role may not use.
_RELATION = """
SELECT current_user::text, relkind::text,
       ARRAY(SELECT name FROM unnest(%(rights)s::text[]) name
             WHERE NOT CASE relkind WHEN 'S' THEN has_sequence_privilege(c.oid, name)
                                    ELSE has_table_privilege(c.oid, name) END)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %(schema)s AND relname = %(name)s
"""
_OWNER = """
SELECT current_user::text, pg_has_role(owner, 'USAGE'), pg_get_userbyid(owner)::text,
       (SELECT rolsuper FROM pg_roles WHERE pg_roles.oid = owner)
FROM (SELECT relowner AS owner FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
      WHERE nspname = %(schema)s AND relname = %(name)s
      UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = %(schema)s AND %(name)s::text IS NULL) owned
"""
_SCHEMA = "SELECT current_user::text, has_schema_privilege(nspname, %s) FROM pg_namespace WHERE nspname = %s"
_DATABASE = "SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), %(right)s)"


def may_read(found: StepPreview, session: Session, source: SourceTable) -> bool:
    """Whether the role may read the table; an error with its GRANTs where it may not."""
    relation = source.relation
    values = {
        "schema": relation.schema,
        "oid": source.oid,
        "is_table": source.is_table,
        "columns": [column.name for column in source.columns],
    }
    role, uses, selects = session.execute(_READS, values).fetchone() or ("", True, True)
    grants = [] if uses else [f"GRANT USAGE ON SCHEMA {ident(relation.schema)} TO {ident(role)};"]
    grants += [] if selects else [f"GRANT SELECT ON {relation.sql} TO {ident(role)};"]
    if grants:
        found.error("privilege", f"role {role} may not read {relation}", " ".join(grants))
    return not grants


def has_schema(found: StepPreview, session: Session, schema: str) -> bool:
    """Whether the schema exists. Adds the CREATE SCHEMA where it does not, and what is lacking for
    it."""
    if (
        session.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        is not None
    ):
        return True
    found.changes = "yes"
    found.ddl.append(f"CREATE SCHEMA {ident(schema)}")
    in_database(found, session, "CREATE", f"create schema {schema}")
    return False


def uses_schema(found: StepPreview, session: Session, schema: str) -> bool:
    """Whether the role may use what is in the schema that exists; an error with its GRANT where it
    may not."""
    return _in_schema(found, session, schema, "USAGE", "use schema")


def creates_in(found: StepPreview, session: Session, schema: str) -> bool:
    """Whether the role may make tables in the schema, or it is yet to be made; an error with its
    GRANT else."""
    return _in_schema(found, session, schema, "CREATE", "create tables in schema")


def _in_schema(found: StepPreview, session: Session, schema: str, right: str, purpose: str) -> bool:
    role, has = session.execute(_SCHEMA, (right, schema)).fetchone() or ("", True)
    if not has:
        fix = f"GRANT {right} ON SCHEMA {ident(schema)} TO {ident(role)};"
        found.error("privilege", f"role {role} may not {purpose} {schema}", fix)
    return bool(has)


def in_database(found: StepPreview, session: Session, right: str, purpose: str) -> None:
    """Adds an error when the role lacks a right on the database."""
    role, database, has = session.execute(_DATABASE, {"right": right}).fetchone() or ("", "", True)
    if not has:
        fix = f"GRANT {right} ON DATABASE {ident(database)} TO {ident(role)};"
        found.error("privilege", f"role {role} may not {purpose} in the warehouse", fix)


def owns(found: StepPreview, session: Session, target: Relation, purpose: str) -> None:
    """Adds an error when somebody else owns the table or view: only its owner may replace or alter
    it."""
    _owns(
        found,
        session,
        "TABLE",
        target.sql,
        str(target),
        purpose,
        schema=target.schema,
        name=target.name,
    )


def owns_schema(found: StepPreview, session: Session, schema: str, purpose: str) -> None:
    """Adds an error when somebody else owns the schema."""
    _owns(
        found,
        session,
        "SCHEMA",
        ident(schema),
        f"schema {schema}",
        purpose,
        schema=schema,
        name=None,
    )


def _owns(
    found: StepPreview,
    session: Session,
    kind: str,
    quoted: str,
    shown: str,
    purpose: str,
    **named: str | None,
) -> None:
    role, is_owner, owner, is_super = session.execute(_OWNER, named).fetchone() or (
        "",
        True,
        "",
        False,
    )
    if not is_owner:
        # Who is in the owner's place leaves the owner's own work as it was; but nobody should be a
        # superuser for it.
        fix = f"GRANT {ident(owner)} TO {ident(role)};"
        if is_super:
            fix = f"ALTER {kind} {quoted} OWNER TO {ident(role)};"
        found.error(
            "privilege", f"{shown} belongs to {owner}, and role {role} may not {purpose} it", fix
        )


def has_rights(
    found: StepPreview, session: Session, relation: Relation, rights: Sequence[str]
) -> bool:
    """Whether the role has all these rights on the table, view or sequence, or there is none; an
    error with its GRANT where it has not."""
    values = {"schema": relation.schema, "name": relation.name, "rights": list(rights)}
    role, kind, lacking = session.execute(_RELATION, values).fetchone() or ("", "", [])
    if lacking:
        on = f"SEQUENCE {relation.sql}" if kind == "S" else relation.sql
        fix = f"GRANT {', '.join(lacking)} ON {on} TO {ident(role)};"
        found.error("privilege", f"role {role} lacks {', '.join(lacking)} on {relation}", fix)
    return not lacking


def may_read_inputs(
    found: StepPreview,
    session: Session,
    pipeline: Pipeline,
    spec: Transform,
    own: Iterable[Relation],
) -> bool:
    """Whether the role may; errors with their GRANTs where it may not. What is not there is not
    asked about."""
    allowed = [has_rights(found, session, relation, ("SELECT",)) for relation in own]
    for relation in _others(session, pipeline, spec):
        allowed.append(uses_schema(found, session, relation.schema))
        allowed.append(has_rights(found, session, relation, ("SELECT",)))
    return all(allowed)


def _others(session: Session, pipeline: Pipeline, spec: Transform) -> Iterator[Relation]:
    """What it reads of others, where it is found."""
    searched = (pipeline.warehouse.schema, pipeline.warehouse.mart_schema, "public")
    for read in tables_read(parse(spec.sql)):
        if read.certain and not meaning(pipeline, read) and is_made_elsewhere(pipeline, read):
            relations = (
                Relation(schema, read.name)
                for schema in ((read.schema,) if read.schema else searched)
            )
            if there := next(
                (relation for relation in relations if tables.kind(session, relation)), None
            ):
                yield there
