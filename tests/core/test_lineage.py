"""Where columns come from, for SQL of every kind; and what is not known is said to be so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from typer.testing import CliRunner, Result

from demo.servers import PostgresServer, S3Server
from loadsheet.cli.main import app
from tests.core.lineage_of import ends_of, read, written
from tests.project import Project

SCHEMAS = list((Path(__file__).parent / "openlineage").glob("*.json"))
SOURCE = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE sale (id int PRIMARY KEY, shop int, amount numeric, kind text, tags text[],
    secret text, feeling mood);
CREATE TABLE shop (id int PRIMARY KEY, name text, city text);
CREATE TABLE log_june (id int PRIMARY KEY, word text);
INSERT INTO sale VALUES (1, 1, 5, 'a', '{x,y}', 's', 'glad'), (2, 2, 7, 'b', '{z}', 's', 'sad');
INSERT INTO shop VALUES (1, 'North', 'Oslo'), (2, 'South', 'Lima');
INSERT INTO log_june VALUES (1, 'w');
"""
TABLES = {"sale": {"columns": {"exclude": ["secret"]}}, "shop": None, "log_*": None}
# A transform's SQL, and the lineage of its columns: `column <- where from`, in order, and the rows.
CASES: dict[str, tuple[str, list[str]]] = {
    "a_star": ("SELECT * FROM staging.shop", ["id", "name", "city", "_load_id"]),
    "a_star_of_a_join": (
        "SELECT s.*, amount AS a FROM staging.sale x JOIN staging.shop s ON x.shop = s.id",
        ["id <- shop.id", "name <- shop.name", "city <- shop.city", "_load_id <- shop._load_id"]
        + ["a <- sale.amount", "rows <- join sale.shop, shop.id"],
    ),
    "no_tables_named": (
        "SELECT name, amount * 2 AS twice FROM sale, shop WHERE shop = shop.id",
        ["name <- shop.name", "twice <- sale.amount", "rows <- filter sale.shop, shop.id"],
    ),
    "full_join_using": (
        "SELECT id, city FROM staging.sale FULL JOIN staging.shop USING (id)",
        ["id <- sale.id, shop.id", "city <- shop.city", "rows <- join sale.id, shop.id"],
    ),
    "a_name_of_a_table": (
        "WITH shop AS (SELECT kind AS name FROM staging.sale) SELECT name FROM shop",
        ["name <- sale.kind", "rows <-"],
    ),
    "a_shadowed_with": (
        "WITH w AS (SELECT name AS n FROM staging.shop)"
        " SELECT n FROM (WITH w AS (SELECT kind AS n FROM staging.sale) SELECT n FROM w) q",
        ["n <- sale.kind", "rows <-"],
    ),
    "an_unused_with": (
        "WITH w AS (SELECT 1 FROM staging.shop WHERE name = 'x') SELECT kind FROM staging.sale",
        ["kind <- sale.kind", "rows <-"],
    ),
    "a_recursion": (
        "WITH RECURSIVE r AS (SELECT id, kind FROM staging.sale UNION ALL"
        " SELECT r.id + s.id, r.kind || s.name FROM r, staging.shop s WHERE r.id < 3)"
        " SELECT id, kind FROM r",
        ["id <- sale.id, shop.id", "kind <- sale.kind, shop.name"]
        + ["rows <- filter sale.id, shop.id"],
    ),
    "a_union": (
        "SELECT kind FROM staging.sale UNION ALL (SELECT name FROM staging.shop ORDER BY city"
        " LIMIT 1)",
        ["kind <- sale.kind, shop.name", "rows <- sort shop.city"],
    ),
    "a_limited_union": (
        "SELECT kind, id FROM staging.sale UNION ALL SELECT city, id FROM staging.shop ORDER BY 2"
        " LIMIT 2",
        ["kind <- sale.kind, shop.city", "id <- sale.id, shop.id", "rows <- sort sale.id, shop.id"],
    ),
    "an_except": (
        "SELECT kind FROM staging.sale EXCEPT SELECT name FROM staging.shop",
        ["kind <- sale.kind", "rows <- filter shop.name; group_by sale.kind"],
    ),
    "a_lateral": (
        "SELECT l.best, t.tag FROM staging.shop s CROSS JOIN LATERAL (SELECT max(amount) + s.id AS"
        " best, array_agg(tags[1]) AS all_tags FROM staging.sale WHERE shop = s.id) l,"
        " unnest(l.all_tags) AS t (tag)",
        ["best <- sale.amount, shop.id", "tag <- sale.tags"]
        + ["rows <- filter sale.shop, sale.tags, shop.id"],
    ),
    "values": (
        "SELECT v.b || s.name AS both, v.a FROM (VALUES (1, 'x'), (2, 'y')) v (a, b)"
        " JOIN staging.shop s ON s.id = v.a",
        ["both <- shop.name", "a <-", "rows <- join shop.id"],
    ),
    "a_whole_row": (
        "SELECT to_jsonb(s) AS doc, (s).city FROM staging.shop s",
        ["doc <- shop.city, shop.id, shop.name", "city <- shop.city", "rows <-"],
    ),
    "a_subquery": (
        "SELECT (SELECT max(amount) FROM staging.sale x WHERE x.shop = s.id) AS top, s.id"
        " FROM staging.shop s WHERE EXISTS (SELECT 1 FROM staging.sale y WHERE y.kind = s.city)",
        ["top <- sale.amount; filter sale.shop, shop.id", "id <- shop.id"]
        + ["rows <- filter sale.kind, shop.city"],
    ),
    "a_case": (
        "SELECT CASE WHEN kind = 'a' THEN amount ELSE id END AS x,"
        " sum(amount) FILTER (WHERE kind = 'b') OVER (PARTITION BY shop ORDER BY id) AS y,"
        " row_number() OVER (ORDER BY amount) AS n FROM staging.sale",
        ["x <- sale.amount, sale.id; conditional sale.kind"]
        + ["y <- sale.amount; conditional sale.kind; window sale.id, sale.shop"]
        + ["n <- sale.*; window sale.amount", "rows <-"],
    ),
    "an_ordered_aggregate": (
        "SELECT string_agg(kind, ',' ORDER BY amount) AS a, percentile_cont(0.5) WITHIN GROUP"
        " (ORDER BY id) AS b, audit.total(shop) AS c FROM staging.sale",
        ["a <- sale.kind; sort sale.amount", "b <- sale.id", "c <- sale.shop", "rows <-"],
    ),
    "a_table_of_json": (
        "SELECT r.n, x.v FROM staging.shop s, json_to_record(to_json(s.name)) AS r (n int),"
        " xmltable('/a' PASSING xmlparse(CONTENT s.city) COLUMNS v text PATH '.') x",
        ["n <- shop.name", "v <- shop.city", "rows <- filter shop.city, shop.name"],
    ),
    "groups": (
        "SELECT kind, count(*) AS n FROM staging.sale GROUP BY ROLLUP (kind, shop)"
        " HAVING max(amount) > 1 ORDER BY 1",
        ["kind <- sale.kind", "n <- sale.*"]
        + ["rows <- filter sale.amount; group_by sale.kind, sale.shop"],
    ),
    "distinct_on": (
        "SELECT DISTINCT ON (shop) id FROM staging.sale ORDER BY shop, amount DESC",
        ["id <- sale.id", "rows <- group_by sale.shop; sort sale.amount, sale.shop"],
    ),
    "a_pattern": ("SELECT word FROM staging.log_june", ["word <- log_june.word", "rows <-"]),
    "an_enum_as_text": (
        "SELECT feeling FROM staging.sale WHERE :since_load < _load_id AND :run_id <> kind",
        ["feeling <- sale.feeling", "rows <- filter sale.kind"],
    ),
    "of_others": (
        "SELECT o.note, s.name FROM audit.notes o JOIN staging.shop s USING (id)",
        ["note <- notes.note", "name <- shop.name", "rows <- join notes.id, shop.id"],
    ),
    "on_a_mart": (
        "SELECT twice || name AS t FROM mart.no_tables_named WHERE name > 'A'",
        ["t <- sale.amount, shop.name", "rows <- filter shop.name"],
    ),
}
CASES["twice_on_it"] = (
    "SELECT t, t || 'x' AS u FROM mart.on_a_mart",
    ["t <- sale.amount, shop.name", "u <- sale.amount, shop.name", "rows <-"],
)
CASES["of_two_ways"] = (
    "SELECT t || u AS v FROM mart.twice_on_it",
    ["v <- sale.amount, shop.name", "rows <-"],
)
NAMED_AS_ROWS = {"star": ('SELECT kind AS "*" FROM staging.sale', {"materialized": "view"})}
NOT_KNOWN = {
    "a_function": "SELECT id, audit.price(id) AS price FROM staging.sale",
    "a_condition": "SELECT id FROM staging.sale WHERE audit.price(id) > 1",
    "a_script": (
        "CREATE TABLE IF NOT EXISTS mart.a_script (n int); INSERT INTO mart.a_script"
        " SELECT id FROM staging.sale",
        {"materialized": "script"},
    ),
}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, s3: S3Server
) -> Iterator[Project]:
    ends = [postgres.create_database(f"lineage_{end}") for end in ("source", "warehouse")]
    project = Project(tmp_path_factory.mktemp("lineage"), *ends, s3)
    project.in_source(SOURCE)
    project.in_warehouse(
        "CREATE SCHEMA audit; CREATE TABLE audit.notes (id int, note text);"
        " CREATE FUNCTION audit.price(int) RETURNS int STABLE LANGUAGE sql AS 'SELECT max(id)"
        " FROM audit.notes'; CREATE AGGREGATE audit.total(int) (SFUNC = int4pl, STYPE = int);"
        " GRANT USAGE ON SCHEMA audit TO PUBLIC;"
        " GRANT SELECT ON audit.notes TO PUBLIC"
    )
    transforms: dict[str, Any] = {
        name: (sql, {"materialized": "view"}) for name, (sql, _) in CASES.items()
    }
    project.spec(TABLES, transforms | NOT_KNOWN | NAMED_AS_ROWS, external=["audit.*"])
    result = project.cli("run", "shop")  # which also looks for the tables of the pattern
    assert result.returncode == 0, result.stderr
    yield project
    for uri in ends:
        postgres.drop_database(uri.rpartition("/")[2])


