"""View transforms that hang on a mart: dropped before its columns change, and made again after it,
in the same transaction.

A view that was not made by Loadsheet is never dropped. Neither is one of ours that carries
something which could not be made again exactly: then the mart is changed in place, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.spec.models import Pipeline
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import grants, ledger
from loadsheet.warehouse.grants import Comment, Grant

NewSql = Callable[[Relation], sql.Composed | None]
"""The SELECT that a view transform of this pipeline has now; None for any other view."""

# What hangs on a relation or on its row type: views, by their rule, and everything else. A view's
# own rule and row type are part of it.
_HANGS = """
SELECT DISTINCT v.oid, nspname, v.relname, v.relkind::text, EXISTS (
        SELECT FROM loadsheet.transform_run WHERE target = nspname || '.' || v.relname),
    regexp_replace(pg_describe_object(d.classid, d.objid, 0), '^rule _RETURN on ', '')
FROM pg_class t
JOIN pg_type row_type ON row_type.oid = t.reltype
JOIN pg_depend d ON (refclassid, refobjid) IN (
    ('pg_class'::regclass, t.oid), ('pg_type'::regclass, row_type.oid),
    ('pg_type'::regclass, row_type.typarray))
LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    AND rulename = '_RETURN'
LEFT JOIN pg_class v ON v.oid = r.ev_class
LEFT JOIN pg_namespace n ON n.oid = v.relnamespace
WHERE t.oid = to_regclass(%s) AND v.oid IS DISTINCT FROM t.oid
  AND NOT (d.classid = 'pg_type'::regclass AND d.deptype = 'i')
ORDER BY 6
"""
# What belongs to a view and is not carried over.
_HAS_MORE = """
SELECT EXISTS (SELECT FROM pg_seclabel WHERE classoid = 'pg_class'::regclass AND objoid = oid)
    OR EXISTS (SELECT FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND objid = oid AND deptype = 'e')
FROM (SELECT to_regclass(%s)::oid AS oid) view
"""
_PROPERTIES = """
SELECT pg_get_userbyid(relowner), array_to_string(reloptions, ', ')
FROM pg_class WHERE oid = to_regclass(%s)
"""


@dataclass(frozen=True)
class Hanger:
    """Something that hangs on a relation, described by the server: `view report.sales`."""

    text: str
    view: Relation | None = None
    """The view or materialized view, where it is one."""
    is_materialized: bool = False


@dataclass
class Hanging:
    """What hangs on a relation."""

    own: list[Relation] = field(default_factory=list)
    """View transforms that can be dropped and made again, each after those it reads."""
    own_texts: set[str] = field(default_factory=set)
    """The same, as the server describes them; only those that read the relation itself."""
    above: dict[str, list[Hanger]] = field(default_factory=dict)
    """Other view transforms that read the relation, and what hangs on them and keeps them."""


@dataclass(frozen=True)
class SavedView:
    """A view that was dropped, with everything that belonged to it."""

    relation: Relation
    definition: str
    owner: str
    options: str | None
    grants: tuple[Grant, ...]
    comments: tuple[Comment, ...]


def view_transforms(pipeline: Pipeline) -> frozenset[Relation]:
    """The views that the pipeline's transforms make."""
    schema = pipeline.warehouse.mart_schema
    views = [spec for spec in pipeline.transforms if spec.materialized == "view"]
    return frozenset(Relation(schema, spec.name) for spec in views)


@contextmanager
def qualified_names(session: Session) -> Iterator[None]:
    """Within, the server writes every name with its schema, as it does for `loadsheet plan`."""
    row = session.execute("SELECT current_setting('search_path')").fetchone()
    assert row
    session.execute("SELECT set_config('search_path', 'pg_catalog', true)")
    yield
    session.execute("SELECT set_config('search_path', %s, true)", row)


def hanging_on(session: Session, relation: Relation) -> Hanging:
    """The view transforms that hang on the relation, directly or on one another."""
    found = Hanging()
    with qualified_names(session):
        for hanger, is_ours in _hangers(session, relation):
            if not is_ours or hanger.view is None:
                continue
            views, keepers = _with_all_above(session, hanger.view)
            if keepers:
                found.above[hanger.text] = keepers
                continue
            found.own_texts.add(hanger.text)
            for view in views:
                # One that reads two others comes after both.
                if view in found.own:
                    found.own.remove(view)
                found.own.append(view)
    return found


def views_above(session: Session, view: Relation) -> list[Relation]:
    """The view transforms that read the existing view transform, each after those it reads.

    Raises Refused, with the names of what is in the way, where the view or one of them cannot be
    dropped and made again.
    """
    with qualified_names(session):
        views, keepers = _with_all_above(session, view)
    if keepers:
        use = in_use([hanger.text for hanger in keepers])
        raise Refused(
            f"{view}: its columns change, so the view must be made again, but {use}, so nothing was"
            f" written; {remedy(keepers)}"
        )
    return views[1:]


