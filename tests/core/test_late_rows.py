"""Views in which a row appears long after its cursor was stamped. What is known to show each row
when it is written is read by increments; all else needs a lookback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from loadsheet.errors import Refused
from loadsheet.source import catalog, origins
from tests.core.expressions import entry, errors_of_plan, names
from tests.faults.oracle import judge
from tests.project import Project

# In each case, {b} has the rows that are read, {s} decides about some of them, {t} is the view.
TABLES = """
CREATE TABLE {b} (id int PRIMARY KEY, at timestamptz DEFAULT now(), kind int DEFAULT 0, name text,
    price numeric DEFAULT 1, tags int[] DEFAULT '{{1,2}}', doc jsonb DEFAULT '{{"a": 1}}',
    gone timestamptz, day date DEFAULT '2026-01-01', is_open bool DEFAULT true);
INSERT INTO {b} (id, at) SELECT n, now() - (5 - n) * interval '1 hour' FROM generate_series(1, 4) n;
CREATE TABLE {s} (id int PRIMARY KEY, parent int, word text);
INSERT INTO {s} SELECT n, n + 1, 'old' FROM generate_series(2, 4) n;
CREATE FUNCTION {f}(int) RETURNS bool STABLE LANGUAGE sql
    AS 'SELECT EXISTS (SELECT FROM public.{s} WHERE id = $1)';