def lineage(project: Project, *arguments: str) -> Result:
    """`loadsheet lineage …`, in this process: a new one takes a second to start."""
    command = ["--project", str(project.folder), "lineage", *arguments]
    return CliRunner(env=project.environment()).invoke(app, command)


def said(project: Project, *arguments: str) -> str:
    """What the command prints; it must succeed."""
    result = lineage(project, *arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def document(world: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(world, "shop", "--json"))
    return found


def test_columns_are_traced_as_postgresql_reads_the_sql(document: dict[str, Any]) -> None:
    found = ends_of(document)
    differing = {}
    for name, (_, expected) in CASES.items():
        lines = written({key: found[key] for key in found if key.startswith(f"{name}.")})
        lines = [line.removeprefix(f"{name}.") for line in lines]
        lines += written({"rows": found[f"rows of {name}"]})
        if name == "a_star":
            expected = [f"{column} <- shop.{column}" for column in expected] + ["rows <-"]
        if read(lines) != read(expected):
            differing[name] = lines
    assert differing == {}


def table_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in document["tables"] if one["name"] == name)
    return found


def test_what_cannot_be_traced_is_not_known_and_not_left_out(
    world: Project, document: dict[str, Any]
) -> None:
    calls = "it calls audit.price, which may read more"
    price = table_of(document, "mart.a_function")["columns"][1]
    assert (price["name"], price["unknown"]) == ("price", [calls])
    assert table_of(document, "mart.a_condition")["rows_unknown"] == [calls]
    script = table_of(document, "mart.a_script")
    assert script["not_traced"] == "it is a script: only the tables that it reads are known"
    assert [column["name"] for column in script["columns"]] == ["n"]
    assert said(world, "mart.a_script.n") == (
        "mart.a_script.n\n  <- not known: it is a script: only the tables that it reads are known\n"
        "not traced: mart.a_script: it is a script: only the tables that it reads are known; it"
        " reads staging.sale\n"
    )
    assert "not known: " + calls in said(world, "a_function.price")
    # A column that no other mart names is not said to go nowhere.
    below = said(world, "shop", "staging.sale.id", "--down")
    assert "-> mart.a_script, in which columns is not known: it is a script" in below


