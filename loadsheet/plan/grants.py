"""The roles of a pipeline and exactly the privileges that its steps need, as SQL for psql.

extractor  reads the tables, on the source
loader     loads and builds, on the warehouse: one connection does both
reader     reads the marts
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from loadsheet.redact import on_one_line
from loadsheet.spec.models import Pattern, Pipeline, Table
from loadsheet.sql.drawing import DRAWING
from loadsheet.sql.grants import (
    LEDGER_PRIVILEGES,
    LEDGER_PRIVILEGES_OF_TRANSFORMS,
    LEDGER_PRIVILEGES_OF_VERIFY,
    grant,
    grant_membership,
    grant_schema,
    grant_select,
)
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import tables_read
from loadsheet.sql.text import Relation, ident, literal
from loadsheet.wording import listed

_CURRENT_DATABASE = ':"DBNAME"'
# Transforms run on this search path, after staging and marts.
_SEARCHED_LAST = "public"


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Names. A database is None where it is that of the psql session."""

    extractor: str
    loader: str
    reader: str
    source_database: str | None = None
    warehouse_database: str | None = None


def source_grants(pipeline: Pipeline, roles: Roles) -> list[str]:
    """The statements and comments for the source."""
    schema = pipeline.source.schema
    role = roles.extractor
    lines = [
        _comment(f"The source of {pipeline.name} (connection {pipeline.source.conn_id}): reads."),
        *_administrator("the tables", _sees_transactions(pipeline)),
        *_role(role),
        _connect(roles.source_database, ("CONNECT",), role),
        grant_schema("USAGE", schema, role),
    ]
    lines += [grant_select(Relation(schema, table.name), role) for table in pipeline.tables]
    for pattern in pipeline.patterns:
        matched = f"The tables that match {pattern.name} now: run this again for later ones."
        lines.append(_comment(matched))
        lines.append(_grant_matched(pattern, schema, role))
    lines.append(
        _comment(
            "Row level security, or a view with security_invoker, needs more:"
            f" `loadsheet doctor {pipeline.name}` prints it."
        )
    )
    counted_on = [entry for entry in pipeline.entries if _needs_sequences(entry)]
    if counted_on:
        lines.append("-- The sequences of incremental tables: one that is set back must be seen.")
        lines.append(_grant_sequences(counted_on, schema, role))
    if _sees_transactions(pipeline):
        lines.append("-- To see open transactions, which may still write below the watermark.")
        lines.append(grant_membership("pg_read_all_stats", role))
    return lines


def warehouse_grants(pipeline: Pipeline, roles: Roles) -> list[str]:
    """The statements and comments for the warehouse: the loader, and where there are marts also
    their reader."""
    role = roles.loader
    lines = [
        _comment(f"The warehouse of {pipeline.name} (connection {pipeline.warehouse.conn_id})."),
        *_administrator("the tables of others below", False),
        "-- Loads and transforms: the schemas are created by this role and belong to it.",
        *_role(role),
        _connect(roles.warehouse_database, ("CONNECT", "CREATE", "TEMPORARY"), role),
        _comment(
            f"If {_schemas(pipeline)} exist and belong to another role, that is not enough:"
            f" `loadsheet doctor {pipeline.name}` prints the GRANTs."
        ),
        "-- The types of an extension land as themselves only if the loader may use its schema:",
        _comment(f"GRANT USAGE ON SCHEMA ... TO {ident(role)};"),
        "-- The ledger, where the loader of other pipelines has made it: run this again after its",
        "-- first run. A new version of Loadsheet must then run as that loader first.",
        _grant_ledger(role),
        *_external_grants(pipeline, role),
    ]
    for transform in pipeline.transforms:
        if transform.materialized == "script":
            name = transform.name
            lines.append(_comment(f"The script {name} may need more: it may write anything."))
    if pipeline.transforms:
        lines += _reader_grants(pipeline, roles)
    return lines


def _schemas(pipeline: Pipeline) -> str:
    """The names of the schemas that the loader creates."""
    names = ["loadsheet", pipeline.warehouse.schema]
    if pipeline.transforms:
        names.append(pipeline.warehouse.mart_schema)
    return f"the schemas {listed(list(dict.fromkeys(names)))}"


