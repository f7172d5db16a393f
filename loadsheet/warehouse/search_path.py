"""Where the names in the SQL of transforms are found, and who else may put names there.

A role that may create functions and operators in a schema of the search path decides what a
transform calls: a function that takes the types of the arguments exactly is preferred to one of
PostgreSQL's that would need a cast, in whatever order the schemas come. So the path has no schema
but those that the pipeline file names. `public` is one of them only where the file names it, or
where it holds an extension: without the operators of its types, the same SQL would mean another
comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.grants import revoke_schema
from loadsheet.sql.text import idents

_PUBLIC = "public"
_SET = """
SELECT set_config('search_path', %(named)s || CASE WHEN EXISTS (
    SELECT FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE nspname = 'public')
    AND NOT %(has_public)s THEN ', public' ELSE '' END, true)
"""
# A superuser, the database's owner, and the schema's may do what they like in any case. The roles
# that the current one is a member of are its own.
_CREATORS = """
SELECT nspname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee)::text END
FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) acl
WHERE nspname = ANY (%(schemas)s)
  AND privilege_type = 'CREATE' AND grantee <> nspowner
  AND NOT EXISTS (SELECT FROM pg_roles r JOIN pg_roles me ON me.rolname = current_user
                  WHERE r.oid = grantee AND (r.rolsuper OR r.oid = me.oid
                      OR NOT me.rolsuper AND pg_has_role(me.oid, r.oid, 'MEMBER')))
  AND grantee NOT IN (SELECT datdba FROM pg_database WHERE datname = current_database())
ORDER BY 1, 2
"""


class Creator(NamedTuple):
    """A role that may create in a schema of the search path; PUBLIC is all of them."""

    schema: str
    role: str

    @property
    def revoke(self) -> str:
        """The statement that ends it."""
        return revoke_schema("CREATE", self.schema, self.role)


def named_schemas(pipeline: Pipeline) -> list[str]:
    """The schemas in which the pipeline's SQL finds names without a schema, after PostgreSQL's
    own."""
    schemas = [pipeline.warehouse.schema, pipeline.warehouse.mart_schema]
    if any(entry.partition(".")[0] == _PUBLIC for entry in pipeline.external):
        schemas.append(_PUBLIC)
    return list(dict.fromkeys(schemas))


def use(session: Session, pipeline: Pipeline) -> None:
    """Let the SQL of this pipeline find its names, until the transaction ends."""
    schemas = named_schemas(pipeline)
    named = idents(["pg_catalog", *schemas])
    session.execute(_SET, {"named": named, "has_public": _PUBLIC in schemas})


def current(session: Session, pipeline: Pipeline) -> Sequence[str]:
    """The schemas that `use` makes the search path, in order."""
    with session.transaction():
        row = session.execute("SELECT current_setting('search_path')").fetchone()
        use(session, pipeline)
        found = session.execute("SELECT current_schemas(false)::text[]").fetchone()
        session.execute("SELECT set_config('search_path', %s, true)", row)
    assert found
    return list(found[0])


def other_creators(session: Session, pipeline: Pipeline) -> list[Creator]:
    """The roles other than ours that may create in the schemas of the search path."""
    schemas = [schema for schema in current(session, pipeline) if schema != "pg_catalog"]
    return [Creator(*row) for row in session.execute(_CREATORS, {"schemas": schemas})]