def test_the_way_goes_over_marts_to_the_source(world: Project) -> None:
    assert said(world, "mart.on_a_mart.t") == (
        "mart.on_a_mart.t = twice || name\n"
        "  <- mart.no_tables_named.name = name\n"
        "    <- staging.shop.name <- public.shop.name\n"
        "  <- mart.no_tables_named.twice = amount * 2\n"
        "    <- staging.sale.amount <- public.sale.amount\n"
        "which rows mart.no_tables_named has is decided by\n"
        "  staging.sale: shop (filter)\n"
        "  staging.shop: id (filter)\n"
        "which rows mart.on_a_mart has is decided by\n"
        "  mart.no_tables_named: name (filter)\n"
    )
    below = said(world, "public.sale.amount", "--down")
    assert below.startswith("public.sale.amount\n  -> staging.sale.amount\n    -> mart.")
    assert "\n    -> mart.no_tables_named.twice = amount * 2\n      -> mart.on_a_mart.t" in below
    again = said(world, "of_two_ways.v").splitlines()
    assert "    <- mart.on_a_mart.t = twice || name, see above" in again
    # An expression in a WITH is shown where the mart only passes it on.
    assert "\n  r: r.kind || s.name\n" in said(world, "a_recursion.kind")


def test_a_column_named_like_a_star_is_not_the_rows_of_its_table(world: Project) -> None:
    way = "mart.star.* = kind\n  <- staging.sale.kind <- public.sale.kind\n"
    assert said(world, "mart.star") == said(world, "mart.star.*") == way


