"""What the role lacks of the rights that a run needs, each with the GRANT that gives it."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.plan.preview import StepPreview
from loadsheet.postgres import Session
from loadsheet.source.catalog import SourceTable
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import tables

# LOCK TABLE, by which a table is held still while it is read, wants the right to all of it; a view has no such lock.
_READS = """
SELECT current_user::text, has_schema_privilege(%(schema)s, 'USAGE'),
       has_table_privilege(%(oid)s::oid, 'SELECT') OR (NOT %(is_table)s AND NOT EXISTS (
           SELECT FROM unnest(%(columns)s::text[]) name WHERE NOT has_column_privilege(%(oid)s::oid, name, 'SELECT')))
"""
_OWNER = """
SELECT current_user::text, pg_has_role(relowner, 'USAGE'), pg_get_userbyid(relowner)::text,
       ARRAY(SELECT right_name FROM unnest(%(rights)s::text[]) right_name
             WHERE NOT has_table_privilege(pg_class.oid, right_name))
FROM pg_class WHERE oid = to_regclass(%(table)s)
"""
_SCHEMA = (
    "SELECT current_user::text, has_schema_privilege(%(schema)s, 'USAGE'), has_schema_privilege(%(schema)s, 'CREATE')"
)
_DATABASE = "SELECT current_user::text, current_database()::text, has_database_privilege(current_database(), %(right)s)"


def may_read(found: StepPreview, session: Session, source: SourceTable) -> bool:
    """Whether the role may read the table; an error with its GRANTs where it may not."""
    relation = source.relation
    values = {
        "schema": relation.schema, "oid": source.oid, "is_table": source.is_table,
        "columns": [column.name for column in source.columns],
    }  # fmt: skip
    role, uses, selects = session.execute(_READS, values).fetchone() or ("", True, True)
    grants = [] if uses else [f"GRANT USAGE ON SCHEMA {ident(relation.schema)} TO {ident(role)};"]
    grants += [] if selects else [f"GRANT SELECT ON {relation.sql} TO {ident(role)};"]
    if grants:
        found.error("privilege", f"role {role} may not read {relation}", " ".join(grants))
    return not grants


def has_schema(found: StepPreview, session: Session, schema: str) -> bool:
    """Whether the schema exists. Adds the CREATE SCHEMA where it does not, and what is lacking to go on."""
    row = session.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
    if row is None:
        found.changes = "yes"
        found.ddl.append(f"CREATE SCHEMA {ident(schema)}")
        in_database(found, session, "CREATE", f"create schema {schema}")
        return False
    role, uses, creates = session.execute(_SCHEMA, {"schema": schema}).fetchone() or ("", True, True)
    lacking = [name for name, has in (("USAGE", uses), ("CREATE", creates)) if not has]
    if lacking:
        fix = f"GRANT {', '.join(lacking)} ON SCHEMA {ident(schema)} TO {ident(role)};"
        found.error("privilege", f"role {role} may not create tables in schema {schema}", fix)
    return True


def uses_schema(found: StepPreview, session: Session, schema: str) -> bool:
    """Whether the role may use what is in the schema; an error with its GRANT where it may not."""
    role, uses, _ = session.execute(_SCHEMA, {"schema": schema}).fetchone() or ("", True, True)
    if not uses:
        fix = f"GRANT USAGE ON SCHEMA {ident(schema)} TO {ident(role)};"
        found.error("privilege", f"role {role} may not use schema {schema}", fix)
    return bool(uses)


def in_database(found: StepPreview, session: Session, right: str, purpose: str) -> None:
    """Adds an error when the role lacks a right on the database."""
    role, database, has = session.execute(_DATABASE, {"right": right}).fetchone() or ("", "", True)
    if not has:
        fix = f"GRANT {right} ON DATABASE {ident(database)} TO {ident(role)};"
        found.error("privilege", f"role {role} may not {purpose} in the warehouse", fix)


def owns(found: StepPreview, session: Session, target: Relation, purpose: str) -> None:
    """Adds an error when somebody else owns the target: only its owner may replace or alter a table."""
    role, is_owner, owner, _ = session.execute(
        _OWNER, {"table": target.sql, "rights": []}
    ).fetchone() or ("", True, "", [])  # fmt: skip
    if not is_owner:
        fix = f"GRANT {ident(owner)} TO {ident(role)};"
        found.error("privilege", f"{target} belongs to {owner}, and role {role} may not {purpose} it", fix)


def has_rights(found: StepPreview, session: Session, target: Relation, rights: Sequence[str]) -> bool:
    """Whether the role has all these rights on the table; an error with its GRANT where it has not."""
    if tables.kind(session, target) is None:
        return True
    role, _, _, lacking = session.execute(
        _OWNER, {"table": target.sql, "rights": list(rights)}
    ).fetchone() or ("", True, "", [])  # fmt: skip
    if lacking:
        fix = f"GRANT {', '.join(lacking)} ON {target.sql} TO {ident(role)};"
        found.error("privilege", f"role {role} lacks {', '.join(lacking)} on {target}", fix)
    return not lacking
