"""Everything that can hang on a table of the warehouse, and whether a swap may drop it.

A swap makes a new table and drops the old one, so it loses whatever it does not carry over. One
query reads every catalog that can hold something about a relation. What `swap` knows how to carry
exactly is marked; anything else, known or not, keeps the table from being swapped, and its rows are
changed in place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadsheet.errors import Refused
from loadsheet.postgres import Session
from loadsheet.sql.merging import LOAD_ID
from loadsheet.sql.text import Relation, ident
from loadsheet.warehouse import tables

# `kin` are the objects that are the table itself: its row type, its indexes, its constraints.
# Each part lists one kind: whether it is an object that can be dropped, the column it belongs to,
# what it is (for messages), its definition, whether a swap carries it. What every new table has
# is not listed.
_INVENTORY = """
WITH target AS (
    SELECT c.*, n.nspname,
        pg_get_userbyid(relowner) AS owner,
        coalesce((SELECT spcname FROM pg_tablespace s WHERE s.oid = reltablespace), '') AS space
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE c.oid = to_regclass(%(target)s)
), session AS (
    SELECT current_setting('default_table_access_method') AS method, coalesce(nullif(
        current_setting('default_tablespace'),
        (SELECT spcname FROM pg_database d JOIN pg_tablespace s ON s.oid = dattablespace
         WHERE datname = current_database())), '') AS space,
        CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END
            AS may_become
), own_index AS (
    SELECT i.*, x.relname, x.reloptions, pg_get_indexdef(i.indexrelid) AS definition,
        concat_ws(' ', indisvalid, indisready, indislive, indisclustered, indisreplident,
            s.spcname, (SELECT string_agg(a.attnum || '=' || a.attstattarget, ' ')
                        FROM pg_attribute a WHERE attrelid = indexrelid AND attstattarget >= 0)
        ) AS state,
        indisvalid AND indisready AND indislive AND indimmediate
        AND NOT indisclustered AND NOT indisreplident AND NOT indisexclusion
        AND indexprs IS NULL AND indpred IS NULL
        AND coalesce(s.spcname, '') = (SELECT space FROM session)
        AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = indexrelid AND attstattarget >= 0)
        AS is_plain
    FROM pg_index i JOIN pg_class x ON x.oid = indexrelid
    LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace
    WHERE indrelid = (SELECT oid FROM target)
), own_constraint AS (
    SELECT c.*, pg_get_constraintdef(c.oid) AS definition FROM pg_constraint c
    WHERE conrelid = (SELECT oid FROM target) AND contype <> 'n'
), own_column AS (
    SELECT a.*, typstorage, typcollation FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid
    WHERE attrelid = (SELECT oid FROM target) AND attnum > 0 AND NOT attisdropped
), kin (classid, objid) AS (
    SELECT 'pg_class'::regclass::oid, oid FROM target
    UNION ALL SELECT 'pg_type'::regclass, reltype FROM target
    UNION ALL SELECT 'pg_type'::regclass, typarray FROM pg_type
        WHERE oid = (SELECT reltype FROM target) AND typarray <> 0
    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM own_index
    UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
        WHERE conrelid = (SELECT oid FROM target)
    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef
        WHERE adrelid = (SELECT oid FROM target)
)
-- The table's own properties.
SELECT false, NULL::name, 'another kind of relation', relkind::text, false FROM target
    WHERE relkind <> 'r'
UNION ALL SELECT false, NULL, 'the attribute UNLOGGED', relpersistence::text, false FROM target
    WHERE relpersistence <> 'p'
UNION ALL SELECT false, NULL, 'access method ' || amname, '', false
    FROM target JOIN pg_am ON pg_am.oid = relam, session WHERE amname <> method
UNION ALL SELECT false, NULL, 'tablespace ' || coalesce(nullif(target.space, ''), 'pg_default'), '',
    false FROM target, session WHERE target.space <> session.space
UNION ALL SELECT false, NULL, 'option ' || option_name, option_value, true
    FROM target, pg_options_to_table(reloptions)
UNION ALL SELECT false, NULL, 'option toast.' || option_name, option_value, true
    FROM target JOIN pg_class t ON t.oid = target.reltoastrelid,
        pg_options_to_table(t.reloptions)