def _hangers(session: Session, relation: Relation) -> list[tuple[Hanger, bool]]:
    """What hangs on the relation itself, and whether it is a view transform."""
    hangers = []
    for oid, schema, name, kind, is_made, text in session.execute(_HANGS, (relation.sql,)):
        view = None if oid is None else Relation(schema, name)
        hangers.append((Hanger(text, view, kind == "m"), is_made and kind == "v"))
    return hangers


def _with_all_above(session: Session, view: Relation) -> tuple[list[Relation], list[Hanger]]:
    """The view transform with all that read it, each after those it reads; and what hangs on them
    that is no view transform or cannot be carried over."""
    views = [view]
    keepers = []
    row = session.execute(_HAS_MORE, (view.sql,)).fetchone()
    if row == (True,):
        keepers.append(Hanger(f"a security label or an extension on {view}"))
    for hanger, is_ours in _hangers(session, view):
        if not is_ours or hanger.view is None:
            keepers.append(hanger)
            continue
        above, their_keepers = _with_all_above(session, hanger.view)
        keepers += their_keepers
        for upper in above:
            if upper in views:
                views.remove(upper)
            views.append(upper)
    return views, keepers


def in_use(texts: list[str]) -> str:
    """What uses a column or a view, for a message: `view report.sales uses it`."""
    return f"{', '.join(texts)} {'uses' if len(texts) == 1 else 'use'} it"


def remedy(hangers: list[Hanger]) -> str:
    """The advice for what is in the way, with the SQL that drops the views among it."""
    statements = []
    for word, is_materialized in (("VIEW", False), ("MATERIALIZED VIEW", True)):
        names = []
        for hanger in hangers:
            if hanger.view and hanger.is_materialized == is_materialized:
                names.append(hanger.view.sql)
        if names:
            statements.append(f"DROP {word} {', '.join(names)};")
    if not statements:
        return "drop what uses it first, and create it again afterwards"
    run = " ".join(statements)
    return f"run {run} then run the pipeline, and create again what you dropped"


def drop(session: Session, views: list[Relation]) -> list[SavedView]:
    """Drop the view transforms, of which each comes after those it reads, and return them.

    Call it in a transaction that holds the lock of the target they hang on.
    """
    for view in sorted(views, key=str):
        ledger.lock_target(session, view)
    saved = [save(session, view) for view in views]
    for view in reversed(views):
        session.execute(f"DROP VIEW {view.sql}")
    return saved


def save(session: Session, view: Relation) -> SavedView:
    """The existing view with everything that belongs to it."""
    with qualified_names(session):
        row = session.execute("SELECT pg_get_viewdef(to_regclass(%s))", (view.sql,)).fetchone()
    assert row
    properties = session.execute(_PROPERTIES, (view.sql,)).fetchone()
    assert properties
    owner, options = properties
    return SavedView(
        relation=view,
        definition=row[0],
        owner=owner,
        options=options,
        grants=grants.grants_of(session, view),
        comments=grants.comments_of(session, view),
    )


def remake(session: Session, target: Relation, views: list[SavedView], new_sql: NewSql) -> None:
    """Make the dropped views again, as they were.

    One that does not fit the changed `target` is made from its SQL of now (`new_sql`). Raises
    Refused, with the view's name, where that does not fit either.
    """
    for view in views:
        try:
            _remake(session, view, new_sql(view.relation))
        except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
            raise Refused(
                f"{target}: view {view.relation} does not fit its new columns:"
                f" {error.diag.message_primary} (SQLSTATE {error.sqlstate}); nothing was written."
                f" Change the view's SQL, or run DROP VIEW {view.relation.sql}; its own step"
                " creates it again"
            ) from error
        restore(session, view)


def _remake(session: Session, view: SavedView, new_sql: sql.Composed | None) -> None:
    create = f"CREATE VIEW {view.relation.sql} AS\n"
    try:
        with session.transaction(), qualified_names(session):
            session.execute(create + view.definition)
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        if new_sql is None:
            raise
        # `binary`: the server takes only one statement.
        session.execute(sql.SQL(create) + new_sql, binary=True)


def restore(session: Session, view: SavedView) -> None:
    """Give the view that was made again its options, owner, grants and comments.

    Those of a column that it no longer has are gone. Raises Refused where the owner is a role that
    this one cannot give it back to.
    """
    name = view.relation.sql
    now = session.execute(_PROPERTIES, (name,)).fetchone()
    assert now
    owner, options = now
    if view.options and view.options != options:
        session.execute(f"ALTER VIEW {name} SET ({view.options})")
    if view.owner != owner:
        _give_back(session, view)
    grants.restore(session, "VIEW", view.relation, view.grants, view.comments)


def _give_back(session: Session, view: SavedView) -> None:
    owner = ident(view.owner)
    try:
        with session.transaction():
            session.execute(f"ALTER VIEW {view.relation.sql} OWNER TO {owner}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise Refused(
            f"view {view.relation} must be made again and cannot be given back to its owner:"
            f" {error.diag.message_primary} (SQLSTATE {error.sqlstate}); nothing was written."
            f" Run GRANT {owner} TO {ident(session.info.user)};"
            f" GRANT CREATE ON SCHEMA {ident(view.relation.schema)} TO {owner};"
        ) from error
