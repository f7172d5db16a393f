"""SQL that a check must judge as PostgreSQL does: both our check and a real server are asked about
each."""

from __future__ import annotations

SETUP = """
CREATE SCHEMA staging; CREATE SCHEMA mart; CREATE TYPE mart.mood AS ENUM ('a', 'b');
CREATE TABLE staging.bookings (
    a int, b int, c text, ip inet, at timestamptz, doc jsonb, tags text[], moods text[]
);
CREATE TABLE staging.flights (a int, c text);
CREATE TABLE mart.other (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, c text);
"""

ACCEPTED = {
    "operators of addresses and text": "SELECT a FROM bookings "
    "WHERE ip <<= '10.0.0.0/8'::inet AND c ~<=~ 'x'",
    "operators of shapes": "SELECT point '(1,2)' ~= point '(1,2)' AS s, "
    "box '(1,1),(0,0)' |>> box '(3,3),(2,2)' AS u "
    "FROM bookings",
    "an operator before its operand": "SELECT @ a AS x, |/ b AS y, a*-1 AS z FROM bookings",
    "a literal of a type": "SELECT a FROM bookings "
    "WHERE ip << cidr '10.0.0.0/8' OR c::money > money '1'",
    "an array of a type of one's own": "SELECT moods::mart.mood[] AS m FROM bookings",
    "an order by an operator": "SELECT a FROM bookings ORDER BY c USING ~<~, a USING > LIMIT 1",
    "an alias of USING": "SELECT j.a FROM bookings b JOIN flights f USING (a, c) AS j, "
    "LATERAL (SELECT 1) AS x",
    "an aggregate that is named as SQL/JSON has it": "SELECT jsonb_object_agg(DISTINCT c, a) AS x, "
    "json_object('{a,1}') AS y FROM bookings",
    "SEARCH and CYCLE over several columns": """
        WITH RECURSIVE t AS (
            SELECT a, b FROM bookings UNION ALL SELECT f.a, t.b FROM flights f JOIN t ON t.b = f.a
        )
        SEARCH DEPTH FIRST BY a, b SET ord CYCLE a, b SET is_cycle USING path
        SELECT a, b, is_cycle FROM t""",
    "a comma everywhere but at an end": "SELECT q.a, (b), greatest(b, 2) AS x "
    "FROM (SELECT a, b FROM bookings) q, LATERAL (SELECT 1) AS l, flights",
    "joins that need no condition": """
        SELECT b.a FROM bookings b NATURAL JOIN flights CROSS JOIN mart.other o
        JOIN (bookings x JOIN flights y ON x.a = y.a) ON x.a = b.a, LATERAL (SELECT 1) q""",
    "nested joins with their conditions behind": "SELECT 1 AS x FROM bookings b "
    "JOIN flights f JOIN mart.other o ON o.a = f.a ON f.a = b.a",
    "names that are words of SQL, in quotes or behind AS": "SELECT "
    'a AS order, b AS "group", q."order" AS x '
    'FROM bookings, (SELECT 1 AS "order") q',
    "words that are values": "SELECT user, current_date, a IN (1), interval '1' day AS i, "
    "NULL AS n FROM bookings "
    "LIMIT 5 OFFSET 10",
    "signs and blanks in quotes and comments": """
        SELECT '{{ ’ \u00a0 \\ `' AS "‘\u00a0{`", $$ \u200b } $$ AS y
        /* { \u00a0 ` */ FROM bookings -- \u3000 \\ {""",
    "two columns of different names": 'SELECT a AS "A", a, b AS c FROM bookings',
}
"""SELECTs over SETUP; each reads `staging.bookings`."""