"""
A_VIEW = "CREATE VIEW {t} AS "
ARRIVES = "INSERT INTO {s} VALUES (1, 2, 'late')"
LEAVES = "DELETE FROM {s} WHERE id = 4"
JOINS = "because it joins tables"
QUERY = "because it has a sub-query"
CALLS = "it has a condition that calls {}, which is not immutable"
# The view, what lets an old row appear or change in it, and what the message names.
LATE: dict[str, tuple[str, str, str]] = {
    "a join": ("SELECT b.id, b.at FROM {b} b JOIN {s} s ON s.id = b.id", ARRIVES, JOINS),
    "a join of a list": ("SELECT b.id, b.at FROM {b} b, {s} s WHERE s.id = b.id", ARRIVES, JOINS),
    "a join by using": ("SELECT id, at, word FROM {b} JOIN {s} USING (id)", ARRIVES, JOINS),
    "a lateral join": (
        "SELECT b.id, b.at FROM {b} b CROSS JOIN LATERAL (SELECT FROM {s} WHERE id = b.id) s",
        ARRIVES,
        JOINS,
    ),
    "a left join": (
        "SELECT b.id, b.at, s.word FROM {b} b LEFT JOIN {s} s ON s.id = b.id",
        ARRIVES,
        JOINS,
    ),
    "a right join": ("SELECT b.id, b.at FROM {s} s RIGHT JOIN {b} b ON s.id = b.id", "", JOINS),
    "a full join": (
        "SELECT b.id, b.at, word FROM {b} b FULL JOIN {s} s ON s.id = b.id",
        ARRIVES,
        JOINS,
    ),
    "a join with a query of the row": (
        "SELECT b.id, b.at FROM {b} b, LATERAL (SELECT (SELECT word FROM {s} WHERE id = b.id) w) x"
        " WHERE w <> ''",
        ARRIVES,
        QUERY,
    ),
    "a join with a lateral list": (
        "SELECT b.id, b.at FROM {b} b, LATERAL (SELECT s.id FROM {s} s WHERE s.id = b.id) x",
        ARRIVES,
        JOINS,
    ),
    "a join of two with": (
        "WITH one AS (SELECT id FROM {s}), two AS (TABLE one)"
        " SELECT b.id, b.at FROM {b} b, two WHERE two.id = b.id",
        ARRIVES,
        JOINS,
    ),
    "a join with a with outside": (
        "WITH w AS (SELECT id FROM {s}) SELECT b.id, b.at FROM {b} b,"
        " LATERAL (SELECT id FROM w WHERE w.id = b.id) x",
        ARRIVES,
        JOINS,
    ),
    "a join below": (
        "SELECT * FROM {v}; CREATE OR REPLACE VIEW {v} AS"
        " SELECT b.id, b.at FROM {b} b JOIN {s} s ON s.id = b.id",
        ARRIVES,
        "view public.{v} with an old cursor, because it joins tables",
    ),
    "a join in a branch": (
        "SELECT id, at FROM {b} WHERE id > 2 UNION ALL"
        " SELECT b.id, b.at FROM {b} b JOIN {s} s USING (id) WHERE id <= 2",
        ARRIVES,
        JOINS,
    ),
    "a join in from": (
        "SELECT * FROM (SELECT b.id, b.at FROM {b} b JOIN {s} s USING (id)) inside",
        ARRIVES,
        JOINS,
    ),
    "a join in with": (
        "WITH w AS (SELECT b.id, b.at FROM {b} b JOIN {s} s USING (id)) TABLE w",
        ARRIVES,
        JOINS,
    ),
    "distinct on": (
        "SELECT DISTINCT ON (kind) id, at FROM {b} ORDER BY kind, id DESC",
        "DELETE FROM {b} WHERE id = 4",
        "because it has DISTINCT ON",
    ),
    "exists": (
        "SELECT id, at FROM {b} b WHERE EXISTS (SELECT FROM {s} s WHERE s.id = b.id)",
        ARRIVES,
        QUERY,
    ),
    "not exists": (
        "SELECT id, at FROM {b} b WHERE NOT EXISTS (SELECT FROM {s} s WHERE s.id = 5 - b.id)",
        LEAVES,
        QUERY,
    ),
    "in": ("SELECT id, at FROM {b} WHERE id IN (SELECT id FROM {s})", ARRIVES, QUERY),
    "not in": ("SELECT id, at FROM {b} WHERE 5 - id NOT IN (SELECT id FROM {s})", LEAVES, QUERY),
    "a value of another row": (
        "SELECT id, at, (SELECT word FROM {s} s WHERE s.id = b.id) FROM {b} b",
        ARRIVES,
        QUERY,
    ),
    "a highest value": (
        "SELECT id, at FROM {b} WHERE id > (SELECT min(id) FROM {s})",
        "INSERT INTO {s} VALUES (0)",
        QUERY,
    ),
    "a window": (
        "SELECT id, at FROM (SELECT *, row_number() OVER (PARTITION BY kind ORDER BY id DESC) n"
        " FROM {b}) ranked WHERE n = 1",
        "DELETE FROM {b} WHERE id = 4",
        "because it has a window function",
    ),
    "a window's value": (
        "SELECT id, at, lag(id) OVER (ORDER BY id) AS before FROM {b}",
        "DELETE FROM {b} WHERE id = 2",
        "because it has a window function",
    ),
    "groups": (
        "SELECT min(id) AS id, at, count(*) AS n FROM {b} GROUP BY at",
        "INSERT INTO {b} SELECT 9, at FROM {b} WHERE id = 1",
        "because it aggregates rows",
    ),
    "groups alone": ("SELECT id, at FROM {b} GROUP BY id, at", "", "because it has GROUP BY"),
    "a limit": (
        "SELECT id, at FROM {b} ORDER BY id DESC LIMIT 2",
        "DELETE FROM {b} WHERE id = 4",
        "because it has LIMIT",
    ),
    "a limit with ties": (
        "SELECT id, at FROM {b} ORDER BY id DESC FETCH FIRST 2 ROWS WITH TIES",
        "DELETE FROM {b} WHERE id = 4",
        "because it has LIMIT",
    ),
    "an offset": (
        "SELECT id, at FROM {b} ORDER BY id OFFSET 1",
        "INSERT INTO {b} VALUES (0)",
        "because it has OFFSET",
    ),
    "except": (
        "SELECT id, at FROM {b} EXCEPT SELECT b.id, at FROM {s} s, {b} b WHERE s.id = 5 - b.id",
        LEAVES,
        "because it has EXCEPT or INTERSECT",
    ),
    "intersect": (
        "SELECT id, at FROM {b} INTERSECT ALL (SELECT id, at FROM {b} WHERE {f}(id))",
        ARRIVES,
        "because it has EXCEPT or INTERSECT",
    ),
    "except in a union": (
        "SELECT id, at FROM {b} WHERE id > 3 UNION ALL (SELECT id, at FROM {b} WHERE id <= 3"
        " EXCEPT SELECT id, at FROM {b} WHERE NOT {f}(id))",
        ARRIVES,
        "because it has EXCEPT or INTERSECT",
    ),
    "a function": ("SELECT id, at FROM {b} WHERE {f}(id)", ARRIVES, CALLS.format("public.{f}")),
    "a function in from": (
        "SELECT id, at FROM {b}, {f}(id) shown WHERE shown",
        ARRIVES,
        "it has an entry of FROM that calls public.{f}, which is not immutable",
    ),
    "a function in on": (
        "SELECT b.id, b.at FROM {b} b JOIN generate_series(1, 1) ON {f}(b.id)",
        ARRIVES,
        CALLS.format("public.{f}"),
    ),
    "a function in a column": (
        "SELECT id, at FROM (SELECT *, {f}(id) AS shown FROM {b}) b WHERE shown",
        ARRIVES,
        "it has a column whose expression calls public.{f}",
    ),
    "a function in a column below": (
        "SELECT id, at FROM {v} WHERE shown; CREATE OR REPLACE VIEW {v} AS"
        " SELECT id, at, {f}(id) AS shown FROM {b}",
        ARRIVES,
        "view public.{v} with an old cursor, because it has a column whose expression calls",
    ),
    "recursion": (
        "WITH RECURSIVE r AS (SELECT id, at FROM {b} WHERE id = 4 UNION ALL SELECT b.id, b.at"
        " FROM r, {s} s, {b} b WHERE s.parent = r.id AND b.id = s.id) TABLE r",
        ARRIVES,
        "because it is recursive (WITH RECURSIVE)",
    ),
}
# Those that need no history: what they show depends on the time, on chance, or on the session.
UNSTABLE = {
    "a sample": ("SELECT id, at FROM {b} TABLESAMPLE bernoulli (50)", "TABLESAMPLE"),
    "chance": ("SELECT id, at FROM {b} WHERE random() < 0.5", CALLS.format("random")),
    "a setting": (
        "SELECT id, at FROM {b} WHERE name = current_setting('application_name')",
        CALLS.format("current_setting"),
    ),
    "a role": (
        "SELECT id, at FROM {b} WHERE name = current_user",
        "asks for a name of the session",
    ),
    "a name of the catalogs": (
        "SELECT id, at FROM {b} WHERE to_regclass(name) IS NOT NULL",
        CALLS.format("to_regclass"),
    ),
    "an age": ("SELECT id, at FROM {b} WHERE age(at) < '1 year'", CALLS.format("age")),
    "a system column": ("SELECT id, at FROM {b} WHERE ctid > '(0,1)'", "uses a system column"),
    "a row of two": (
        "SELECT id, at FROM {b} WHERE (id, kind) < (2, 3)",
        "is not known (ROWCOMPARE",
    ),
    "xml": (
        "SELECT b.id, at FROM {b} b,"
        " XMLTABLE('/a' PASSING CAST(name AS xml) COLUMNS x int PATH '.') x",
        "it has an entry of FROM that is not known",
    ),
}
# A row is shown once its time has come.
TIMED = {
    "now": ("SELECT id, at FROM {b} WHERE gone < now()", CALLS.format("now")),
    "the time of the standard": (
        "SELECT id, at FROM {b} WHERE gone < CURRENT_TIMESTAMP",
        "asks for the time",
    ),
    "the clock": (
        "SELECT id, at FROM {b} WHERE gone < clock_timestamp()",
        CALLS.format("clock_timestamp"),
    ),
    "a text": (
        "SELECT id, at FROM {b} WHERE gone < ('now'::text)::timestamptz",
        "reads a value from a text",
    ),
    "a column": (
        "SELECT id, at FROM (SELECT *, gone < statement_timestamp() AS is_out FROM {b}) b"
        " WHERE is_out",
        "it has a column whose expression calls statement_timestamp",
    ),
}
KNOWN = {
    "columns": "SELECT * FROM {b}",
    "a condition": "SELECT id, at FROM {b} WHERE (price > 0.5 OR name IN ('a', 'b')) AND NOT"
    " gone IS NOT NULL AND is_open IS TRUE AND kind BETWEEN 0 AND 9 AND coalesce(name, '') LIKE '%'"
    " AND CASE WHEN kind = 0 THEN true ELSE price > 1 END AND name IS DISTINCT FROM 'z'"
    " AND doc->>'a' = '1' AND tags[1] = 1 AND id::text <> '' AND nullif(kind, 9) = 0"
    " AND greatest(kind, 1) > 0 AND kind = ANY (ARRAY[0, 1]) AND day = ANY ('{{2026-01-01}}')",
    "times": "SELECT id, at FROM {b} WHERE at > '2020-01-01' AND at > DATE '2020-01-01' AND"
    " at::date > '2020-01-01' AND date_trunc('day', at) > '2020-01-01' AND day < '2027-01-01'::date"
    " AND extract(year FROM at) > 2000 AND to_char(at, 'YYYY') > '2000'"
    " AND at + interval '1 day' > day",
    "a text of a row": "SELECT id, at FROM {b} WHERE concat(id, name) <> '' AND"
    " jsonb_build_object('a', id) <> '{{}}' AND lower(name) COLLATE \"C\" IS NULL",
    "all rows in order": "SELECT id, at FROM {b} ORDER BY id LIMIT ALL OFFSET 0",
    "distinct": "SELECT DISTINCT id, at, kind FROM {b}",
    "a union": "SELECT id, at FROM {b} WHERE kind = 0 UNION SELECT -id, at FROM {b} UNION ALL"
    " SELECT id + 1000, at FROM {b}",
    "views": "SELECT id, at FROM {v} WHERE id > 0; CREATE OR REPLACE VIEW {v} AS"
    " SELECT *, to_char(at, 'DD') AS d, name || 'x' AS n FROM {b} WHERE kind = 0",
    "queries": "WITH w AS (SELECT * FROM {b} WHERE kind = 0), x AS (TABLE w)"
    " SELECT id, at FROM (SELECT *, price * 2 AS p FROM x OFFSET 0) inside WHERE p > 1",
    "elements": "SELECT b.id * 10 + tag AS id, at, x.value FROM {b} b, unnest(tags) tag"
    " CROSS JOIN LATERAL jsonb_each_text(doc) x WHERE tag > 0",
    "elements of a left join": "SELECT b.id * 10 + coalesce(n, 0) AS id, at FROM {b} b"
    " LEFT JOIN generate_series(1, 2) n ON n <= b.kind",
    "elements of a select": "SELECT id * 10 + unnest(tags) AS id, at FROM {b}",
    "constants": "WITH most AS (SELECT 9 AS kind) SELECT b.id, at, currency FROM {b} b"
    " CROSS JOIN (SELECT 'EUR' AS currency) c, most WHERE b.kind < most.kind",
    "a list of constants": "SELECT id * 10 + n AS id, at FROM {b}, (VALUES (1), (2)) v(n)",
    "a query of the row": "SELECT id * 10 + tag AS id, at, total FROM {b} b,"
    " LATERAL (SELECT b.price * 2 AS total) x, LATERAL (SELECT unnest(b.tags) AS tag) y"
    " WHERE total > 0",
    "texts of values": "SELECT id, at FROM {v} WHERE code || kind <> ''; CREATE OR REPLACE VIEW {v}"
    " AS SELECT *, 'ORD-' || id AS code, id || '-' || at AS mark, quote_literal(id) AS q,"
    " encode(sha256(convert_to(coalesce(name, ''), 'UTF8')), 'hex') AS h FROM {b}",
    "json of values": "SELECT id, at FROM {v}; CREATE OR REPLACE VIEW {v} AS SELECT *,"
    " jsonb_build_array(id, at) AS a, json_build_array(id) AS b, array_to_json(tags) AS c,"
    " row_to_json({b}, true) AS d, json_build_object() AS e FROM {b}",
    "times of times": "SELECT b.id, at FROM {b} b, generate_series(at, at, '1 day') t"
    " WHERE t > make_timestamptz(2020, 1, 1, 0, 0, 0)",
    "a domain": "SELECT id, at FROM {v}; CREATE DOMAIN {f} AS int CHECK (VALUE >= 0);"
    " CREATE OR REPLACE VIEW {v} AS SELECT *, kind::{f} AS k FROM {b}",
    "a deep condition": "SELECT id, at FROM {b} WHERE " + " + ".join(["price"] * 400) + " > 0",
}
WRITES = (
    "INSERT INTO {b} (id) VALUES (5), (6)",
    "UPDATE {b} SET at = now(), kind = 1 WHERE id = 2",
    "INSERT INTO {b} (id, name) VALUES (7, 'a')",
    "UPDATE {b} SET at = now(), kind = 0, price = 3 WHERE id IN (2, 5)",
)


def fill(text: str, name: str) -> str:
    return text.format(**{part: f"{name}_{part}" for part in "bstvf"})


def create(project: Project, forms: dict[str, str]) -> dict[str, str]:
    """Make the tables and the view of each form; returns the name of each."""
    for case, name in names(forms).items():
        view, _, below = forms[case].partition("; ")
        project.in_source(fill("; ".join([TABLES, below, A_VIEW + view]), name))
    # A function in a view reads as the role that asks.
    project.in_source(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {project.extractor}")
    return names(forms)


def views(cases: dict[str, tuple[Any, ...]]) -> dict[str, str]:
    return {case: parts[0] for case, parts in cases.items()}


def read_all(project: Project, tables: Iterable[str], **more: Any) -> None:
    project.spec({f"{name}_t": entry(nulls="exclude", **more) for name in tables})


def trust_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as if every view showed each row when it is written."""
    walk = catalog.walk
    monkeypatch.setattr(
        catalog, "walk", lambda *args: replace(walk(*args), why_late="", why_untrusted="")
    )
    monkeypatch.setattr(origins, "refuse_shifted", lambda *_: None)


