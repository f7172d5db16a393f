"""GRANT statements, as text."""

from __future__ import annotations

from collections.abc import Sequence

from loadsheet.sql.text import Relation, ident

LEDGER_PRIVILEGES = {
    "scope": ("SELECT", "INSERT", "UPDATE"),
    "load": ("SELECT", "INSERT"),
    "load_no": ("USAGE",),
    "failure": ("SELECT", "INSERT", "UPDATE"),
}
"""What a run needs on the ledger's tables and its sequence, where they are another role's."""
LEDGER_PRIVILEGES_OF_TRANSFORMS = {"transform_run": ("SELECT", "INSERT"), "load_no": ("SELECT",)}
LEDGER_PRIVILEGES_OF_VERIFY = {"verified": ("SELECT", "INSERT", "UPDATE", "DELETE")}
"""What recording a verdict needs; `loadsheet verify` works without."""


def grant(privileges: str | Sequence[str], on: str, role: str) -> str:
    """The statement that gives `role` the privileges on an object: `SCHEMA "x"`, `"x"."y"`."""
    if not isinstance(privileges, str):
        privileges = ", ".join(privileges)
    return f"GRANT {privileges} ON {on} TO {ident(role)};"


def grant_schema(privilege: str, schema: str, role: str) -> str:
    """The statement that gives `role` a privilege on a schema."""
    return grant(privilege, f"SCHEMA {ident(schema)}", role)


def revoke_schema(privilege: str, schema: str, role: str) -> str:
    """The statement that takes a privilege on a schema from `role`, or from PUBLIC."""
    who = role if role == "PUBLIC" else ident(role)
    return f"REVOKE {privilege} ON SCHEMA {ident(schema)} FROM {who};"


def grant_select(relation: Relation, role: str) -> str:
    """The statement that lets `role` read a table."""
    return grant("SELECT", relation.sql, role)


def grant_membership(granted: str, role: str) -> str:
    """The statement that makes `role` a member of another role."""
    return f"GRANT {ident(granted)} TO {ident(role)};"