UNION ALL SELECT false, NULL, 'replica identity', relreplident::text, false FROM target
    WHERE relreplident <> 'd'
UNION ALL SELECT false, NULL, 'row level security',
    concat(relrowsecurity, relforcerowsecurity), false FROM target
    WHERE relrowsecurity OR relforcerowsecurity
UNION ALL SELECT false, NULL, 'the type ' || format_type(reloftype, NULL), '', false FROM target
    WHERE reloftype <> 0
UNION ALL SELECT false, NULL, 'the parent ' || inhparent::regclass,
    pg_get_expr(relpartbound, oid), false
    FROM target JOIN pg_inherits ON inhrelid = oid
UNION ALL SELECT true, NULL, 'table ' || inhrelid::regclass, '', false
    FROM target JOIN pg_inherits ON inhparent = oid
UNION ALL SELECT false, NULL, 'owner ' || owner, '', owner = current_user
        OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        OR pg_has_role(current_user, relowner, 'USAGE')
        AND pg_has_role(current_user, relowner, may_become)
        AND has_schema_privilege(relowner, relnamespace, 'CREATE')
    FROM target, session
-- A privilege that another role has granted could not be granted by the owner. A system column can
-- have some, but is not one of the columns that come and go.
UNION ALL SELECT false, (SELECT attname FROM own_column WHERE attname = column_name),
    concat_ws(' ', 'privilege', privilege_type, 'of',
        CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
        'on column ' || column_name),
    concat(pg_get_userbyid(grantor), is_grantable), grantor = relowner
    FROM (
        SELECT relowner, NULL::name AS column_name, acl.* FROM target,
            aclexplode(coalesce(relacl, acldefault('r', relowner))) acl
        UNION ALL
        SELECT relowner, attname, acl.* FROM target JOIN pg_attribute ON attrelid = target.oid,
            aclexplode(attacl) acl
        WHERE NOT attisdropped
    ) privilege
UNION ALL SELECT false, NULL, 'initial privileges', concat(objsubid, initprivs), false
    FROM target JOIN pg_init_privs ON objoid = oid AND classoid = 'pg_class'::regclass
-- Its columns.
UNION ALL SELECT false, attname, 'NOT NULL of column ' || attname, '', false FROM own_column
    WHERE attnotnull AND attname <> %(load_id)s
      AND NOT attnum = ANY (coalesce((SELECT conkey FROM own_constraint WHERE contype = 'p'), '{}'))
UNION ALL SELECT attgenerated <> '', attname,
    CASE attgenerated WHEN '' THEN 'the default of column ' ELSE 'generated column ' END || attname,
    concat(attgenerated, pg_get_expr(adbin, adrelid)), false
    FROM own_column JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
UNION ALL SELECT false, attname, 'the identity of column ' || attname, attidentity::text, false
    FROM own_column WHERE attidentity <> ''
UNION ALL SELECT false, attname, 'the statistics target of column ' || attname,
    attstattarget::text, false FROM own_column WHERE attstattarget >= 0
UNION ALL SELECT false, attname, 'the storage of column ' || attname, attstorage::text, false
    FROM own_column WHERE attstorage <> typstorage
UNION ALL SELECT false, attname, 'the compression of column ' || attname, attcompression::text,
    false FROM own_column WHERE attcompression <> ''
UNION ALL SELECT false, attname, 'the options of column ' || attname,
    concat(attoptions, attfdwoptions), false FROM own_column
    WHERE attoptions IS NOT NULL OR attfdwoptions IS NOT NULL
UNION ALL SELECT false, attname, 'the collation of column ' || attname,
    attcollation::regcollation::text, false FROM own_column WHERE attcollation <> typcollation
-- Its constraints, indexes, triggers, rules, policies, statistics.
UNION ALL SELECT false, NULL, 'the primary key', concat_ws(' ', conname, c.definition, x.state),
    is_plain AND x.reloptions IS NULL AND NOT condeferrable AND indnatts = indnkeyatts
    AND c.definition LIKE 'PRIMARY KEY (%%)'
    FROM own_constraint c JOIN own_index x ON indexrelid = conindid WHERE contype = 'p'