def lost(project: Project, tables: dict[str, str]) -> dict[str, int]:
    """How many rows of each case's view the target does not have."""
    found = {
        case: judge(project, f"{name}_t", where="at IS NOT NULL").lost
        for case, name in tables.items()
    }
    return {case: count for case, count in found.items() if count}


def test_a_view_in_which_rows_may_appear_late_needs_a_lookback(project: Project) -> None:
    cases = {**LATE, **UNSTABLE, **TIMED}
    tables = create(project, views(cases))
    read_all(project, tables.values())
    results = project.run()
    planned = errors_of_plan(project)
    wrong = {}
    for case, name in tables.items():
        step = f"extract.extract_{name}_t"
        found = results[step].result
        said = fill(cases[case][-1], name)
        is_known = isinstance(found, Refused) and said in str(found)
        if not (is_known and str(found).endswith(planned.get(step, "nothing"))):
            wrong[case] = (found, planned.get(step))
        assert "(or accept an overlap by setting incremental.lookback)" in str(found)
        assert f"view public.{name}_" in str(found)
    assert wrong == {}


def histories(project: Project, tables: dict[str, str]) -> None:
    """Two runs, and in between what lets old rows appear."""
    assert project.run() is not None
    changes = (fill(LATE[case][1] or "SELECT", name) for case, name in tables.items())
    project.in_source("; ".join(changes))
    project.run()


