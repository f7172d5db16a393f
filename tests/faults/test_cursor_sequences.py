"""Numbers from sequences as cursors: blocks, steps, cycles and shared sequences are refused."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from loadsheet.errors import Refused
from tests.faults.cursors import refused
from tests.faults.oracle import judge, violations
from tests.faults.tally import Tally
from tests.project import Project

Tallies = Callable[[str], Tally]


def test_numbers_that_sessions_take_in_blocks_are_refused_as_a_cursor(
    project: Project, tally: Tallies
) -> None:
    project.in_source("CREATE SEQUENCE number CACHE 20")
    project.in_source(
        "CREATE TABLE item (id bigint PRIMARY KEY DEFAULT nextval('number'), what text)"
    )
    project.spec({"item": {"incremental": "id"}})
    with (
        psycopg.connect(project.source, autocommit=True) as one,
        psycopg.connect(project.source, autocommit=True) as other,
    ):
        one.execute("INSERT INTO item DEFAULT VALUES")
        other.execute("INSERT INTO item DEFAULT VALUES")
        # The control: an overlap smaller than a block.
        refused(project, "ALTER SEQUENCE public.number CACHE 1;", {"cursor": "id", "lookback": 1})
        one.execute("INSERT INTO item DEFAULT VALUES")
        project.succeed()
        line = tally("numbers taken in blocks of 20")
        line.control(f"lost {judge(project, 'item').lost} of 3 rows")
        assert judge(project, "item").lost == 1
        project.spec({"item": {"incremental": {"cursor": "id", "lookback": 40}}})
        one.execute("INSERT INTO item DEFAULT VALUES")
        project.succeed(full_refresh="all")
        one.execute("INSERT INTO item DEFAULT VALUES")
        project.succeed()
        line.add(judge(project, "item"))
    project.in_source("ALTER SEQUENCE number CACHE 1")
    project.spec({"item": {"incremental": "id"}})
    project.in_source("INSERT INTO item DEFAULT VALUES")
    project.succeed()
    assert not judge(project, "item") and violations(project) == []


OUT_OF_ORDER = {
    "steps": (
        "CREATE SEQUENCE s INCREMENT BY 50; CREATE TABLE item (id bigint DEFAULT nextval('s'))",
        "sequence public.s counts in steps of 50",
    ),
    "an identity in steps": (
        "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT BY 2))",
        "sequence public.item_id_seq counts in steps of 2",
    ),
    "descending": (
        "CREATE SEQUENCE s INCREMENT BY -1; CREATE TABLE item (id bigint DEFAULT nextval('s'))",
        "sequence public.s counts down",
    ),
    "beginning again": (
        "CREATE SEQUENCE s MAXVALUE 9 CYCLE; CREATE TABLE item (id bigint DEFAULT nextval('s'))",
        "ALTER SEQUENCE public.s NO CYCLE;",
    ),
    "shared": (
        "CREATE SEQUENCE s; CREATE TABLE item (id bigint DEFAULT nextval('s'));"
        "CREATE TABLE more (id bigint DEFAULT nextval('s'))",
        "sequence public.s also gives numbers to public.more",
    ),
    "a partition's own blocks": (
        "CREATE TABLE item (id bigint, k int) PARTITION BY LIST (k); CREATE SEQUENCE s CACHE 9;"
        "CREATE TABLE part PARTITION OF item DEFAULT;"
        "ALTER TABLE part ALTER id SET DEFAULT nextval('s')",
        "ALTER SEQUENCE public.s CACHE 1;",
    ),
    "a sequence for each partition": (
        "CREATE TABLE item (id bigint, k int) PARTITION BY LIST (k);"
        "CREATE SEQUENCE s; CREATE SEQUENCE t;"
        "CREATE TABLE one PARTITION OF item FOR VALUES IN (1);"
        "CREATE TABLE two PARTITION OF item FOR VALUES IN (2);"
        "ALTER TABLE one ALTER id SET DEFAULT nextval('s');"
        "ALTER TABLE two ALTER id SET DEFAULT nextval('t')",
        "its numbers come from several sequences (public.s, public.t)",
    ),
}


OUT_OF_ORDER["a view of blocks"] = (
    "CREATE TABLE base (id bigint GENERATED ALWAYS AS IDENTITY (CACHE 20));"
    "CREATE VIEW item AS SELECT id FROM base",
    "sequence public.base_id_seq in blocks of 20",
)
OUT_OF_ORDER["a view of two tables"] = (
    "CREATE TABLE one (id bigserial); CREATE TABLE two (id bigserial);"
    "CREATE VIEW item AS TABLE one UNION ALL TABLE two",
    "its numbers come from several sequences",
)
OUT_OF_ORDER["an unlogged table"] = (
    "CREATE UNLOGGED TABLE item (id bigserial)",
    "sequence public.item_id_seq is unlogged",
)


@pytest.mark.parametrize("create, why", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_numbers_that_need_not_rise_with_the_rows_are_refused_as_a_cursor(
    project: Project, create: str, why: str
) -> None:
    project.in_source(create)
    project.spec({"item": {"incremental": "id", "primary_key": "id"}})
    error = project.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and why in str(error)
    project.spec({"item": {"incremental": {"cursor": "id", "lookback": 99}, "primary_key": "id"}})
    if "counts down" in why:  # what comes is always below, by more than any lookback
        assert isinstance(project.run()["extract.extract_item"].result, Refused)
    else:
        project.succeed()


IN_ORDER = {
    "copied defaults": (
        "CREATE TABLE item (id bigserial); CREATE TABLE copy (LIKE item INCLUDING ALL)"
    ),
    "a detached partition": (
        "CREATE TABLE item (id bigserial, k int) PARTITION BY LIST (k);"
        "CREATE TABLE part PARTITION OF item DEFAULT; ALTER TABLE item DETACH PARTITION part"
    ),
    "a view of one table": (
        "CREATE TABLE base (id bigserial, n bigserial); CREATE VIEW item AS SELECT id FROM base"
    ),
    "serial": "CREATE TABLE item (id bigserial)",
    "identity": "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY)",
    "a shared default of partitions": (
        "CREATE TABLE item (id bigserial, k int) PARTITION BY LIST (k);"
        "CREATE TABLE part PARTITION OF item DEFAULT"
    ),
    "another column of blocks": (
        "CREATE SEQUENCE s CACHE 9; CREATE TABLE item (id bigserial, n int DEFAULT nextval('s'))"
    ),
}


@pytest.mark.parametrize("create", IN_ORDER.values(), ids=IN_ORDER)
def test_numbers_that_are_drawn_one_by_one_are_a_cursor(project: Project, create: str) -> None:
    project.in_source(create)
    project.spec({"item": {"incremental": "id", "primary_key": "id"}})
    project.succeed()
