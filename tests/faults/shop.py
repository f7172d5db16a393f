"""A shop whose six tables travel in every way there is: merged, appended, swapped, changed in
place, merged with deletes, unchanged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.faults.oracle import Verdict, judge, violations
from tests.project import Project

TABLES = {
    "merged": {"incremental": "at"},
    "appended": {"incremental": "at", "max_shrink": 1},  # emptied now and then
    "swapped": None,
    "viewed": None,  # a view in the warehouse hangs on it: the difference is applied in place
    "pruned": {"incremental": "at", "deletes": {"action": "hard", "max_delete": 1}},
    "quiet": None,
}
SOURCE = """
CREATE TABLE merged (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE appended (what text, at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE swapped (id int PRIMARY KEY, what text);
CREATE TABLE viewed (id int PRIMARY KEY, what text);
CREATE TABLE pruned (
    id int PRIMARY KEY, what text, at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE quiet (id int PRIMARY KEY, what text);
CREATE FUNCTION noise(i int) RETURNS text LANGUAGE sql AS
    $$ SELECT md5(i::text || random()) || md5(random()::text) || md5(random()::text) $$;
INSERT INTO merged SELECT i, noise(i) FROM generate_series(1, {merged}) i;
INSERT INTO swapped SELECT i, noise(i) FROM generate_series(1, {swapped}) i;
INSERT INTO viewed SELECT i, noise(i) FROM generate_series(1, {viewed}) i;
INSERT INTO pruned SELECT i, noise(i) FROM generate_series(1, {viewed}) i;
INSERT INTO quiet SELECT i, noise(i) FROM generate_series(1, {viewed}) i;
"""
# Every row of `merged` moves again; the others change a little, which moves all of `swapped` and
# `viewed`.
CHANGE = """
UPDATE merged SET what = noise(id), at = clock_timestamp();
INSERT INTO merged SELECT max(id) + 1, 'new' FROM merged;
INSERT INTO appended SELECT noise(i) FROM generate_series(1, {appended}) i;
UPDATE swapped SET what = noise(id) WHERE id % 1000 = 1;
INSERT INTO swapped SELECT max(id) + 1, 'new' FROM swapped;
DELETE FROM viewed WHERE id = (SELECT min(id) FROM viewed);
UPDATE viewed SET what = noise(id) WHERE id % 10 = 1;
INSERT INTO viewed SELECT max(id) + 1, 'new' FROM viewed;
UPDATE pruned SET what = noise(id), at = clock_timestamp();
INSERT INTO pruned SELECT max(id) + 1, 'new' FROM pruned;
DELETE FROM pruned WHERE id < (SELECT min(id) + 3 FROM pruned);
UPDATE pruned SET id = (SELECT max(id) + 2 FROM pruned) WHERE id = (SELECT min(id) FROM pruned);
"""
TRANSFORMS = {
    "total": (
        "SELECT count(*) AS merged, (SELECT count(*) FROM staging.appended) AS appended FROM"
        " staging.merged"
    ),
    "latest": (
        "SELECT id, what FROM staging.merged WHERE id % 20 = 1 AND _load_id > :since_load",
        {"materialized": "merge", "unique_key": "id"},
    ),
}
_MARTS = """
SELECT (SELECT (merged, appended) FROM mart.total)
     = (SELECT ((SELECT count(*) FROM staging.merged), (SELECT count(*) FROM staging.appended))),
       (SELECT count(*) FROM (
           SELECT id, what FROM staging.merged WHERE id % 20 = 1
           EXCEPT ALL TABLE mart.latest) a),
       (SELECT count(*) FROM (
           TABLE mart.latest
           EXCEPT ALL SELECT id, what FROM staging.merged WHERE id % 20 = 1) b)
"""


def open_shop(project: Project, rows: dict[str, int], **more: object) -> None:
    """Fill the source and load it once, so that the next run is incremental."""
    project.in_source(SOURCE.format(**rows))
    project.spec(TABLES, TRANSFORMS, **more)
    project.succeed()
    project.in_warehouse("CREATE VIEW staging.seen AS SELECT * FROM staging.viewed")


def change(project: Project, rows: dict[str, int]) -> None:
    """Give the next run something to do in each table but `quiet`."""
    project.in_source(CHANGE.format(**rows))


def verdicts(project: Project) -> list[Verdict]:
    """What the oracle says of every table. AssertionError where a mart or the ledger is wrong."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda table: judge(project, table), TABLES))
    assert violations(project) == []
    assert project.in_warehouse(_MARTS) == [(True, 0, 0)]
    return found