def _reader_grants(pipeline: Pipeline, roles: Roles) -> Iterator[str]:
    schema = ident(pipeline.warehouse.mart_schema)
    loader = ident(roles.loader)
    reader = ident(roles.reader)
    yield "-- Reads the marts, those to come as well."
    yield from _role(roles.reader)
    yield _act_for(roles.loader)
    yield _connect(roles.warehouse_database, ("CONNECT",), roles.reader)
    yield f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {loader};"
    yield grant_schema("USAGE", pipeline.warehouse.mart_schema, roles.reader)
    yield grant("SELECT", f"ALL TABLES IN SCHEMA {schema}", roles.reader)
    yield (
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {loader} IN SCHEMA {schema}"
        f" GRANT SELECT ON TABLES TO {reader};"
    )


def _role(role: str) -> Iterator[str]:
    """Creates the role where it is missing. It cannot log in by password before it has one."""
    yield _block(
        "BEGIN"
        f" IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role)})"
        f" THEN CREATE ROLE {ident(role)} LOGIN; END IF; END"
    )
    yield _comment(f"Its password: ALTER ROLE {ident(role)} PASSWORD '...';")


def _administrator(owned: str, grants_statistics: bool) -> Iterator[str]:
    """What the role that runs the statements needs to be, as comments."""
    yield "-- Run it as a superuser; or as a role with CREATEROLE that owns the database and"
    yield f"-- {owned}, and has ADMIN OPTION on roles that exist already."
    if grants_statistics:
        yield "-- On PostgreSQL 16 and newer, a superuser must give that role one thing first:"
        yield "-- GRANT pg_read_all_stats TO ... WITH ADMIN OPTION;"


def _act_for(role: str) -> str:
    """Makes an administrator who is not a superuser a member of `role`: only its members may make
    schemas for it and set its default privileges."""
    statement = f"GRANT {ident(role)} TO CURRENT_USER"
    return _block(
        "BEGIN"
        " IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
        f" AND current_user <> {literal(role)} THEN"
        " IF pg_catalog.current_setting('server_version_num')::int < 160000"
        f" THEN EXECUTE {literal(statement)};"
        f" ELSE EXECUTE {literal(f'{statement} WITH INHERIT TRUE, SET TRUE')};"
        " END IF; END IF; END"
    )


def _block(body: str) -> str:
    """A DO block, in quotes that do not end within it: names may hold anything."""
    tag = "$grants$"
    while tag in body:
        tag = tag[:-1] + "s$"
    return f"DO {tag} {body} {tag};"


def _comment(text: str) -> str:
    # The name of a table may hold a line break, behind which psql would read statements.
    return f"-- {on_one_line(text)}"


def _connect(database: str | None, privileges: tuple[str, ...], role: str) -> str:
    name = _CURRENT_DATABASE if database is None else ident(database)
    return grant(privileges, f"DATABASE {name}", role)


def _sees_transactions(pipeline: Pipeline) -> bool:
    for table in pipeline.entries:
        spec = table.incremental
        if spec and not spec.makes_up_for_late_rows:
            return True
    return False


def _needs_sequences(table: Table) -> bool:
    spec = table.incremental
    return spec is not None and spec.by == "watermark" and spec.lookback is None


def _grant_ledger(role: str) -> str:
    """A block that grants what a run needs on a ledger that belongs to another role."""
    statements = [grant_schema("USAGE", "loadsheet", role)]
    needed = (
        *LEDGER_PRIVILEGES.items(),
        *LEDGER_PRIVILEGES_OF_TRANSFORMS.items(),
        *LEDGER_PRIVILEGES_OF_VERIFY.items(),
    )
    for name, privileges in needed:
        relation = Relation("loadsheet", name).sql
        on = f"SEQUENCE {relation}" if name == "load_no" else relation
        exists = f"pg_catalog.to_regclass({literal(relation)}) IS NOT NULL"
        statements.append(f"IF {exists} THEN {grant(privileges, on, role)} END IF;")
    return _block(
        "BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'loadsheet'"
        f" AND NOT pg_catalog.pg_has_role({literal(role)}, nspowner, 'USAGE'))"
        f" THEN {' '.join(statements)} END IF; END"
    )


