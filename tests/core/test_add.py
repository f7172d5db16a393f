"""`loadsheet add` and `loadsheet new`: from what a real source's catalogs say to a pipeline that
runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import yaml

from tests.project import Project, fetch

SOURCE = """
CREATE TABLE orders (order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text,
                     api_token text,
                     created_at timestamptz, updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON orders (updated_at);
CREATE TABLE customers (email text NOT NULL UNIQUE, nick text UNIQUE, password_hash text,
                        tokens_used int, "updatedAt" timestamp);
CREATE TABLE countries (code char(2) PRIMARY KEY, name text);
CREATE TABLE page_events (id bigserial PRIMARY KEY, at timestamptz);
CREATE TABLE invoices (id serial PRIMARY KEY, total numeric);
CREATE TABLE stock (item int, modified_at timestamptz NOT NULL);
CREATE TABLE cards (serial uuid, card_number text, PRIMARY KEY (serial, card_number));
CREATE TABLE payments (id bigint, day date, modified_on timestamptz NOT NULL, PRIMARY KEY (id, day))
    PARTITION BY RANGE (day);
CREATE TABLE payments_2026 PARTITION OF payments FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE "no" (id int PRIMARY KEY);
CREATE VIEW recent AS SELECT * FROM orders;
INSERT INTO orders (note) SELECT 'note ' || i FROM generate_series(1, 20) i;
INSERT INTO customers SELECT i || '@x.example' FROM generate_series(1, 20) i;
INSERT INTO countries VALUES ('no', 'Norway');
INSERT INTO payments SELECT i, '2026-01-01', now() FROM generate_series(1, 20) i;
INSERT INTO page_events (at) SELECT now() FROM generate_series(1, 20) i;
"""
BEGUN = """\
# The shop
version: 1
source: {conn_id: shop_source}      # its replica would do
lake: {conn_id: lake, bucket: BUCKET}
warehouse: {conn_id: warehouse}

tables:
    countries:      # the first
    # stock: not before it has a key

tasks:   {retries: 0}   # while it is new
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A project whose pipeline carries one of the source's tables. Its role may read all of them,
    also those to come, as `loadsheet new` asks for."""
    project.in_source(
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {project.extractor}"
    )
    project.in_source(SOURCE)
    home = project.folder / "pipelines" / "shop"
    home.mkdir(parents=True)
    (home / "pipeline.yml").write_text(BEGUN.replace("BUCKET", project.bucket))
    return project


def spec(project: Project) -> Path:
    return project.folder / "pipelines" / "shop" / "pipeline.yml"


def tables(project: Project) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(spec(project).read_text())["tables"]
    return found


def reader(project: Project, *grants: str) -> str:
    """Connect the project as a role with only `grants`; the role's name."""
    url = urlsplit(project.source)
    role = f"reader_{url.path[1:]}"
    project.in_source(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    for grant in grants:
        project.in_source(f"GRANT {grant} TO {role}")
    project.source = f"postgresql://{role}:x@{url.hostname}:{url.port}{url.path}"
    return role


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2 and "Traceback" not in result.stderr, (
        result.stdout + result.stderr
    )
    assert "nothing was written" in result.stderr
    return result.stderr


def test_every_table_gets_the_entry_its_catalog_suggests_and_the_pipeline_runs(
    shop: Project,
) -> None:
    before = spec(shop).read_text()
    added = shop.cli("add", "shop", "*")
    assert added.returncode == 0, added.stderr
    assert tables(shop) == {
        "countries": None,
        "cards": None,
        "customers": {
            "primary_key": "email",
            "incremental": {"cursor": "updatedAt", "nulls": "include"},
            "columns": {"exclude": ["password_hash"]},
        },
        "invoices": None,
        "no": None,
        "orders": {"incremental": "updated_at", "columns": {"exclude": ["api_token"]}},
        "page_events": {"incremental": "id", "mode": "append"},
        "payments": {"incremental": "modified_on"},
        "stock": None,
    }
    for text in (
        "merge: updated_at is timestamptz, not null, indexed",
        "key: email is unique and never NULL, though not declared as the primary key",
        "left out, because their names suggest secrets: password_hash",
        (
            "append: id is drawn from a sequence, not null, indexed; a log by its name, and no row"
            " was ever changed"
        ),
        (
            "replace: no column shows updates; if rows are never updated: {incremental: id, mode:"
            " append}"
        ),
        "replace: no key to merge by; with one, modified_at shows what changed",
        "already there: countries",
        "left out: payments_2026 (part of payments, which has its rows)",
        "left out: recent (a view; name it to add it)",
    ):
        assert text in added.stdout, added.stdout
    after = spec(shop).read_text()
    assert [line for line in after.splitlines(True) if line in before] == before.splitlines(True)
    assert "    # stock: not before it has a key\n    cards:\n" in after
    shop.succeed()
    assert shop.differences("payments") == shop.differences("page_events") == 0


def test_a_dry_run_shows_the_diff_that_patch_applies_and_writes_nothing(shop: Project) -> None:
    before = spec(shop).read_bytes()
    dry = shop.cli("add", "shop", "orders", "--dry-run")
    assert dry.returncode == 0 and spec(shop).read_bytes() == before
    assert "shop: 1 table would be added" in dry.stdout
    assert sorted(path.name for path in spec(shop).parent.iterdir()) == ["pipeline.yml"]
    copy = shop.folder / "copy.yml"
    copy.write_bytes(before)
    diff = dry.stdout[dry.stdout.index("--- a/") :]
    assert [line for line in diff.splitlines() if line[:1] == "+"][1:] == [
        "+    orders: {incremental: updated_at, columns: {exclude: [api_token]}}"
    ]
    assert not [line for line in diff.splitlines()[1:] if line[:1] == "-"]
    shop.cli("add", "shop", "orders")
    document = json.loads(shop.cli("add", "shop", "orders", "invoices", "--json").stdout)
    assert document["written"] and document["already_there"] == ["orders"]
    assert [table["table"] for table in document["added"]] == ["invoices"]
    assert list(tables(shop)) == ["countries", "orders", "invoices"]


def test_nothing_is_written_when_any_name_is_wrong(shop: Project) -> None:
    before = spec(shop).read_bytes()
    said = refused(shop.cli("add", "shop", "orders", "invoice", "sales.orders", "*x*"))
    assert "no table 'invoice' (did you mean 'invoices'?)" in said
    assert (
        "source.schema is public, and tables of another schema need a pipeline of their own" in said
    )
    assert "no table in schema 'public' matches '*x*'; it has cards, countries" in said
    assert spec(shop).read_bytes() == before


def test_a_broken_file_is_reported_and_left_alone(shop: Project) -> None:
    spec(shop).write_text(spec(shop).read_text().replace("version: 1", "version: 2"))
    before = spec(shop).read_bytes()
    result = shop.cli("add", "shop", "orders")
    assert result.returncode == 2 and "pipeline.yml:2:10" in result.stderr
    assert spec(shop).read_bytes() == before


def test_a_pattern_means_tables_and_a_name_whatever_has_it(shop: Project) -> None:
    assert shop.cli("add", "shop", "public.pay*", "recent", "payments_2026").returncode == 0
    assert list(tables(shop)) == ["countries", "payments", "recent", "payments_2026"]


def test_what_the_role_may_not_read_comes_with_the_grant_to_run(shop: Project) -> None:
    role = reader(shop, "SELECT ON orders", "USAGE ON SCHEMA public")
    said = refused(shop.cli("add", "shop", "orders", "invoices"))
    assert (
        f"this role may not read public.invoices: GRANT SELECT ON public.invoices TO {role};"
        in said
    )
    added = shop.cli("add", "shop", "*")
    assert added.returncode == 0 and list(tables(shop)) == ["countries", "orders"]
    assert f"GRANT SELECT ON public.invoices TO {role};" in added.stdout
    assert (
        f"before increments can be read: role {role} cannot see other sessions' transactions"
        in added.stdout
    )


def test_tables_whose_names_no_file_can_hold_keep_no_others_out(shop: Project) -> None:
    shop.in_source(
        'CREATE TABLE "what?" (id int, password text); CREATE TABLE "esc\x1b[2K" (id int)'
    )
    added = shop.cli("add", "shop", "*")
    assert added.returncode == 0 and "orders" in tables(shop), added.stderr
    assert (
        "left out: what? (with * or ? in its name, it would be a pattern: write it" in added.stdout
    )
    assert "'what[?]'" in added.stdout
    assert (
        "left out: esc\\x1b[2K (its name has the character U+001B, which a pipeline file must not"
        " contain)" in added.stdout
    )
    before = spec(shop).read_bytes()
    said = refused(shop.cli("add", "shop", "what?", "no", "esc\x1b[2K"))
    assert "what?: with * or ? in its name" in said and "esc\\x1b[2K: its name has" in said
    assert spec(shop).read_bytes() == before


def test_a_pattern_adds_nothing_that_a_pattern_of_the_file_carries_already(shop: Project) -> None:
    spec(shop).write_text(
        spec(shop)
        .read_text()
        .replace("    # stock", '    "*_*": {exclude: [page_events]}\n    # stock')
    )
    shop.in_source("CREATE TABLE order_lines (id int PRIMARY KEY)")
    added = shop.cli("add", "shop", "order*", "page*")
    assert list(tables(shop)) == ["countries", "*_*", "orders", "page_events"]
    assert "left out: order_lines (the file's pattern *_* matches it; name it" in added.stdout
    assert shop.cli("add", "shop", "order_lines").returncode == 0
    assert list(tables(shop))[-1] == "order_lines"


def test_a_name_that_is_too_long_for_a_file_is_no_such_table(shop: Project) -> None:
    assert "the source has no table 'xxx" in refused(shop.cli("add", "shop", "x" * 300))
    unknown = shop.cli("run", "x" * 300)
    assert unknown.returncode == 2 and "there is no pipeline 'xxx" in unknown.stderr


def test_a_key_that_no_merge_can_use_means_a_whole_copy(shop: Project) -> None:
    shop.in_source(
        "CREATE TYPE name AS (first text, last text);CREATE TABLE people (name public.name PRIMARY"
        " KEY, updated_at timestamptz NOT NULL);CREATE SEQUENCE blocks CACHE 50; CREATE TABLE"
        " click_log (id int PRIMARY KEY DEFAULT nextval('blocks'));CREATE TABLE half (id int NOT"
        " NULL, updated_at timestamptz NOT NULL);CREATE UNIQUE INDEX ON half (id) WHERE id > 0;"
    )
    added = shop.cli("add", "shop", "people", "click_log", "half")
    assert added.returncode == 0, added.stderr
    assert tables(shop) == {"countries": None, "people": None, "click_log": None, "half": None}
    assert "cannot be part of a key to merge by" in added.stdout


def test_statistics_speak_against_a_log_whose_rows_were_changed(shop: Project) -> None:
    shop.in_source("UPDATE page_events SET at = now(); SELECT pg_stat_force_next_flush()")
    assert shop.cli("add", "shop", "page_events").returncode == 0
    assert tables(shop) == {"countries": None, "page_events": None}


def test_a_new_pipeline_begins_from_a_connection_and_runs(shop: Project) -> None:
    made = shop.cli(
        "new", "second", "--source", "shop_source", "--tables", "public.o*", "--tables", "countries"
    )
    assert made.returncode == 0, made.stderr
    document = yaml.safe_load((shop.folder / "pipelines" / "second" / "pipeline.yml").read_text())
    assert document["source"] == {"conn_id": "shop_source", "schema": "public"}
    # as the project's other pipeline
    assert document["lake"] == {"conn_id": "lake", "bucket": shop.bucket}
    assert document["warehouse"] == {
        "conn_id": "warehouse",
        "schema": "second_staging",
        "mart_schema": "second_mart",
    }
    assert list(document["tables"]) == ["orders", "countries"]
    check = shop.cli("check")
    assert check.returncode == 0 and "2 files checked: no problems" in check.stdout, check.stdout
    assert shop.cli("run", "second").returncode == 0
    assert fetch(shop.warehouse, "SELECT count(*) FROM second_staging.orders") == [(20,)]


def test_a_new_pipeline_without_rights_comes_with_the_grants_to_run(shop: Project) -> None:
    shop.in_source("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    owner = shop.source
    role = reader(shop)
    refused = shop.cli("new", "second", "--source", "shop_source")
    assert refused.returncode == 2
    _, found, grants = refused.stderr.partition("run in the source: ")
    assert found and f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role};" in grants
    with psycopg.connect(owner) as session:
        session.execute(grants.encode())
    assert shop.cli("new", "second", "--source", "shop_source", "--dry-run").returncode == 0


def test_a_new_pipeline_overwrites_nothing(shop: Project) -> None:
    before = spec(shop).read_bytes()
    again = shop.cli("new", "shop")
    assert again.returncode == 2 and "`loadsheet add shop TABLE` adds tables to it" in again.stderr
    assert spec(shop).read_bytes() == before
    dry = shop.cli("new", "third", "--dry-run")
    assert (
        dry.returncode == 0
        and "+++ b/" in dry.stdout
        and "+  orders: {incremental: updated_at" in dry.stdout
    )
    assert not (shop.folder / "pipelines" / "third").exists()


def test_pipelines_of_like_names_get_schemas_of_their_own(shop: Project) -> None:
    names = ["a-b", "a_b", "A.b", "pg_x"]
    for name in names:
        made = shop.cli(
            "new", name, "--source", "shop_source", "--tables", "countries", "--schema", "public"
        )
        assert made.returncode == 0, made.stderr
    specs = [
        yaml.safe_load((shop.folder / "pipelines" / name / "pipeline.yml").read_text())
        for name in names
    ]
    assert [spec["warehouse"]["schema"] for spec in specs] == [
        "a_b_staging",
        "a_b_2_staging",
        "a_b_3_staging",
        "_pg_x_staging",
    ]
    assert "no problems" in shop.cli("check").stdout
    assert shop.cli("run", "pg_x").returncode == 0


def test_an_empty_folder_becomes_a_project_and_choices_are_asked_for(shop: Project) -> None:
    shop.in_source(
        "CREATE SCHEMA sales; CREATE TABLE sales.deals (id int PRIMARY KEY);"
        f"GRANT USAGE ON SCHEMA sales TO {shop.extractor};"
        f"GRANT SELECT ON sales.deals TO {shop.extractor}"
    )
    empty = shop.folder / "empty"
    empty.mkdir()
    command = [shop.command("new")[0], "-m", "loadsheet", "--project", str(empty), "new", "deals"]

    def new(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=shop.environment(), text=True, capture_output=True
        )

    assert "which schema? Name it with --schema, one of: public, sales" in new().stderr
    assert (
        "connection 'shop_sourc' is not defined (did you mean 'shop_source'?)"
        in new("--source", "shop_sourc").stderr
    )
    assert not list(empty.iterdir())
    assert new("--schema", "sales", "--bucket", shop.bucket).returncode == 0
    assert "deals:" in (empty / "pipelines" / "deals" / "pipeline.yml").read_text()


def test_a_small_table_is_copied_whole_and_a_large_one_is_merged(shop: Project) -> None:
    shop.in_source("ANALYZE orders")
    added = shop.cli("add", "shop", "orders", "payments")
    assert tables(shop)["orders"] == {"columns": {"exclude": ["api_token"]}}
    assert "replace: about 20 rows, which is few" in added.stdout
    # Never analyzed: it may be large.
    assert tables(shop)["payments"] == {"incremental": "modified_on"}
    assert "add `deletes: hard` (or soft, report)" in added.stdout.replace("\n", " ")


def test_inherited_deletes_are_cancelled_where_a_table_cannot_have_them(shop: Project) -> None:
    text = spec(shop).read_text()
    text = text.replace("countries:", "countries: {deletes: null}")
    spec(shop).write_text(text.replace("tasks:", "defaults: {deletes: soft}\ntasks:"))
    added = shop.cli("add", "shop", "orders", "customers", "page_events", "invoices")
    assert added.returncode == 0, added.stderr
    cancelled = {name for name, keys in tables(shop).items() if keys and "deletes" in dict(keys)}
    assert cancelled == {"countries", "customers", "page_events", "invoices"}
    assert "deletes: hard" not in added.stdout