def test_staging_columns_lead_to_the_columns_of_the_source(world: Project) -> None:
    assert said(world, "staging.sale.feeling") == (
        "staging.sale.feeling (public.mood in the source, text here)\n  <- public.sale.feeling\n"
    )
    assert said(world, "log_june.word") == "staging.log_june.word\n  <- public.log_june.word\n"
    assert said(world, "staging.sale._load_id") == (
        "staging.sale._load_id (Loadsheet's own: the number of the load that wrote the row)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "mart.a_sta": "there is no table or mart 'mart.a_sta' (did you mean 'mart.a_star'?)",
        "mart.a_sta.id": "no table or mart 'mart.a_sta.id' (did you mean 'mart.a_star'?)",
        "shops.city": "there is no table or mart 'shops.city' (did you mean 'staging.shop'?)",
        '"staging"."shop"."city"': "(did you mean 'staging.shop'?)",
        "shup": "there is no table or mart 'shup' (did you mean 'shop'?)",
        "mart.a_star.nam": "mart.a_star has no column 'nam' (did you mean 'name'?)",
        "mart.a_pattern.zz": "mart.a_pattern has no column 'zz'; it has word",
        "sale.secret": "staging.sale.secret is not loaded: `columns` of sale leaves it out",
        "public.sale.secret": "public.sale.secret is not loaded: `columns` of sale leaves it out",
        "shap mart.a_star": "there is no pipeline 'shap'",
        "a b c": "lineage takes a pipeline and one name",
        "shop --json --mermaid": "choose one",
        "shop --html nowhere/x.html": "--html: nowhere/x.html cannot be written",
    }.items(),
)
def test_a_mistake_is_named_with_what_was_meant(
    world: Project, arguments: str, message: str
) -> None:
    result = lineage(world, *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_mart_before_its_first_run_says_what_is_missing(project: Project) -> None:
    project.in_source("CREATE TABLE sale (id int PRIMARY KEY)")
    project.spec({"sale": None}, {"sales": "SELECT id FROM staging.sale"})
    project.as_loader("CREATE SCHEMA staging")
    assert said(project, "mart.sales.id").splitlines() == [
        "mart.sales.id",
        '  <- not known: relation "staging.sale" does not exist yet: run the pipeline first',
        "not traced: staging.sale: not loaded yet: run the pipeline first",
        'not traced: mart.sales: relation "staging.sale" does not exist yet: run the pipeline'
        " first; it reads staging.sale",
    ]


def test_a_source_column_before_the_first_run_may_reach_the_table_and_its_marts(
    project: Project,
) -> None:
    project.in_source("CREATE TABLE sale (id int PRIMARY KEY)")
    project.spec({"sale": None}, {"sales": "SELECT id FROM staging.sale"})
    project.as_loader("CREATE SCHEMA staging")
    assert said(project, "public.sale.id", "--down").splitlines() == [
        "public.sale.id",
        "  -> staging.sale, in which columns is not known: not loaded yet: run the pipeline first",
        '    -> mart.sales, in which columns is not known: relation "staging.sale" does not exist'
        " yet: run the pipeline first",
    ]


def test_nothing_stays_in_the_warehouse(world: Project) -> None:
    """And the views are temporary: none is in the mart schema while they are read either."""
    count = "SELECT count(*) FROM pg_class WHERE relname LIKE '%lineage%' OR relkind = 'v'"
    before = world.in_warehouse(count)
    said(world, "shop")
    assert world.in_warehouse(count) == before


def test_it_is_drawn(world: Project, tmp_path: Any) -> None:
    flowchart = said(world, "mart.on_a_mart.t", "--mermaid").splitlines()
    assert flowchart[0] == "flowchart LR"
    assert '  subgraph t0["public.sale"]' in flowchart
    assert sum("-->" in line for line in flowchart) >= 6
    assert sum("-.->" in line for line in flowchart) >= 3
    file = tmp_path / "page.html"
    said(world, "shop", "--html", str(file))
    text = file.read_text()
    assert "mart.on_a_mart" in text and "http" not in text.replace("http-equiv", "")
    # What a name or an SQL file says is text, not markup.
    assert "kind = &#x27;a&#x27;" in text


def test_openlineage_events_are_valid_and_have_the_same_columns(
    world: Project, document: dict[str, Any]
) -> None:
    """Valid against the schemas of the project itself, github.com/OpenLineage/OpenLineage (Apache
    License 2.0), each facet by the one that it names."""
    schemas = [json.loads(file.read_text()) for file in SCHEMAS]
    registry = Registry().with_resources(
        (one["$id"], Resource.from_contents(one)) for one in schemas
    )
    events = [json.loads(line) for line in said(world, "shop", "--openlineage").splitlines()]
    problems = []
    for event in events:
        facets = [event["job"]["facets"]]
        facets += [dataset["facets"] for dataset in event["inputs"] + event["outputs"]]
        problems += problems_of(event, event["schemaURL"], registry)
        for facet in (one for of_one in facets for one in of_one.values()):
            problems += problems_of(facet, facet["_schemaURL"], registry)
    assert problems == []
    by_job = {event["job"]["name"]: event for event in events}
    assert set(by_job) >= {"shop.load.load_sale", "shop.transform.transform_a_case"}
    event = by_job["shop.transform.transform_a_case"]
    [output] = event["outputs"]
    warehouse = world.connections("warehouse")
    assert output["namespace"] == f"postgres://{warehouse.host}:{warehouse.port}"
    assert output["name"] == f"{warehouse.schema}.mart.a_case"
    assert event["job"]["facets"]["sql"]["query"] == CASES["a_case"][0]
    lineage = output["facets"]["columnLineage"]
    found = {
        (field["field"], one["type"], one["subtype"])
        for field in lineage["fields"]["x"]["inputFields"]
        for one in field["transformations"]
    }
    del lineage["fields"]  # the negative control
    assert problems_of(lineage, lineage["_schemaURL"], registry)
    assert found == {
        ("amount", "DIRECT", "TRANSFORMATION"),
        ("id", "DIRECT", "TRANSFORMATION"),
        ("kind", "INDIRECT", "CONDITIONAL"),
    }
    # A script's event names what it reads, and no column.
    script = by_job["shop.transform.transform_a_script"]
    assert [one["name"].partition(".")[2] for one in script["inputs"]] == ["staging.sale"]
    assert "columnLineage" not in script["outputs"][0]["facets"]


def problems_of(part: Any, url: str, registry: Registry) -> list[str]:
    """What of a part of an event is not as the schema at `url` wants it."""
    checker = Draft202012Validator({"$ref": url}, registry=registry, format_checker=FormatChecker())
    return [error.message for error in checker.iter_errors(part)]