UNION ALL SELECT true, NULL, format('constraint %%I', conname), concat(definition, convalidated),
    false FROM own_constraint WHERE contype <> 'p'
UNION ALL SELECT true, NULL, format('index %%I.%%I', nspname, x.relname),
    concat_ws(' ', x.definition, x.state), is_plain
    FROM own_index x, target
    WHERE indexrelid NOT IN (SELECT conindid FROM own_constraint WHERE contype IN ('p', 'u', 'x'))
UNION ALL SELECT true, NULL, format('trigger %%I', tgname),
    concat(pg_get_triggerdef(t.oid), tgenabled), false
    FROM target JOIN pg_trigger t ON tgrelid = target.oid WHERE NOT tgisinternal
UNION ALL SELECT true, NULL, format('rule %%I', rulename),
    concat(pg_get_ruledef(r.oid), ev_enabled), false
    FROM target JOIN pg_rewrite r ON ev_class = target.oid WHERE rulename <> '_RETURN'
UNION ALL SELECT true, NULL, format('policy %%I', polname), concat_ws(' ', polcmd, polpermissive,
        polroles::regrole[], pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)),
    false FROM target JOIN pg_policy ON polrelid = target.oid
UNION ALL SELECT true, NULL, format('statistics %%I', stxname),
    concat_ws(' ', pg_get_statisticsobjdef(s.oid), stxstattarget, stxowner::regrole), false
    FROM target JOIN pg_statistic_ext s ON stxrelid = target.oid
-- Replication. The rows of a table that is made next to a published one would be sent, too.
UNION ALL SELECT false, NULL, 'publication ' || pubname, p::text, false
    FROM target JOIN pg_publication_tables p ON (schemaname, tablename) = (nspname, relname)
UNION ALL SELECT false, NULL, 'subscription ' || srsubid, '', false
    FROM target JOIN pg_subscription_rel ON srrelid = oid
-- What has been said about it.
UNION ALL SELECT false, (SELECT attname FROM own_column WHERE attnum = objsubid
                         AND classoid = 'pg_class'::regclass AND attrelid = objoid),
    'the comment on ' || CASE
        WHEN classoid = 'pg_class'::regclass AND objoid = target.oid THEN
            coalesce('column ' || (SELECT attname FROM own_column WHERE attnum = objsubid), 'it')
        ELSE pg_describe_object(classoid, objoid, objsubid) END,
    description, classoid = 'pg_class'::regclass AND objoid = target.oid
    FROM target, kin JOIN pg_description ON (classoid, objoid) = (classid, kin.objid)
UNION ALL SELECT false, NULL,
    'the security label on ' || pg_describe_object(classoid, objoid, objsubid),
    concat(provider, label), false
    FROM kin JOIN pg_seclabel ON (classoid, objoid) = (classid, objid)
-- What depends on it, and which extensions it is part of. What is listed above is left out.
UNION SELECT true, NULL, regexp_replace(pg_describe_object(d.classid, d.objid, 0),
        '^rule _RETURN on ', ''), '', false
    FROM target, kin JOIN pg_depend d ON (refclassid, refobjid) = (kin.classid, kin.objid)
    WHERE NOT EXISTS (SELECT FROM kin own WHERE (own.classid, own.objid) = (d.classid, d.objid))
      AND NOT (d.classid = 'pg_trigger'::regclass
          AND d.objid IN (SELECT t.oid FROM pg_trigger t WHERE tgrelid = target.oid))
      AND NOT (d.classid = 'pg_policy'::regclass
          AND d.objid IN (SELECT p.oid FROM pg_policy p WHERE polrelid = target.oid))
      AND NOT (d.classid = 'pg_statistic_ext'::regclass
          AND d.objid IN (SELECT s.oid FROM pg_statistic_ext s WHERE stxrelid = target.oid))
      AND d.classid <> 'pg_publication_rel'::regclass
      AND NOT (d.classid = 'pg_rewrite'::regclass
          AND d.objid IN (SELECT r.oid FROM pg_rewrite r WHERE ev_class = target.oid))
      AND NOT (d.classid = 'pg_class'::regclass
          AND (d.objid = reltoastrelid
               OR d.objid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = target.oid)))