def _grant_sequences(entries: Iterable[Table], schema: str, role: str) -> str:
    """A block that grants SELECT on the sequences that the extractor may ask, and USAGE on their
    schemas: those from which the columns of these tables, views and patterns draw, of all that is
    below them, and of the partitioned tables above."""
    names = [f"relname LIKE {literal(_like(entry.name))}" for entry in entries]
    condition = "\n                OR ".join(names)
    body = f"""
DECLARE
    counted record;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', true);
    FOR counted IN
        WITH RECURSIVE part (oid) AS (
            SELECT oid FROM pg_class
            WHERE relnamespace = {literal(ident(schema))}::regnamespace
            AND ({condition})
            UNION
            SELECT next.oid FROM part, LATERAL (
                SELECT inhrelid FROM pg_inherits WHERE inhparent = part.oid
                UNION ALL
                SELECT inhparent FROM pg_inherits JOIN pg_class c ON c.oid = inhparent
                WHERE inhrelid = part.oid AND relkind = 'p'
                UNION ALL
                SELECT below[1]::oid FROM pg_rewrite,
                    regexp_matches(ev_action::text, ':relid (\\d+)', 'g') below
                WHERE ev_class = part.oid AND ev_type = '1'
            ) next (oid)
        ), place (relation, attnum) AS (
            SELECT attrelid, attnum FROM pg_attribute JOIN part ON part.oid = attrelid
            WHERE attnum > 0
        ), drawing (relation, attnum, sequence, owns) AS ({DRAWING})
        SELECT DISTINCT c.oid::regclass AS name, relnamespace::regnamespace AS schema
        FROM drawing JOIN place USING (relation, attnum)
        JOIN pg_class c ON c.oid = sequence AND relkind = 'S'
    LOOP
        IF counted.schema <> {literal(ident(schema))}::regnamespace THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', counted.schema, {literal(role)});
        END IF;
        EXECUTE format('GRANT SELECT ON SEQUENCE %s TO %I', counted.name, {literal(role)});
    END LOOP;
END"""
    return _block(body)


def _grant_matched(pattern: Pattern, schema: str, role: str) -> str:
    """A block that grants SELECT on each table that the pattern matches."""
    conditions = [
        f"relnamespace = {literal(ident(schema))}::pg_catalog.regnamespace",
        # Not the parts of other tables, and nothing of an extension.
        "relkind IN ('r', 'p')",
        "NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid)",
        "NOT EXISTS (SELECT FROM pg_catalog.pg_depend WHERE objid = c.oid AND deptype = 'e'"
        " AND classid = 'pg_catalog.pg_class'::pg_catalog.regclass)",
        f"relname LIKE {literal(_like(pattern.name))}",
    ]
    for excluded in pattern.exclude:
        conditions.append(f"relname NOT LIKE {literal(_like(excluded))}")
    condition = "\n            AND ".join(conditions)
    body = f"""
DECLARE
    matched name;
BEGIN
    FOR matched IN
        SELECT relname FROM pg_catalog.pg_class c
        WHERE {condition}
    LOOP
        EXECUTE pg_catalog.format(
            'GRANT SELECT ON %I.%I TO %I', {literal(schema)}, matched, {literal(role)});
    END LOOP;
END"""
    return _block(body)


def _like(pattern: str) -> str:
    """The pattern as LIKE reads it."""
    found = ""
    rest = pattern
    while rest:
        if rest[:3] in ("[*]", "[?]"):
            found += rest[1]
            rest = rest[3:]
            continue
        wildcard = {"*": "%", "?": "_"}.get(rest[0])
        if wildcard:
            found += wildcard
        else:
            found += f"\\{rest[0]}" if rest[0] in "%_\\" else rest[0]
        rest = rest[1:]
    return found


def _external_grants(pipeline: Pipeline, role: str) -> Iterator[str]:
    """What transforms read of tables that the pipeline does not make."""
    if not pipeline.external:
        return
    yield "-- The tables of others that transforms read (external)."
    granted: dict[str, None] = {}
    for entry in pipeline.external:
        schema, _, name = entry.partition(".")
        granted[grant_schema("USAGE", schema, role)] = None
        if name != "*":
            granted[grant_select(Relation(schema, name), role)] = None
            continue
        names = _names_read(pipeline, schema)
        for read in sorted(names):
            granted[grant_select(Relation(schema, read), role)] = None
        if not names:
            granted[grant("SELECT", f"ALL TABLES IN SCHEMA {ident(schema)}", role)] = None
    yield from granted


def _names_read(pipeline: Pipeline, schema: str) -> set[str]:
    """The tables of the schema that the transforms' SQL names; none where it may read others."""
    names: set[str] = set()
    for transform in pipeline.transforms:
        for read in tables_read(parse(transform.sql)):
            if not read.certain:
                return set()
            if read.schema == schema:
                names.add(read.name)
            elif read.schema is None and schema == _SEARCHED_LAST:
                return set()
    return names
