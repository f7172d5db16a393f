"""Which privileges the roles lack, with the GRANT for each.

Every function adds an error with its fix to the preview when a privilege is missing. `may_read`
asks the source, all others the warehouse.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import psycopg

from loadsheet import redact
from loadsheet.postgres import Session
from loadsheet.preview.models import End, StepPreview
from loadsheet.source import access
from loadsheet.source.table import SourceTable
from loadsheet.spec.models import Pipeline, Transform
from loadsheet.sql.grants import grant, grant_membership, grant_schema, grant_select
from loadsheet.sql.text import Relation, ident, idents
from loadsheet.warehouse import search_path, tables
from loadsheet.warehouse.externals import relations_of_others

_log = logging.getLogger(__name__)

# A table is locked while it is read (LOCK TABLE), which needs SELECT on the whole table. A view is
# not locked, so SELECT on the columns is enough.
_MAY_READ = """
SELECT current_user::text, has_schema_privilege(%(schema)s, 'USAGE'),
       has_table_privilege(%(oid)s::oid, 'SELECT') OR (NOT %(is_table)s AND NOT EXISTS (
           SELECT FROM unnest(%(columns)s::text[]) name
           WHERE NOT has_column_privilege(%(oid)s::oid, name, 'SELECT')))
"""
# By the catalog: to_regclass() raises an error in a schema that the role may not use.
_LACKING = """
SELECT current_user::text, relkind::text,
       ARRAY(SELECT name FROM unnest(%(privileges)s::text[]) name
             WHERE NOT CASE relkind WHEN 'S' THEN has_sequence_privilege(c.oid, name)
                                    ELSE has_table_privilege(c.oid, name) END)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = %(schema)s AND relname = %(name)s
"""
_OWNER = """
SELECT current_user::text, pg_has_role(owner, 'USAGE'), pg_get_userbyid(owner)::text,
       (SELECT rolsuper FROM pg_roles WHERE pg_roles.oid = owner)
FROM (SELECT relowner AS owner FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
      WHERE nspname = %(schema)s AND relname = %(name)s
      UNION ALL
      SELECT nspowner FROM pg_namespace
      WHERE nspname = %(schema)s AND %(name)s::text IS NULL) owned
"""
_SCHEMA = """
SELECT current_user::text, has_schema_privilege(nspname, %s) FROM pg_namespace WHERE nspname = %s
"""
_DATABASE = """
SELECT current_user::text, current_database()::text,
       has_database_privilege(current_database(), %s)