UNION SELECT false, NULL, 'a dependency on ' || pg_describe_object(refclassid, refobjid, 0),
    deptype::text, false
    FROM kin JOIN pg_depend d ON (d.classid, d.objid) = (kin.classid, kin.objid)
    WHERE refclassid = 'pg_extension'::regclass AND deptype IN ('e', 'x')
ORDER BY 1 DESC, 2 NULLS FIRST, 3, 4
"""


# What makes rows that are written to the table other rows than those that are then read from it.
_UNSAFE = """
WITH target AS (SELECT to_regclass(%s)::oid AS oid)
SELECT format('table %%s inherits from it, so its rows would be taken for its own', child) AS what,
    format('ALTER TABLE %%s NO INHERIT %%s', child, relid) AS remedy
FROM (SELECT inhrelid::regclass AS child, c.oid::regclass AS relid
      FROM pg_inherits JOIN pg_class c ON c.oid = inhparent
      WHERE c.oid = (SELECT oid FROM target) AND relkind = 'r') inherited
UNION ALL
SELECT format('rule %%I does something else instead of writing its rows', rulename),
    format('DROP RULE %%I ON %%s', rulename, c.oid::regclass)
FROM pg_rewrite JOIN pg_class c ON c.oid = ev_class
WHERE c.oid = (SELECT oid FROM target) AND relkind IN ('r', 'p') AND is_instead
    AND ev_enabled <> 'D'
UNION ALL
SELECT format('its row level security applies to role %%I, which must see all rows', current_user),
    format('ALTER ROLE %%I BYPASSRLS', current_user)
FROM pg_class WHERE oid = (SELECT oid FROM target) AND relrowsecurity AND row_security_active(oid)
ORDER BY 1
"""
# ALTER COLUMN TYPE gives the column the storage of its new type, and makes indexes and statistics
# that use it again from their definitions, which do not say all.
_LOST_BY_A_NEW_TYPE = """
WITH target AS (SELECT to_regclass(%(target)s)::oid AS oid)
SELECT format('ALTER TABLE %%s ALTER COLUMN %%I SET STORAGE %%s', attrelid::regclass, attname,
    CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN'
                    ELSE 'EXTENDED' END)
FROM target JOIN pg_attribute ON attrelid = target.oid JOIN pg_type t ON t.oid = atttypid
WHERE attnum > 0 AND attstorage <> typstorage
UNION ALL
SELECT format('ALTER TABLE %%s ALTER COLUMN %%I SET COMPRESSION %%s', attrelid::regclass, attname,
    CASE attcompression WHEN 'p' THEN 'pglz' ELSE 'lz4' END)
FROM target JOIN pg_attribute ON attrelid = target.oid WHERE attnum > 0 AND attcompression <> ''
UNION ALL
SELECT format('ALTER INDEX %%s ALTER COLUMN %%s SET STATISTICS %%s', attrelid::regclass, attnum,
    attstattarget)
FROM target JOIN pg_index ON indrelid = target.oid JOIN pg_attribute ON attrelid = indexrelid
WHERE attstattarget >= 0
UNION ALL
SELECT format('ALTER STATISTICS %%s.%%I SET STATISTICS %%s', stxnamespace::regnamespace, stxname,
    stxstattarget)
FROM target JOIN pg_statistic_ext ON stxrelid = target.oid WHERE stxstattarget >= 0
UNION ALL
SELECT format('ALTER INDEX %%s DEPENDS ON EXTENSION %%I', objid::regclass, extname)
FROM target JOIN pg_index ON indrelid = target.oid
JOIN pg_depend ON (classid, objid, refclassid, deptype) =
    ('pg_class'::regclass, indexrelid, 'pg_extension'::regclass, 'x')
JOIN pg_extension e ON e.oid = refobjid
"""
_INDEXES_ON_COLUMN = """
SELECT DISTINCT indexrelid::regclass::text
FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attname = ANY (%(columns)s)
JOIN pg_depend ON (classid, objid, refclassid, refobjid, refobjsubid) =
    ('pg_class'::regclass, indexrelid, 'pg_class'::regclass, indrelid, attnum)
