"""Types of extensions land as themselves where the warehouse has the extension, else as text, and
PostGIS is refused by name where it has not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.servers import S3Server
from loadsheet.errors import Refused
from loadsheet.sql.extensions import TYPES
from tests.debian import PROGRAMS, DebianServer, has_extension, has_vectors
from tests.faults.scale import scaled
from tests.project import Project

VECTOR = """
CREATE EXTENSION vector;
CREATE DOMAIN embedding AS vector(3);
CREATE TABLE item (
    id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    v vector(3), h halfvec(2), s sparsevec(5), l vector[], d embedding, n int
);
INSERT INTO item (id, v, h, s, l, d) VALUES
    (1, '[0.1,-0,1e-40]', '[1,65504]', '{1:0.1,5:-2}/5', ARRAY[vector '[1,2]', '[3]'], '[1,2,3]'),
    (2, NULL, NULL, NULL, '{}', NULL);
"""
TABLES: dict[str, Any] = {"item": {"incremental": {"cursor": "at", "lookback": "1d"}}}


@pytest.fixture
def vectors(project: Project) -> Project:
    if not has_vectors():
        pytest.skip("pgvector is not installed for Debian's PostgreSQL 15")
    project.in_source(VECTOR)
    project.spec(TABLES)
    return project


def in_schema(project: Project, extension: str = "vector", schema: str = "ext") -> None:
    """Install the extension in the warehouse, in another schema than the source's."""
    project.in_warehouse(
        f"CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE ON SCHEMA {schema} TO {project.loader}"
    )
    project.in_warehouse(f"CREATE EXTENSION {extension} SCHEMA {schema}")


def types(project: Project, table: str = "item") -> dict[str, str]:
    return dict(
        project.in_warehouse(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            f"staging.{table}",
        )
    )


@pytest.mark.parametrize("wire", scaled(["auto", "parquet"], ["auto", "csv", "parquet"]))
def test_types_land_as_themselves_where_the_warehouse_has_them(vectors: Project, wire: str) -> None:
    """They landed as text before, also where the warehouse had the extension."""
    if wire == "parquet":  # which takes no array
        vectors.in_source("ALTER TABLE item ALTER l TYPE vector USING '[1]'")
    vectors.spec(TABLES, lake={"format": wire})
    in_schema(vectors)
    for number in range(2):
        vectors.succeed()
        assert vectors.differences("item") == 0
        vectors.in_source(
            f"UPDATE item SET v = '[1,2,{number}]', at = clock_timestamp() WHERE id = 1;"
            f" INSERT INTO item (id, v) VALUES (1{number}, '[4,5,6]')"
        )
    vectors.succeed()
    assert vectors.differences("item") == 0
    found = types(vectors)
    assert found["v"] == "ext.vector(3)" and found["d"] == "ext.vector(3)"
    assert found["h"] == "ext.halfvec(2)" and found["s"] == "ext.sparsevec(5)"
    assert found["l"] == ("ext.vector" if wire == "parquet" else "ext.vector[]")
    # -0 and 0 are equal vectors, and not the same.
    vectors.in_source("UPDATE item SET v = '[0,-0,0]', at = clock_timestamp() WHERE id = 1")
    vectors.succeed()
    vectors.in_source("UPDATE item SET v = '[0,0,0]', at = clock_timestamp() WHERE id = 1")
    vectors.succeed()
    assert vectors.in_warehouse("SELECT v::text FROM staging.item WHERE id = 1") == [("[0,0,0]",)]


def test_without_the_extension_they_land_as_text_and_stay_so(vectors: Project) -> None:
    vectors.succeed()
    assert types(vectors)["v"] == "text" and types(vectors)["l"] == "text[]"
    plan = vectors.cli("plan", "shop", "--connect")
    assert "lands as itself if the warehouse has the extension vector" in " ".join(
        plan.stdout.split()
    )
    # Created later, the extension stops no load; the next full refresh uses it.
    in_schema(vectors)
    vectors.in_source("INSERT INTO item (id, v) VALUES (3, '[4,5,6]')")
    vectors.succeed()
    assert types(vectors)["v"] == "text" and vectors.differences("item") == 0
    vectors.succeed(full_refresh="all")
    assert types(vectors)["v"] == "ext.vector(3)" and vectors.differences("item") == 0


def test_a_type_that_the_role_may_not_use_lands_as_text(vectors: Project) -> None:
    in_schema(vectors)
    vectors.in_warehouse(f"REVOKE USAGE ON SCHEMA ext FROM {vectors.loader}")
    vectors.succeed()
    assert types(vectors)["v"] == "text" and vectors.differences("item") == 0


