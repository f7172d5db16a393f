"""The text of a column's expression, cut out of the SQL that its file has."""

from __future__ import annotations

import pytest

from loadsheet.lineage.expressions import Expressions

# A select list and what follows; the text of its first column.
CASES = {
    "a AS b FROM t": "a",
    "a b, c FROM t": "a",
    'a "from" FROM t': "a",
    "a AS limit FROM t": "a",
    "t.limit FROM t": "t.limit",
    "a IS DISTINCT FROM b AS c FROM t": "a IS DISTINCT FROM b",
    "a IS NOT DISTINCT FROM b": "a IS NOT DISTINCT FROM b",
    "percentile_cont(0.5) WITHIN GROUP (ORDER BY a) p FROM t": (
        "percentile_cont(0.5) WITHIN GROUP (ORDER BY a)"
    ),
    "extract(year FROM a), 1 FROM t": "extract(year FROM a)",
    "a[1:2], b FROM t": "a[1:2]",
    "a -- why, FROM\n  + /* , */ b AS c FROM t": "a + b",
    "'x, FROM (' || $$ , ( FROM $$ || '' FROM t": "'x, FROM (' || $$ , ( FROM $$ || ''",
    "é || 'ü' AS ö, 1 FROM t": "é || 'ü'",
    ":since_load + 1 AS n FROM t": ":since_load + 1",
    "(SELECT max(a) FROM t) AS m": "(SELECT max(a) FROM t)",
    "sum(a) FILTER (WHERE b) OVER w FROM t WINDOW w AS ()": "sum(a) FILTER (WHERE b) OVER w",
    "a ORDER BY 1": "a",
    "a;": "a",
}


@pytest.mark.parametrize(("sql", "text"), CASES.items())
def test_an_expression_is_shown_as_it_is_written(sql: str, text: str) -> None:
    [found] = Expressions(f"SELECT DISTINCT\n{sql}").of([((), 1)])
    assert (found.text, found.line, found.within) == (text, 2, "")


def test_expressions_within_a_query_are_found_by_its_name() -> None:
    sql = (
        'WITH "W x" AS (SELECT 1 AS a UNION ALL (SELECT b + 1 FROM t ORDER BY b))\n'
        'SELECT q.c FROM (SELECT a * 2 AS c FROM "W x") AS q JOIN (SELECT 3 AS d) r ON true'
    )
    cte = ("cte", "W x")
    passed = [((), 1), ((("from", "q"),), 1), ((cte, ("branch", "0")), 1)]
    found = Expressions(sql).of([*passed, ((cte, ("branch", "1")), 1)])
    texts = [(one.within, one.text) for one in found]
    assert texts == [("", "q.c"), ("q", "a * 2"), ("W x", "1"), ("W x", "b + 1")]


def test_a_star_and_what_is_not_found_have_no_text() -> None:
    expressions = Expressions("SELECT t.*, 1 AS one FROM t")
    assert expressions.of([((), 1), ((), 5), ((("cte", "no"),), 1), ((("subquery", ""),), 1)]) == []