WHERE indrelid = to_regclass(%(target)s) ORDER BY 1
"""
# What keeps columns from taking the values that arrive: they are computed, or take different keys
# for equal. A cast to a domain has the domain's collation, whatever the column's is.
_UNFIT = """
SELECT attname, format_type(atttypid, atttypmod), attgenerated <> '',
    attidentity = 'a' AND %(key)s::text[] <> '{}', collname
FROM pg_attribute a JOIN pg_type t ON t.oid = atttypid
LEFT JOIN pg_collation c ON c.oid IN (attcollation, typcollation) AND NOT collisdeterministic
    AND attname = ANY (%(key)s) AND NOT EXISTS (
        SELECT FROM pg_attribute s
        WHERE attrelid = to_regclass(%(arriving)s)
          AND (s.attname, s.attcollation) = (a.attname, a.attcollation))
WHERE attrelid = to_regclass(%(target)s) AND attname = ANY (%(columns)s) AND NOT attisdropped
ORDER BY attnum
"""
_INHERITED = """
SELECT inhparent::regclass::text, relispartition, ARRAY(
    SELECT attname::text FROM pg_attribute
    WHERE attrelid = inhrelid AND attinhcount > 0 AND NOT attisdropped)
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhrelid = to_regclass(%s) ORDER BY inhseqno LIMIT 1
"""
PRIMARY_KEY = "the primary key"
_OWNER = "owner "
_PARENT = "the parent "


@dataclass(frozen=True)
class Belonging:
    """Something that hangs on a table."""

    is_object: bool
    """Whether it is an object that can be dropped, not a property of the table."""
    column: str | None
    what: str
    """For messages."""
    definition: str
    is_carried: bool
    """Whether a swap gives it to the new table exactly as it was."""

    @property
    def is_collation(self) -> bool:
        """Whether it is a column's collation."""
        return self.what == f"the collation of column {self.column}"

    @property
    def reason(self) -> str:
        """Why the table's rows are changed in place, after "because"."""
        if self.is_object:
            return f"{self.what} depends on the table"
        return f"the table has {self.what}"

    @property
    def remedy(self) -> str:
        """The advice for a table that has to be rebuilt."""
        if self.is_object:
            return f"drop {self.what}, which depends on the table, so that it can be rebuilt"
        if self.what.startswith(_PARENT):
            parent = self.what.removeprefix(_PARENT)
            return f"detach the table from {parent}, so that it can be rebuilt"
        if self.what.startswith(f"{PRIMARY_KEY} ("):
            return f"run: {self.definition}"
        if self.what.startswith(_OWNER):
            return "let the connection's role own the table, so that it can be rebuilt"
        return f"remove {self.what} from the table, so that it can be rebuilt"


def inventory(session: Session, target: Relation) -> list[Belonging]:
    """Everything that hangs on the target and that a new table does not have, objects first."""
    values = {"target": target.sql, "load_id": LOAD_ID}
    return [Belonging(*row) for row in session.execute(_INVENTORY, values)]


def obstacles(
    session: Session,
    target: Relation,
    kept: Iterable[str] = (),
    key: tuple[str, ...] | None = None,
    is_mart: bool = False,
) -> list[Belonging]:
    """What keeps the target from being swapped; empty if it can be.

    `kept` are columns that the new table would have without values: one that has values is an
    obstacle. `key` is the new table's. Where it is given and empty, a primary key is not one of
    ours. The collations of a mart's columns are those of its SELECT.
    """
    found = []
    for one in inventory(session, target):
        is_not_ours = one.what == PRIMARY_KEY and key == ()
        if is_mart and one.is_collation:
            continue
        if is_not_ours or not (one.is_carried or comes_with(one, key or ())):
            found.append(one)
    return found + values_in(session, target, kept)


def comes_with(one: Belonging, key: tuple[str, ...]) -> bool:
    """Whether a primary key on `key` gives it: a column of it is NOT NULL, also after the key
    alone was dropped."""
    return one.column in key and one.what == f"NOT NULL of column {one.column}"


def values_in(session: Session, target: Relation, columns: Iterable[str]) -> list[Belonging]:
    """The values that the target's rows have in these columns, one belonging per column."""
    found = []
    for column in columns_with_values(session, target, columns):
        what = f"values in column {column}, which the source does not have"
        found.append(Belonging(False, column, what, "", False))
    return found


