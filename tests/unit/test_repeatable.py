"""Which SELECTs must return the same rows each time, so that a difference of their mart is one."""

from __future__ import annotations

import pytest

from loadsheet.sql.parsing import parse
from loadsheet.verify.repeatable import why_not_repeatable

COLUMNS = {name: ["integer"] for name in ("id", "a", "_load_id", "place")} | {
    "b": ["boolean"],
    "c": ["numeric(10,2)"],
    "amount": ["numeric(10,2)", "integer"],
    "at": ["timestamp with time zone"],
    "name": ["text"],
    "t": ["text"],
}
FLOATS = COLUMNS | {
    "weight": ["integer", "double precision"],
    "pair": ["real[]"],
    "spot": ["point"],
    "price": ["money"],
    "own": ["own.type"],
}
LOOSE = COLUMNS | {"loose": ["numeric"], "either": ["text", "numeric"]}

REPEATABLE = [
    "SELECT id, lower(name) AS name FROM staging.t WHERE _load_id > :since_load",
    "SELECT DISTINCT a, count(*) FILTER (WHERE b) n, sum(c) FROM t GROUP BY a HAVING count(*) > 1",
    "WITH x AS (SELECT * FROM t) SELECT x.*, CASE WHEN a THEN 1 ELSE 2 END, coalesce(b, 'none')"
    " FROM x LEFT JOIN u USING (id) UNION ALL SELECT * FROM v ORDER BY 1",
    "SELECT extract(year FROM at), date_trunc('day', at AT TIME ZONE 'UTC'), at::date, trim(name)"
    " FROM t WHERE EXISTS (SELECT FROM u WHERE u.id = t.id) AND name LIKE 'a%'",
    "SELECT CASE name WHEN 'snow' THEN 'it is known' END AS weather FROM t",
    "SELECT CAST(at + interval '1 day' * a AS date), make_date(a, a, 1)::timestamp, name::text"
    " FROM t WHERE at >= '2026-01-01'::timestamptz AND to_date(name, 'YYYY') > at::date",
]
NOT_REPEATABLE = [
    ("SELECT now()", "it calls now()"),
    ("SELECT random() FROM t", "it calls random()"),
    ("SELECT own.f(a) FROM t", "it calls own.f()"),
    ("SELECT gen_random_uuid(), a FROM t", "it calls gen_random_uuid()"),
    ("SELECT array_agg(a) FROM t", "it calls array_agg()"),
    ("SELECT string_agg(a, ',') FROM t", "it calls string_agg()"),
    ("SELECT * FROM t WHERE at > current_date", "SQLValueFunction"),
    ("SELECT * FROM t WHERE at > 'yesterday'::date", "the text 'yesterday'"),
    ("SELECT * FROM t WHERE at > timestamp 'Yesterday 08:00'", "the text 'Yesterday 08:00'"),
    ("SELECT * FROM t WHERE at = ANY ('{2026-01-01,today}'::date[])", "the text"),
    ("SELECT name::date FROM t", "a time of a text"),
    ("SELECT CAST(lower(t.name) AS timestamptz) FROM t", "a time of a text"),
    ("SELECT (name || t)::timestamp::date FROM t", "a time of a text"),
    ("SELECT split_part(name, ' ', 1)::time, string_to_array(t, ',')::date[] FROM t", "a time"),
    ("SELECT x.day::date FROM (SELECT trim(name) AS day FROM t) x", "a time of a text"),
    ("SELECT coalesce(at, name::timestamptz) FROM t", "a time of a text"),
    ("SELECT a, row_number() OVER (ORDER BY b) FROM t", "in a window"),
    ("SELECT a, sum(b) OVER w FROM t WINDOW w AS (ORDER BY c)", "in a window"),
    ("SELECT * FROM t ORDER BY a LIMIT 10", "a LIMIT or an OFFSET"),
    ("SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, c", "DISTINCT ON"),
    ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", "RangeTableSample"),
    ("SELECT * FROM generate_series(1, 3) g", "RangeFunction"),
    ("SELECT sum(a::float) FROM t", "floating-point"),
    ("SELECT * FROM (SELECT avg(CAST(a AS double precision)) FROM t) q", "floating-point"),
    ("SELECT sum(a ^ 2) FROM t", "the operator ^"),
    ("SELECT a OPERATOR(own.+) a FROM t", "the operator own.+"),
    ("SELECT a::regclass FROM t", "the type regclass"),
    ("SELECT max(ctid::text) FROM t", "it reads ctid"),
    ("SELECT t.f AS f, (t).g FROM t", "it reads f,"),
    ("SELECT (t).g FROM t", "it reads g,"),
]


@pytest.mark.parametrize("sql", REPEATABLE)
def test_what_is_known_is_repeatable(sql: str) -> None:
    [statement] = parse(sql)
    assert why_not_repeatable(statement, COLUMNS | FLOATS | LOOSE) == ""


@pytest.mark.parametrize(("sql", "why"), NOT_REPEATABLE)
def test_anything_else_is_not(sql: str, why: str) -> None:
    [statement] = parse(sql)
    assert why in why_not_repeatable(statement, COLUMNS | FLOATS | LOOSE)