SILENT = {case for case, (_, history, _) in LATE.items() if not history}
"""Refused all the same: their rows are not known to appear when they are written."""


def test_a_refused_interval_of_a_table_with_a_lookback_is_not_told_to_set_one(
    project: Project,
) -> None:
    project.in_source(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz); INSERT INTO t VALUES (1, now());"
        "CREATE VIEW v AS SELECT * FROM t WHERE random() >= 0"
    )
    project.spec({"v": {"primary_key": ["id"], "incremental": {"cursor": "at", "lookback": "1h"}}})
    day = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2026-01-02T00:00:00Z"}
    found = project.run(**day, explicit_interval=True)["extract.extract_v"].result
    assert isinstance(found, Refused)
    assert "(or run without an interval: incremental.lookback makes up for it there)" in str(found)
    project.succeed()


def test_with_a_lookback_no_row_is_missed(project: Project) -> None:
    tables = create(project, views(LATE))
    read_all(project, tables.values(), lookback="2d")
    histories(project, tables)
    assert lost(project, tables) == {}


def test_a_reader_that_trusts_every_view_loses_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    trust_all(monkeypatch)
    tables = create(project, views(LATE))
    read_all(project, tables.values())
    histories(project, tables)
    assert set(lost(project, tables)) == set(LATE) - SILENT