def lost_by_a_new_type(session: Session, target: Relation) -> list[str]:
    """The statements that give the target back what ALTER COLUMN TYPE takes from it."""
    return [row[0] for row in session.execute(_LOST_BY_A_NEW_TYPE, {"target": target.sql})]


def indexes_on(session: Session, target: Relation, columns: Iterable[str]) -> list[str]:
    """The indexes that use one of the columns in an expression, a condition or as it is; those of
    constraints are not among them."""
    values = {"target": target.sql, "columns": list(columns)}
    return [row[0] for row in session.execute(_INDEXES_ON_COLUMN, values)]


def refuse_unsafe(session: Session, target: Relation) -> None:
    """Raises Refused, with the statement that helps, when rows cannot be written to the target or
    not all of them read, or not be told from those of another table."""
    query, values = unsafe_question(target)
    refuse_found_unsafe(target, session.execute(query, values).fetchall())


def unsafe_question(target: Relation) -> tuple[str, Sequence[str]]:
    """What `refuse_unsafe` asks, for `postgres.ask_together`."""
    return _UNSAFE, (target.sql,)


def refuse_found_unsafe(target: Relation, answer: Sequence[tuple[Any, ...]]) -> None:
    """Raises Refused by the answer to `unsafe_question`, as `refuse_unsafe` does."""
    for what, remedy in answer:
        raise Refused(f"{target}: {what}; run: {remedy};")


def refuse_unfit(
    session: Session,
    target: Relation,
    columns: Collection[str],
    key: Collection[str],
    arriving: Relation | None = None,
) -> None:
    """Raises Refused, with the statement that helps, where another user has made one of the columns
    one that does not take what arrives.

    The server computes it and takes no other value, in an INSERT or, where rows are found by `key`,
    in an UPDATE. Or a column of `key` has a collation that takes different texts for equal, and
    that of `arriving` has not: two rows would be one.
    """
    values = {
        "target": target.sql,
        "columns": list(columns),
        "key": list(key),
        "arriving": arriving.sql if arriving else None,
    }
    rows = session.execute(_UNFIT, values).fetchall()
    for name, its_type, is_generated, is_identity, collation in rows:
        if is_generated:
            what = "was made a generated column, so it cannot take the values that arrive"
            clause = "DROP EXPRESSION"
        elif is_identity:
            what = "was made an identity column that is always generated, so it takes no UPDATE"
            clause = "SET GENERATED BY DEFAULT"
        elif collation:
            what = (
                f"of its key was given the collation {collation}, which takes different texts for"
                " equal, so rows would be missing"
            )
            base_type = tables.domains_of(session, target).get(name, its_type)
            clause = f'TYPE {base_type} COLLATE "default"'
        else:
            continue
        raise Refused(
            f"{target}: column {name} {what}."
            f" Run: ALTER TABLE {target.sql} ALTER COLUMN {ident(name)} {clause};"
        )


def refuse_inherited(
    session: Session, target: Relation, changed: Collection[str], added: Collection[str]
) -> None:
    """Raises Refused, with the statement that helps, where the columns `changed` are those of a
    table that the target is attached to, or where the target cannot have the `added` ones by
    itself."""
    row = session.execute(_INHERITED, (target.sql,)).fetchone()
    if row is None:
        return
    parent, is_partition, inherited = row
    names = [name for name in changed if name in inherited]
    if is_partition:
        names += added
    if not names:
        return
    what = f"it inherits from {parent}"
    statement = f"ALTER TABLE {target.sql} NO INHERIT {parent};"
    if is_partition:
        what = f"it is a partition of {parent}"
        statement = f"ALTER TABLE {parent} DETACH PARTITION {target.sql};"
    raise Refused(
        f"{target}: column {names[0]} has changed, and the table cannot follow alone, because"
        f" {what}. Run: {statement} Give {parent} the same columns before you attach it again"
    )


def columns_with_values(session: Session, target: Relation, columns: Iterable[str]) -> list[str]:
    """Those of the target's columns in which a row has a value."""
    found = []
    for column in columns:
        rows = f"SELECT FROM {target.sql} WHERE {ident(column)} IS NOT NULL"
        if session.execute(f"SELECT EXISTS ({rows})").fetchone() == (True,):
            found.append(column)
    return found
