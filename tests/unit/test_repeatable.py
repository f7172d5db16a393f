"""Which SELECTs must return the same rows each time, so that a difference of their mart is one."""

from __future__ import annotations

import pytest

from loadsheet.sql.parsing import parse
from loadsheet.verify.repeatable import why_not_repeatable

REPEATABLE = [
    "SELECT id, lower(name) AS name FROM staging.t WHERE _load_id > :since_load",
    "SELECT DISTINCT a, count(*) FILTER (WHERE b) n, sum(c) FROM t GROUP BY a HAVING count(*) > 1",
    "WITH x AS (SELECT * FROM t) SELECT x.*, CASE WHEN a THEN 1 ELSE 2 END, coalesce(b, 'none')"
    " FROM x LEFT JOIN u USING (id) UNION ALL SELECT * FROM v ORDER BY 1",
    "SELECT extract(year FROM at), date_trunc('day', at AT TIME ZONE 'UTC'), at::date, trim(name)"
    " FROM t WHERE EXISTS (SELECT FROM u WHERE u.id = t.id) AND name LIKE 'a%'",
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
    ("SELECT a, row_number() OVER (ORDER BY b) FROM t", "in a window"),
    ("SELECT a, sum(b) OVER w FROM t WINDOW w AS (ORDER BY c)", "in a window"),
    ("SELECT * FROM t ORDER BY a LIMIT 10", "a LIMIT or an OFFSET"),
    ("SELECT DISTINCT ON (a) a, b FROM t ORDER BY a, c", "DISTINCT ON"),
    ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", "RangeTableSample"),
    ("SELECT * FROM generate_series(1, 3) g", "RangeFunction"),
    ("SELECT sum(a::float) FROM t", "floating-point"),
    ("SELECT * FROM (SELECT avg(CAST(a AS double precision)) FROM t) q", "floating-point"),
]


@pytest.mark.parametrize("sql", REPEATABLE)
def test_what_is_known_is_repeatable(sql: str) -> None:
    [statement] = parse(sql)
    assert why_not_repeatable(statement, {"weight"}, {"loose", "weight"}) == ""


@pytest.mark.parametrize(("sql", "why"), NOT_REPEATABLE)
def test_anything_else_is_not(sql: str, why: str) -> None:
    [statement] = parse(sql)
    assert why in why_not_repeatable(statement, {"weight"}, {"loose", "weight"})


SUMS = [
    ("SELECT sum(weight) FROM t", False),
    ("SELECT sum(s.w) FROM (SELECT weight * 2 AS w FROM t) s", False),
    ("SELECT avg(s.amount) FROM (SELECT * FROM t) s", False),
    ("SELECT sum(amount) FROM t", True),
    ("SELECT max(weight), amount FROM t GROUP BY amount", True),
]


@pytest.mark.parametrize(("sql", "is_repeatable"), SUMS)
def test_a_sum_is_not_beside_columns_that_are_floats(sql: str, is_repeatable: bool) -> None:
    [statement] = parse(sql)
    assert (why_not_repeatable(statement, {"weight"}, ()) == "") is is_repeatable


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
]


@pytest.mark.parametrize(("sql", "is_repeatable"), FORMS)
def test_any_of_several_equal_values_may_be_shown(sql: str, is_repeatable: bool) -> None:
    """1.0 and 1.00 are one group, and the order of the rows decides which of them is shown."""
    [statement] = parse(sql)
    assert (why_not_repeatable(statement, (), {"loose"}) == "") == is_repeatable