SUMS = [
    ("SELECT sum(weight) FROM t", False),
    ("SELECT sum(s.w) FROM (SELECT weight * 2 AS w FROM t) s", False),
    ("SELECT avg(s.amount) FROM (SELECT * FROM t) s", False),
    ("SELECT sum(amount) FROM t", True),
    ("SELECT sum((x).weight) FROM t x", False),
    ("SELECT sum((x).amount) FROM t x", False),
    ("SELECT sum((q.x).weight) FROM (SELECT x FROM t AS x) q", False),
    ("SELECT sum(pair[1]) FROM t", False),
    ("SELECT sum(spot <-> spot) FROM t", False),
    ("SELECT sum(price / price) FROM t", False),
    ("SELECT sum(own) FROM t", False),
    ("SELECT weight, amount FROM t WHERE weight > 1", True),
]


@pytest.mark.parametrize(("sql", "is_repeatable"), SUMS)
def test_a_sum_is_not_beside_columns_that_are_floats(sql: str, is_repeatable: bool) -> None:
    [statement] = parse(sql)
    assert (why_not_repeatable(statement, FLOATS) == "") is is_repeatable


FORMS = [
    ("SELECT loose FROM t", True),
    ("SELECT loose FROM t GROUP BY loose", False),
    ("SELECT x, count(*) FROM (SELECT loose AS x FROM t) s GROUP BY x", False),
    ("SELECT place, sum(loose), count(loose), avg(s.loose) FROM s GROUP BY place", True),
    ("SELECT max(loose) FROM t", False),
    ("SELECT DISTINCT loose FROM t", False),
    ("SELECT place, loose FROM t UNION SELECT place, loose FROM u", False),
    ("SELECT place, loose FROM t UNION ALL SELECT place, loose FROM u", True),
    ("SELECT DISTINCT * FROM t", False),
    ("SELECT DISTINCT place FROM t", True),
    ("SELECT DISTINCT either FROM t", False),
    ("SELECT max(loose), place FROM t GROUP BY place", False),
    ("SELECT max((x).loose) FROM t x", False),
    ("SELECT DISTINCT (x).loose FROM t x", False),
    ("SELECT DISTINCT x FROM t x", False),
    ("SELECT DISTINCT (q.y).loose FROM (SELECT x AS y FROM t x) q", False),
    ("SELECT sum(DISTINCT loose) + 0 FROM t", False),
    ("SELECT avg(DISTINCT loose) FROM t", False),
    ("SELECT count(DISTINCT loose), sum(DISTINCT amount) FROM t", True),
    ("SELECT max(x) FROM (SELECT sum(loose) AS x FROM t GROUP BY place) s", False),
    ("SELECT max(sum) FROM (SELECT sum(loose) FROM t GROUP BY place) s", False),
    ("SELECT max(x) FROM (SELECT sum(amount) FROM t GROUP BY place) s (x)", False),
    ("SELECT max(x) FROM (SELECT sum(amount) AS x FROM t GROUP BY place) s", True),
    ("WITH q (z) AS (SELECT loose FROM t) SELECT max(z) FROM q", False),
    ("SELECT avg(a) AS x FROM t GROUP BY place UNION SELECT 1", False),
    ("SELECT place, loose FROM t GROUP BY 1, 2", False),
    ("SELECT place AS x, sum(loose) FROM t GROUP BY GROUPING SETS ((1), ())", True),
    ("SELECT a / 3.0 FROM t GROUP BY 1", False),
    ("SELECT DISTINCT a::numeric FROM t", False),
    ("SELECT DISTINCT loose::numeric(10, 2), loose > 1.5 FROM t", True),
    ("SELECT max(column1) FROM (VALUES (1.0), (1.00)) v", False),
    ("SELECT max(x) FROM (SELECT place AS x FROM t UNION ALL SELECT loose FROM t) s", False),
    ("SELECT max(x) FROM (SELECT place AS x FROM t UNION ALL SELECT c FROM t) s", False),
    ("SELECT max(x) FROM (SELECT place AS x FROM t UNION ALL SELECT a FROM t) s", True),
    ("SELECT c FROM t UNION SELECT amount FROM t", False),
    ("SELECT place, name FROM t UNION SELECT a, 'none' FROM t", True),
    ("SELECT max(coalesce(c, 0)) FROM t", False),
    ("SELECT max(coalesce(a, 0)), max(c), min(coalesce(name, 'none')) FROM t", True),
    ("SELECT CASE WHEN c > 1.5 THEN 'high' END FROM t GROUP BY 1", True),
    ("SELECT CASE WHEN b THEN c END AS a, max(coalesce(a, 0)) FROM t GROUP BY 1", False),
    ("SELECT *, loose FROM t GROUP BY 2", False),
    ("SELECT name COLLATE own.ci FROM t GROUP BY 1", False),
    ("SELECT place, sum(amount) * 1.5 FROM t WHERE amount > 2.5 GROUP BY place", True),
]


@pytest.mark.parametrize(("sql", "is_repeatable"), FORMS)
def test_any_of_several_equal_values_may_be_shown(sql: str, is_repeatable: bool) -> None:
    """1.0 and 1.00 are one group, and the order of the rows decides which of them is shown."""
    [statement] = parse(sql)
    assert (why_not_repeatable(statement, LOOSE) == "") == is_repeatable