def test_in_the_binary_format_and_in_a_key_they_are_text(vectors: Project) -> None:
    in_schema(vectors)
    vectors.spec(TABLES, lake={"format": "binary"})
    vectors.succeed()
    assert types(vectors)["v"] == "text"
    vectors.in_source("CREATE TABLE keyed (v vector(2) PRIMARY KEY, w vector(2))")
    vectors.in_source("INSERT INTO keyed VALUES ('[1,2]', '[3,4]')")
    vectors.spec({"keyed": {"mode": "replace"}})
    vectors.succeed()
    assert types(vectors, "keyed") == {"v": "text", "w": "ext.vector(2)", "_load_id": "bigint"}
    vectors.spec({"keyed": {"mode": "merge"}})
    error = vectors.run()["extract.extract_keyed"].result
    assert isinstance(error, Refused) and "column v (public.vector(2)) cannot be part" in str(error)


def test_a_cursor_of_an_extensions_type_is_refused(vectors: Project) -> None:
    in_schema(vectors)
    vectors.spec({"item": {"incremental": "v"}})
    error = vectors.run()["extract.extract_item"].result
    assert isinstance(error, Refused) and "column v (public.vector(3)) cannot be" in str(error)


def test_other_dimensions_are_another_type(vectors: Project) -> None:
    """vector(3) does not widen to vector(4), as varchar(3) does."""
    in_schema(vectors)
    vectors.succeed()
    vectors.in_source("ALTER TABLE item ALTER v TYPE vector(4) USING '[1,2,3,4]'")
    vectors.in_source("UPDATE item SET at = clock_timestamp()")
    error = vectors.run()["load.load_item"].result
    assert isinstance(error, Refused) and "run a full refresh" in str(error)
    vectors.succeed(full_refresh="all")
    assert types(vectors)["v"] == "ext.vector(4)" and vectors.differences("item") == 0


# Extension: its types, each with the values to carry. A type with a modifier comes as it is
# declared.
VALUES: dict[str, dict[str, list[str]]] = {
    "citext": {"citext": ["'Straße'", "''", "'A,\"b\\'", "E'\\n'"]},
    "cube": {"cube": ["'(1,2),(3,4)'", "'(0.1,-0)'", "'(1e-300)'"]},
    "hstore": {"hstore": ["'a=>1, \"b c\"=>NULL'", "''", '\'""=>"\\""\'']},
    "intarray": {"query_int": ["'1&(2|!3)'"]},
    "isn": {
        "isbn13": ["'978-0-393-04002-9'", "'978-0-11-000533-4!'"],
        "ean13": ["'4006381333931'"],
        "upc": ["'036000291452'"],
    },
    "ltree": {
        "ltree": ["'Top.Science.A_1'", "''"],
        "lquery": ["'Top.*{1,2}.!a|b'"],
        "ltxtquery": ["'a & !b*@'"],
    },
    "seg": {"seg": ["'1.0 .. 2.50'", "'~5'", "'3(+-)0.5'", "'<1e-10'"]},
    "postgis": {
        "geometry": [
            "'SRID=4326;POINT Z (1 2 3)'",
            "'POINT EMPTY'",
            "'LINESTRING(0.1 0.2,1e-9 3)'",
        ],
        "geometry(Point,4326)": ["'SRID=4326;POINT(0.1 -0.2)'"],
        "geography(Point,4267)": ["'SRID=4267;POINT(0.1 51)'"],
        "geography": ["'POINT(7 51)'"],
    },
}


@pytest.fixture(scope="module")
def debian() -> Iterator[DebianServer]:
    if not PROGRAMS.is_dir():
        pytest.skip("Debian's postgresql-15 is not installed")
    with DebianServer() as server:
        yield server


@pytest.fixture
def both(debian: DebianServer, tmp_path: Path, s3: S3Server) -> Iterator[Project]:
    """A project from a database of Debian's server to another."""
    names = (f"source_{tmp_path.name}"[:60], f"warehouse_{tmp_path.name}"[:60])
    source, warehouse = (debian.create_database(name) for name in names)
    yield Project(tmp_path, source, warehouse, s3)
    for name in names:
        debian.drop_database(name)


def installed() -> list[str]:
    return [extension for extension in VALUES if has_extension(extension)]