@pytest.mark.parametrize("looks", [True, False])
def test_rows_that_appear_as_time_passes_need_a_lookback(
    project: Project, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """Of the reader that does not look, as the negative control."""
    tables = create(project, views(TIMED))
    if looks:
        read_all(project, tables.values(), lookback="2d")
    else:
        trust_all(monkeypatch)
        read_all(project, tables.values())
    for name in tables.values():
        project.in_source(
            f"UPDATE {name}_b SET gone = clock_timestamp() + interval '12 s' WHERE id < 4;"
            f"UPDATE {name}_b SET gone = '2020-01-01' WHERE id = 4"
        )
    project.succeed()
    for name in tables.values():
        project.in_source(
            "SELECT pg_sleep(extract(epoch FROM max(gone) - clock_timestamp()) + 0.1)"
            f" FROM {name}_b"
        )
    project.run()
    assert set(lost(project, tables)) == (set() if looks else set(TIMED))


def test_a_view_of_a_row_and_its_own_columns_is_read(project: Project) -> None:
    tables = create(project, KNOWN)
    read_all(project, tables.values())
    assert errors_of_plan(project) == {}
    project.succeed()
    for write in WRITES:
        project.in_source("; ".join(fill(write, name) for name in tables.values()))
        project.succeed()
    # What a row no longer shows stays, as a row that was deleted does.
    assert lost(project, tables) == {}


def test_intervals_of_a_view_whose_rows_appear_late_are_refused(project: Project) -> None:
    """A lookback means nothing to them, and makes up for nothing."""
    (name,) = create(project, {"a join": LATE["a join"][0]}).values()
    project.spec({f"{name}_t": entry(by="data_interval", lookback="2h")}, schedule="@daily")
    times = {"interval_start": "2026-01-01T00:00:00Z", "interval_end": "2026-01-02T00:00:00Z"}
    found = project.run(**times)[f"extract.extract_{name}_t"].result
    assert isinstance(found, Refused) and "by: watermark, with an overlap" in str(found)


def test_open_transactions_still_hold_a_view_with_a_lookback_back(project: Project) -> None:
    (name,) = create(project, {"a join": LATE["a join"][0]}).values()
    read_all(project, [name], lookback="1m")
    # `loadsheet grants` prints it for tables without a lookback.
    project.in_source(f"GRANT pg_read_all_stats TO {project.extractor}")
    project.succeed()
    with psycopg.connect(project.source) as late:
        late.execute(f"INSERT INTO {name}_b (id, at) VALUES (10, now() - interval '1 hour')")
        project.in_source(f"UPDATE {name}_b SET at = now() WHERE id = 4")
        result = project.run()[f"extract.extract_{name}_t"].result
    assert "held back" in str(result) or "open" in str(result)


def test_add_proposes_no_cursor_for_a_view_whose_rows_appear_late(project: Project) -> None:
    forms = {"a join": LATE["a join"][0], "a table": "SELECT id, at AS updated_at, name FROM {b}"}
    forms["a join"] = forms["a join"].replace("b.at", "b.at AS updated_at")
    tables = create(project, forms)
    project.spec({"unused": None})
    added = project.cli("add", "shop", *(f"{name}_t" for name in tables.values()))
    assert added.returncode == 0, added.stdout + added.stderr
    said = " ".join(added.stdout.split())
    assert "a row may appear in view public.a_join_t with an old cursor" in said
