"""Changes of a source table's schema, and what must come of each for a table that is loaded in
increments."""

from __future__ import annotations

from dataclasses import dataclass

TABLE = """
CREATE TYPE {t}_mood AS ENUM ('sad', 'ok');
CREATE DOMAIN {t}_code AS text CHECK (value <> '');
CREATE TABLE {t} (
    id int PRIMARY KEY, what varchar(10), n int, m int, note text, amount numeric(8,2),
    feel {t}_mood, code {t}_code,
    big bigint, list int[], plain timestamp, doubled int GENERATED ALWAYS AS (id * 2) STORED,
    at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO {t} (id, what, n, m, note, amount, feel, code, big, list, plain)
SELECT i, 'w' || i, i, -i, i::text, i + 0.25, 'sad', 'c' || i, i, ARRAY[i], '2026-01-01'
FROM generate_series(1, 40) i;
"""
# Half of the rows are written again after the change; the others keep what older loads gave them.
TOUCH = "UPDATE {t} SET {cursor} = clock_timestamp() WHERE {key} % 2 = 0"
AGAIN = (
    "INSERT INTO {t} (id, what, n, at) SELECT i, 'again', i, clock_timestamp() FROM"
    " generate_series(1, 40) i"
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change, and what the next run makes of it."""

    sql: str
    refused: str = ""
    """What the refusal must say; empty when the change is applied."""
    until_refresh: tuple[str, ...] = ()
    """Columns whose older rows differ until a full refresh, as the policy says."""
    touch: str = TOUCH
    key: str = "id"
    cursor: str = "at"
    gone: bool = False
    """There is nothing left that a full refresh could read as the spec says."""
    frozen: bool = True
    """`schema_contract: freeze` has something to say about it."""
    before: str = ""
    """What the table has besides, from the beginning."""


MADE_ANEW = "is not the column that older rows were loaded from"
CHANGES = {
    "add": Change(sql="ALTER TABLE {t} ADD extra int"),
    "add_default": Change(sql="ALTER TABLE {t} ADD extra int DEFAULT 5", until_refresh=("extra",)),
    "add_not_null": Change(
        sql="ALTER TABLE {t} ADD extra text NOT NULL DEFAULT 'x'", until_refresh=("extra",)
    ),
    "add_generated": Change(
        sql="ALTER TABLE {t} ADD extra int GENERATED ALWAYS AS (n + 1) STORED",
        until_refresh=("extra",),
    ),
    "add_identity": Change(
        sql="ALTER TABLE {t} ADD extra int GENERATED ALWAYS AS IDENTITY", until_refresh=("extra",)
    ),
    "drop": Change(sql="ALTER TABLE {t} DROP n"),
    "drop_and_add": Change(
        sql="ALTER TABLE {t} DROP n, ADD n int", refused=f"column n {MADE_ANEW}"
    ),
    "rename": Change(sql="ALTER TABLE {t} RENAME what TO title"),
    "swap": Change(
        sql=(
            "ALTER TABLE {t} RENAME n TO x; ALTER TABLE {t} RENAME m TO n; ALTER TABLE {t} RENAME x"
            " TO m"
        )
    ),
    "rename_over_dropped": Change(
        sql="ALTER TABLE {t} DROP n; ALTER TABLE {t} RENAME m TO n", refused=f"column n {MADE_ANEW}"
    ),
    "rename_and_add": Change(sql="ALTER TABLE {t} RENAME n TO older; ALTER TABLE {t} ADD n int"),
    "widen_int": Change(sql="ALTER TABLE {t} ALTER n TYPE bigint"),
    "widen_to_numeric": Change(sql="ALTER TABLE {t} ALTER big TYPE numeric"),
    "longer": Change(sql="ALTER TABLE {t} ALTER what TYPE varchar(20)"),
    "to_text": Change(sql="ALTER TABLE {t} ALTER what TYPE text"),
    "more_scale": Change(sql="ALTER TABLE {t} ALTER amount TYPE numeric(10,4)"),
    "narrow_int": Change(sql="ALTER TABLE {t} ALTER big TYPE int"),
    "less_scale": Change(
        sql="ALTER TABLE {t} ALTER amount TYPE numeric(7,1)", until_refresh=("amount",)
    ),
    "text_to_int": Change(
        sql="ALTER TABLE {t} ALTER note TYPE int USING note::int",
        refused="column note is text in the target",
    ),
    "int_to_text": Change(
        sql="ALTER TABLE {t} ALTER n TYPE text USING n || ' items'",
        refused="column n is integer in the target",
    ),
    "zone_added": Change(
        sql="ALTER TABLE {t} ALTER plain TYPE timestamptz",
        refused="column plain is timestamp without time zone",
    ),
    "array_widened": Change(
        sql="ALTER TABLE {t} ALTER list TYPE bigint[]", refused="column list is integer[]"
    ),
    "label_added": Change(sql="ALTER TYPE {t}_mood ADD VALUE 'fine' BEFORE 'ok'", frozen=False),
    "label_renamed": Change(
        sql="ALTER TYPE {t}_mood RENAME VALUE 'sad' TO 'blue'",
        refused="column feel had its label 'sad' renamed",
    ),
    "enum_to_text": Change(sql="ALTER TABLE {t} ALTER feel TYPE text", frozen=False),
    "enum_recoded": Change(
        sql=(
            "CREATE TYPE {t}_other AS ENUM ('ok', 'bad'); "
            "ALTER TABLE {t} ALTER feel TYPE {t}_other USING 'bad'::{t}_other"
        ),
        refused="column feel had its label 'sad' renamed",
    ),
    "domain_changed": Change(
        sql="ALTER DOMAIN {t}_code ADD CHECK (length(value) < 9)", frozen=False
    ),
    "domain_to_base": Change(sql="ALTER TABLE {t} ALTER code TYPE text", frozen=False),
    "not_null": Change(
        sql="ALTER TABLE {t} ALTER n SET NOT NULL, ALTER n SET DEFAULT 1", frozen=False
    ),
    "rewritten": Change(sql="VACUUM FULL {t}", frozen=False),
    "made_generated": Change(
        sql="ALTER TABLE {t} DROP n, ADD n int GENERATED ALWAYS AS (id) STORED",
        refused=f"column n {MADE_ANEW}",
    ),
    "generated_no_more": Change(sql="ALTER TABLE {t} ALTER doubled DROP EXPRESSION", frozen=False),
    "key_renamed": Change(sql="ALTER TABLE {t} RENAME id TO nr", key="nr"),
    "key_widened": Change(sql="ALTER TABLE {t} DROP doubled, ALTER id TYPE bigint"),
    "key_changed": Change(
        sql="ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (n)",
        refused="the primary key is (id) in the target and (n) in the source",
        frozen=False,
    ),
    "key_composed": Change(
        sql="ALTER TABLE {t} DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (id, n)",
        refused="the primary key is (id) in the target and (id, n) in the source",
        frozen=False,
    ),
    "key_dropped": Change(
        sql="ALTER TABLE {t} DROP CONSTRAINT {t}_pkey",
        refused="the primary key is (id) in the target and none in the source",
        frozen=False,
    ),
    "key_column_dropped": Change(
        sql="ALTER TABLE {t} DROP doubled, DROP id",
        key="n",
        refused="the primary key is (id) in the target and none",
    ),
    "key_added": Change(
        before="ALTER TABLE {t} DROP CONSTRAINT {t}_pkey",
        sql="ALTER TABLE {t} ADD PRIMARY KEY (id)",
        refused="the primary key is none in the target and (id) in the source",
        frozen=False,
    ),
    "cursor_renamed": Change(
        sql="ALTER TABLE {t} RENAME at TO seen_at",
        cursor="seen_at",
        refused="{t} has no column 'at'",
        gone=True,
    ),
    "cursor_dropped": Change(
        sql="ALTER TABLE {t} DROP at", cursor="plain", refused="{t} has no column 'at'", gone=True
    ),
    "cursor_type": Change(
        sql="ALTER TABLE {t} ALTER at TYPE timestamp",
        refused="cursor at was timestamp with time zone and is timestamp without time zone now",
    ),
    "cursor_anew": Change(
        sql=(
            "ALTER TABLE {t} DROP at; ALTER TABLE {t} ADD at timestamptz NOT NULL DEFAULT"
            " clock_timestamp()"
        ),
        refused="cursor at is not the column at that increments were read by",
    ),
    "dropped": Change(
        sql="DROP TABLE {t}",
        touch="SELECT 1",
        refused="the source has no table public.{t}",
        gone=True,
    ),
    "made_anew": Change(
        sql=(
            "DROP TABLE {t}; CREATE TABLE {t} (id int PRIMARY KEY, what varchar(10), n int, at"
            " timestamptz NOT NULL)"
        ),
        touch=AGAIN,
        refused="dropped and recreated",
    ),
    "columns_reordered": Change(
        sql=(
            "ALTER TABLE {t} RENAME TO {t}_old; CREATE TABLE {t} (at timestamptz NOT NULL, n int,"
            " what varchar(10), id int PRIMARY KEY)"
        ),
        touch=AGAIN,
        refused="dropped and recreated",
    ),
    "partitioned": Change(
        sql=(
            "ALTER TABLE {t} RENAME TO {t}_old; CREATE TABLE {t} (id int, what varchar(10), n int,"
            " at timestamptz, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE TABLE {t}_part"
            " PARTITION OF {t} DEFAULT"
        ),
        touch=AGAIN,
        refused="dropped and recreated",
    ),
    "renamed": Change(
        sql="ALTER TABLE {t} RENAME TO {t}_old",
        touch="SELECT 1",
        gone=True,
        refused="the source has no table public.{t}",
    ),
    "moved": Change(
        sql="CREATE SCHEMA {t}_s; ALTER TABLE {t} SET SCHEMA {t}_s",
        touch="SELECT 1",
        refused="the source has no table public.{t}",
        gone=True,
    ),
    "viewed": Change(
        sql="ALTER TABLE {t} RENAME TO {t}_old; CREATE VIEW {t} AS SELECT * FROM {t}_old",
        refused="a view has taken the place of the table",
        frozen=False,
    ),
    "our_name": Change(
        sql="ALTER TABLE {t} ADD _load_id bigint",
        refused="public.{t} has a column _load_id",
        gone=True,
    ),
}