REFUSED = {
    "SELECT a, FROM bookings": ("1:9", "a comma with nothing after it"),
    "SELECT a,, b FROM bookings": ("1:9", "a comma with nothing after it"),
    "SELECT a\nFROM bookings,\nWHERE a = 1": ("2:14", "a comma with nothing after it"),
    "SELECT greatest(a, ) AS x FROM bookings": ("1:18", "a comma with nothing after it"),
    "SELECT a FROM bookings GROUP BY": ("1:24", "GROUP BY with nothing after it"),
    "SELECT a FROM bookings WHERE a IN ()": ("1:32", "IN with an empty list"),
    "SELECT at - INTERVAL 1 DAY AS x FROM bookings": ("1:13", "an interval is text"),
    "SELECT a FROM bookings LIMIT 5, 10": ("1:24", "no LIMIT with two numbers"),
    "SELECT a AS 'x' FROM bookings": ("1:13", "a name in quotes for text"),
    "SELECT a FROM bookings WHERE a == 1": ("1:32", "no =="),
    "SELECT a FROM bookings WHERE c RLIKE 'x'": ("1:32", "no RLIKE"),
    "SELECT a FROM bookings QUALIFY row_number() OVER () = 1": ("1:32", "no QUALIFY"),
    "SELECT * EXCLUDE (a) FROM bookings": ("1:8", "no * with exceptions"),
    "SELECT TRY_CAST(a AS text) AS x FROM bookings": ("1:17", "no TRY_CAST"),
    "SELECT b.a FROM bookings b\n  LEFT JOIN flights f": ("2:13", "JOIN without ON or USING"),
    "SELECT b.a FROM bookings b JOIN (SELECT 1 AS x FROM flights) q": (
        "1:41",
        "JOIN without ON or USING",
    ),
    "SELECT {{ column }} FROM bookings": ("1:8", "has no {"),
    "\\set x 1\nSELECT a FROM bookings": ("1:1", "has no \\"),
    "SELECT `a` FROM bookings": ("1:8", "has no `"),
    "SELECT ‘a’ AS x FROM bookings": ("1:8", "a typographic quote"),
    "SELECT a\n FROM\u00a0bookings": ("2:6", "the blank U+00A0"),
    "SELECT '\u00a0' AS x, /* \u00a0 */ \u200bb FROM bookings": ("1:26", "the blank U+200B"),
    "SELECT order FROM bookings": ("1:8", "order is a word of SQL"),
    "SELECT a FROM order": ("1:15", "order is a word of SQL"),
    "SELECT a FROM bookings WHERE a =< 1": ("1:32", "no =<"),
    "SELECT b.a, f.a FROM bookings b JOIN flights f USING (c)": (
        "1:13",
        "its SELECT has two columns 'a'",
    ),
    "SELECT a AS x, b AS X FROM bookings": ("1:16", "its SELECT has two columns 'x'"),
    "SELECT max(a) AS a FROM mart.me": ("1:30", "reads itself"),
}
"""SELECTs from which no table can be made, where a check says so, and what it says."""

SCRIPTS = {
    "temporary tables": "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT a FROM bookings; "
    "INSERT INTO mart.other (a) SELECT a FROM t",
    "a renamed table": "ALTER TABLE mart.other RENAME TO old; "
    "CREATE TABLE mart.other AS SELECT a FROM bookings; DROP TABLE mart.old; "
    "ALTER TABLE mart.other RENAME TO old; INSERT INTO mart.old SELECT a FROM mart.old",
    "a function with a body of SQL, and rare statements": "CREATE FUNCTION mart.f(a int) "
    "RETURNS int LANGUAGE sql "
    "BEGIN ATOMIC SELECT a; SELECT a; END; SELECT mart.f(a) FROM bookings; "
    "DROP FUNCTION mart.f(a int); "
    "CLUSTER mart.other USING other_pkey; NOTIFY done, 'x'",
    "savepoints": "SAVEPOINT s; SELECT a FROM bookings; ROLLBACK TO s; RELEASE SAVEPOINT s",
    "OVERRIDING": "INSERT INTO mart.other (id, a) OVERRIDING SYSTEM VALUE "
    "SELECT a, b FROM bookings",
    "options of a view": "CREATE VIEW mart.v WITH (security_barrier) AS SELECT a FROM bookings",
    "its own table": "CREATE TABLE IF NOT EXISTS mart.me (a int); "
    "INSERT INTO mart.me SELECT a FROM bookings "
    "WHERE a > (SELECT coalesce(max(a), 0) FROM mart.me)",
    "cursors, and a blank at the end": "DECLARE c CURSOR FOR SELECT a FROM staging.bookings; "
    "FETCH ALL FROM c ",
    "blocks": "DO $$ BEGIN PERFORM count(*) FROM staging.bookings; END $$; "
    "COMMENT ON TABLE mart.other IS 'a; b'",
}
"""Scripts over SETUP; each reads `staging.bookings`, and none another table of SETUP that it does
not make itself."""

ENDING = (
    "COMMIT",
    "ROLLBACK",
    "ABORT",
    "ABORT WORK",
    "END",
    "END TRANSACTION",
    "START TRANSACTION",
    "BEGIN",
    "COMMIT AND CHAIN",
    "START TRANSACTION READ ONLY",
    "VACUUM mart.other",
    "CREATE INDEX CONCURRENTLY ON mart.other (a)",
)
"""Statements that no script may hold, since it runs in a transaction of ours."""