"""


def may_read(preview: StepPreview, session: Session, source: SourceTable) -> bool:
    """Whether the role may read the source table."""
    relation = source.relation
    columns = [column.name for column in source.columns]
    values = {
        "schema": relation.schema,
        "oid": source.oid,
        "is_table": source.is_table,
        "columns": columns,
    }
    row = session.execute(_MAY_READ, values).fetchone()
    role, may_use, may_select = row or ("", True, True)
    grants = []
    if not may_use:
        grants.append(grant_schema("USAGE", relation.schema, role))
    if not may_select:
        grants.append(grant_select(relation, role))
    if grants:
        message = f"role {role} may not read {relation}"
        preview.add_error("privilege", message, " ".join(grants), "source")
        return False
    return source.is_table or _accepts_query(preview, session, relation, columns, "source")


def _accepts_query(
    preview: StepPreview,
    session: Session,
    relation: Relation,
    columns: Iterable[str],
    end: End,
) -> bool:
    """Whether the server accepts a query of the relation: it answers for all that is below a view,
    and for row level security."""
    try:
        session.execute(f"EXPLAIN SELECT {idents(columns)} FROM {relation.sql}")
    except psycopg.errors.InsufficientPrivilege as error:
        row = session.execute("SELECT to_regclass(%s)::oid", (relation.sql,)).fetchone()
        oid = row[0] if row else 0
        obstacles = access.hidden_rows(session, oid) + access.forbidden_below(session, oid)
        whats = [obstacle.what for obstacle in obstacles] or [redact.message(error)]
        fixes = " ".join(dict.fromkeys(obstacle.fix for obstacle in obstacles))
        text = f"{relation} cannot be read: {'; '.join(whats)}"
        preview.add_error("privilege", text, fixes, end)
        return False
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        # No matter of rights. The run may refuse the table for another reason before it asks this.
        _log.debug("%s: %s", relation, redact.message(error))
    return True


def may_read_inputs(
    preview: StepPreview,
    session: Session,
    pipeline: Pipeline,
    spec: Transform,
    inputs: Iterable[Relation],
) -> bool:
    """Whether the role may read the transform's `inputs` and the tables of others that it reads.

    Tables that do not exist are left out.
    """
    # A list, so that the plan shows all missing privileges and not only the first.
    allowed = [has_privileges(preview, session, relation, ("SELECT",)) for relation in inputs]
    for relation in relations_of_others(session, pipeline, spec):
        may_read_it = may_use_schema(preview, session, relation.schema)
        may_read_it &= has_privileges(preview, session, relation, ("SELECT",))
        if may_read_it:
            may_read_it = _accepts_query(preview, session, relation, (), "warehouse")
        allowed.append(may_read_it)
    return all(allowed)


def has_privileges(
    preview: StepPreview, session: Session, relation: Relation, privileges: Sequence[str]
) -> bool:
    """Whether the role has all these privileges on the table, view or sequence.

    True if it does not exist.
    """
    values = {"schema": relation.schema, "name": relation.name, "privileges": list(privileges)}
    role, kind, lacking = session.execute(_LACKING, values).fetchone() or ("", "", [])
    if lacking:
        names = ", ".join(lacking)
        on = f"SEQUENCE {relation.sql}" if kind == "S" else relation.sql
        fix = grant(lacking, on, role)
        preview.add_error("privilege", f"role {role} lacks {names} on {relation}", fix, "warehouse")
    return not lacking


def schema_exists(preview: StepPreview, session: Session, schema: str) -> bool:
    """Whether the schema exists. If not, adds its CREATE SCHEMA, and an error if the role may not
    create it."""
    if tables.has_schema(session, schema):
        return True
    preview.changes = "yes"
    preview.ddl.append(f"CREATE SCHEMA {ident(schema)}")
    check_database(preview, session, "CREATE", f"create schema {schema}")
    return False


def may_use_schema(preview: StepPreview, session: Session, schema: str) -> bool:
    """Whether the role may use what is in the schema. True if it does not exist."""
    return _has_schema_privilege(preview, session, schema, "USAGE", "use schema")


def may_create_in(preview: StepPreview, session: Session, schema: str) -> bool:
    """Whether the role may create tables in the schema. True if it does not exist."""
    return _has_schema_privilege(preview, session, schema, "CREATE", "create tables in schema")


def _has_schema_privilege(
    preview: StepPreview, session: Session, schema: str, privilege: str, purpose: str
) -> bool:
    # A schema that does not exist will belong to the role that creates it.
    role, has = session.execute(_SCHEMA, (privilege, schema)).fetchone() or ("", True)
    if not has:
        fix = grant_schema(privilege, schema, role)
        preview.add_error("privilege", f"role {role} may not {purpose} {schema}", fix, "warehouse")
    return bool(has)


def warn_of_creators(preview: StepPreview, session: Session, pipeline: Pipeline) -> None:
    """Add a warning for each other role that may create where the transforms' names are found."""
    for creator in search_path.other_creators(session, pipeline):
        who = "every role" if creator.role == "PUBLIC" else f"role {creator.role}"
        preview.add_remark(
            "warning",
            "search-path",
            f"{who} may create in schema {creator.schema}, where transforms find functions and"
            " operators: what it creates there may run with the rights of this connection's role",
            creator.revoke,
            "warehouse",
        )


def check_database(preview: StepPreview, session: Session, privilege: str, purpose: str) -> None:
    """Add an error if the role lacks a privilege on the database."""
    row = session.execute(_DATABASE, (privilege,)).fetchone()
    role, database, has = row or ("", "", True)
    if not has:
        fix = grant(privilege, f"DATABASE {ident(database)}", role)
        preview.add_error(
            "privilege", f"role {role} may not {purpose} in the warehouse", fix, "warehouse"
        )


def check_owner(preview: StepPreview, session: Session, target: Relation, purpose: str) -> None:
    """Add an error if another role owns the table or view: only its owner may replace or alter
    it."""
    named = {"schema": target.schema, "name": target.name}
    _check_owner(preview, session, named, f"TABLE {target.sql}", str(target), purpose)


def check_schema_owner(preview: StepPreview, session: Session, schema: str, purpose: str) -> None:
    """Add an error if another role owns the schema."""
    named = {"schema": schema, "name": None}
    _check_owner(preview, session, named, f"SCHEMA {ident(schema)}", f"schema {schema}", purpose)


def _check_owner(
    preview: StepPreview,
    session: Session,
    named: Mapping[str, str | None],
    altered: str,
    title: str,
    purpose: str,
) -> None:
    row = session.execute(_OWNER, named).fetchone()
    role, is_owner, owner, is_superuser = row or ("", True, "", False)
    if is_owner:
        return
    # A member of the owner's role can do the work and leaves the ownership unchanged. But no role
    # should become a superuser for that.
    fix = grant_membership(owner, role)
    if is_superuser:
        fix = f"ALTER {altered} OWNER TO {ident(role)};"
    message = f"{title} belongs to {owner}, and role {role} may not {purpose} it"
    preview.add_error("privilege", message, fix, "warehouse")