def fill(project: Project, extensions: list[str]) -> None:
    """A table `t` with two columns for each type, one of an array and one of a domain of it."""
    columns, values = ["id int PRIMARY KEY"], ["1"]
    for extension in extensions:
        project.in_source(f"CREATE EXTENSION {extension}")
        for type_name, texts in VALUES[extension].items():
            for text in texts:
                place = len(columns)
                project.in_source(f"CREATE DOMAIN domain_{place} AS {type_name}")
                columns.append(f"c{place} {type_name}")
                columns.append(f"a{place} {type_name}[]")
                columns.append(f"d{place} domain_{place}")
                values += [text, f"ARRAY[{text}, NULL]::{type_name}[]", text]
    project.in_source(f"CREATE TABLE t ({', '.join(columns)})")
    project.in_source(
        f"INSERT INTO t VALUES ({', '.join(values)}), (2{', NULL' * (len(columns) - 1)})"
    )


@pytest.mark.parametrize("wire", scaled(["auto"], ["auto", "csv"]))
def test_every_known_type_lands_as_itself(both: Project, wire: str) -> None:
    extensions = installed()
    fill(both, extensions)
    both.in_warehouse(f"CREATE SCHEMA ext; GRANT USAGE ON SCHEMA ext TO {both.loader}")
    for extension in extensions:
        both.in_warehouse(f"CREATE EXTENSION {extension} SCHEMA ext")
    both.spec({"t": {"mode": "merge"}}, lake={"format": wire})
    both.succeed()
    assert both.differences("t") == 0
    both.in_source("UPDATE t SET id = 3 WHERE id = 1")
    both.succeed()
    both.in_warehouse("DELETE FROM staging.t WHERE id = 1")  # a merge keeps it
    assert both.differences("t") == 0
    found = types(both, "t")
    assert not [name for name, kind in found.items() if kind in ("text", "text[]")]
    assert set(found.values()) > {"ext.geometry(Point,4326)", "ext.geometry(Point,4326)[]"} or (
        "postgis" not in extensions
    )


def test_without_extensions_in_the_warehouse_all_but_postgis_are_text(both: Project) -> None:
    extensions = [name for name in installed() if name != "postgis"]
    fill(both, extensions)
    both.spec({"t": None})
    both.succeed()
    assert both.differences("t") == 0
    assert set(types(both, "t").values()) == {"integer", "text", "text[]", "bigint"}


@pytest.mark.skipif(not has_extension("postgis"), reason="Debian's PostGIS is not installed")
def test_postgis_is_refused_by_name_where_the_warehouse_lacks_it(both: Project) -> None:
    fill(both, ["postgis"])
    both.spec({"t": None})
    error = both.run()["extract.extract_t"].result
    assert isinstance(error, Refused)
    assert "column c10 (public.geometry(Point,4326)) is of the extension postgis" in str(error)
    assert "run CREATE EXTENSION postgis; there" in str(error)
    plan = both.cli("plan", "shop", "--connect")
    assert plan.returncode == 1 and "CREATE EXTENSION postgis" in plan.stdout
    both.in_warehouse("CREATE EXTENSION postgis")
    both.succeed()
    assert both.differences("t") == 0


def test_a_key_of_citext_is_not_merged_by(both: Project) -> None:
    both.in_source(
        "CREATE EXTENSION citext; CREATE TABLE k (k citext PRIMARY KEY); INSERT INTO k VALUES ('A')"
    )
    both.in_warehouse("CREATE EXTENSION citext")
    both.spec({"k": {"mode": "merge"}})
    error = both.run()["extract.extract_k"].result
    assert isinstance(error, Refused) and "cannot be part of a key to merge by" in str(error)
    both.spec({"k": {"mode": "replace"}})
    both.succeed()
    assert both.differences("k") == 0 and types(both, "k")["k"] == "text"


def test_a_change_of_case_is_a_change_of_a_citext(both: Project) -> None:
    both.in_source(
        "CREATE EXTENSION citext; CREATE TABLE c (id int PRIMARY KEY, c citext, at timestamptz"
        " NOT NULL DEFAULT now()); INSERT INTO c VALUES (1, 'a')"
    )
    both.in_warehouse("CREATE EXTENSION citext")
    both.spec({"c": {"incremental": "at"}})
    both.succeed()
    both.in_source("UPDATE c SET c = 'A', at = clock_timestamp()")
    both.succeed()
    assert both.in_warehouse("SELECT c::text, pg_typeof(c)::text FROM staging.c") == [
        ("A", "citext")
    ]


def test_every_known_extension_has_values() -> None:
    """`vector` is carried by the embedded servers."""
    assert VALUES.keys() | {"vector"} == TYPES.keys()
