"""What lies in the lake: Parquet end to end; any load read by DuckDB, pandas and Arrow as
docs/lake.md says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pyarrow as pa
import pyarrow.fs
import pytest
from minio import Minio

from loadsheet.errors import Corrupt, InputError, Refused
from loadsheet.lake.frame import read_load
from tests.project import ROOT, Project

DOCS = (ROOT / "docs" / "lake.md").read_text()
COLUMNS = (
    "id int PRIMARY KEY, code char(4), word text, paid numeric(12, 2), born date, seen timestamptz,"
    " noted timestamp, big bigint, ratio float8, ok bool, raw bytea, doc jsonb, mark uuid, span"
    " interval, place point, net inet"
)
ROWS = r"""
    (1, 'ab', E'a,"b"\n\\.', 12.50, '2024-02-29', '2026-03-29 01:30:00.000001+00', '0001-01-01',
     9223372036854775807, 'NaN', true, '\x00ff', '{"a": [1, null]}',
     '00000000-0000-0000-0000-000000000001', '1 mon -1 day', '(0.1,-2)', '10.0.0.0/8'),
    (2, '', '', 0, '0001-01-01', '9999-12-31 23:59:59.999999+00', '2026-02-03 04:05:06',
     -1, '-Infinity', false, '',
     'null', gen_random_uuid(), '0', '(1e300,0)', '::1'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


def filled(project: Project, wire: str, **table: Any) -> Path:
    """A table with all of that, loaded; the folder of its attempt on this disk."""
    project.in_source(f"CREATE TABLE orders ({COLUMNS}); INSERT INTO orders VALUES {ROWS}")
    project.spec({"orders": table or None}, lake={"format": wire})
    project.succeed()
    return newest(project)


def newest(project: Project) -> Path:
    """The newest load, copied from the lake."""
    [(manifest,)] = project.in_warehouse(
        "SELECT manifest FROM loadsheet.load ORDER BY load_no DESC LIMIT 1"
    )
    lake = Minio(
        project.s3.address,
        access_key=project.s3.access_key,
        secret_key=project.s3.secret_key,
        secure=False,
    )
    prefix = manifest.rpartition("/")[0]
    for name in (name for name in project.objects() if name.startswith(prefix)):
        lake.fget_object(
            bucket_name=project.bucket,
            object_name=name,
            file_path=str(project.folder / "lake" / name),
        )
    return project.folder / "lake" / prefix


def documented(heading: str) -> list[str]:
    """The Python in a section of docs/lake.md."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code: str, folder: Path) -> dict[str, Any]:
    assert len(code.split("\n\n")) == 2 and len(code.splitlines()) == 3
    names: dict[str, Any] = {"folder": folder, "manifest": folder / "manifest.json"}
    # What we tell people to run.
    exec(code, names)  # noqa: S102
    return names


def test_parquet_carries_a_table_whole_and_then_only_what_is_new(project: Project) -> None:
    folder = filled(project, "parquet", incremental={"cursor": "id"})
    assert project.differences("orders") == 0
    assert {path.name for path in folder.iterdir()} == {"part-00000.parquet", "manifest.json"}
    assert json.loads((folder / "manifest.json").read_text())["format"] == "parquet"
    assert set(project.succeed().values()) == {"skipped", "done"}
    project.in_source(
        "INSERT INTO orders SELECT * FROM (SELECT 4, code, word FROM orders WHERE id = 1) more"
    )
    project.succeed()
    assert project.differences("orders") == 0
    assert read_load(newest(project) / "manifest.json").column("id").to_pylist() == [4]


def test_parts_that_the_manifest_does_not_list_are_removed_from_a_copy(tmp_path: Path) -> None:
    """With `extract_tasks`, a range may be stored twice."""
    for name in ("part-00000.csv.zst", "part-10000000.csv.zst", "gone-00000.csv.zst"):
        (tmp_path / name).touch()
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"parts": [{"name": "shop/item/1/2/part-10000000.csv.zst"}]}')
    [removes] = documented("Object layout")
    exec(removes, {"folder": tmp_path, "manifest": manifest})  # noqa: S102
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"part-10000000.csv.zst", "gone-00000.csv.zst", "manifest.json"}


def test_parquet_is_cut_into_parts_and_an_unchanged_table_is_skipped(
    project: Project, monkeypatch: Any
) -> None:
    monkeypatch.setattr("loadsheet.lake.parts.PART_BYTES", 1 << 20)
    monkeypatch.setattr("loadsheet.lake.parquet._GROUP_BYTES", 1 << 20)
    project.in_source(
        "CREATE TABLE noise AS SELECT i AS id, md5(i::text) FROM generate_series(1, 100000) i"
    )
    project.spec({"noise": None}, lake={"format": "parquet"})
    project.succeed()
    assert project.differences("noise") == 0
    assert len([name for name in project.objects() if name.endswith(".parquet")]) >= 2
    assert project.succeed()["extract.extract_noise"] == "skipped"


def test_a_type_that_does_not_survive_is_refused_before_anything_is_read(project: Project) -> None:
    project.in_source(
        "CREATE TABLE o (id int PRIMARY KEY, amount numeric, tags text[]); INSERT INTO o VALUES"
        " (1, 1)"
    )
    project.spec({"o": None}, lake={"format": "parquet"})
    error = project.run()["extract.extract_o"].result
    assert isinstance(error, Refused)
    for part in (
        "public.o: column amount (numeric) does not survive in Parquet",
        "column tags (text[])",
        "columns.exclude, or set lake.format: auto",
    ):
        assert part in str(error)
    assert project.objects() == set()
    project.spec({"o": {"columns": {"exclude": ["amount", "tags"]}}}, lake={"format": "parquet"})
    project.succeed()
    assert project.in_warehouse("SELECT id FROM staging.o") == [(1,)]


def test_a_value_that_does_not_fit_is_refused_before_anything_is_committed(
    project: Project,
) -> None:
    project.in_source(
        "CREATE TABLE o (id int PRIMARY KEY, till date); INSERT INTO o VALUES (1, now()), (2,"
        " 'infinity')"
    )
    project.spec({"o": None}, lake={"format": "parquet"})
    error = project.run()["extract.extract_o"].result
    assert isinstance(
        error, Refused
    ) and "column till (date) has a value that Parquet cannot hold: infinity" in str(error)
    assert not [name for name in project.objects() if name.endswith("manifest.json")]
    assert project.in_warehouse("SELECT to_regclass('staging.o')") == [(None,)]
    project.spec({"o": None}, lake={"format": "auto"})
    project.succeed()
    assert project.differences("o") == 0


def test_where_pyarrow_is_missing_the_table_fails_with_what_to_install(
    project: Project, tmp_path: Path
) -> None:
    project.in_source("CREATE TABLE o (id int PRIMARY KEY); INSERT INTO o VALUES (1)")
    project.spec({"o": None}, lake={"format": "parquet"})
    without = tmp_path / "pyarrow.py"
    without.write_text("raise ImportError")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from loadsheet.cli.main import main;"
        " main()"
    )
    result = run_python(
        project, code, str(tmp_path), "--project", str(project.folder), "run", "shop"
    )
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert "pip install -r requirements/parquet.txt" in " ".join(
        (result.stdout + result.stderr).split()
    )
    assert project.objects() == set()


def run_python(project: Project, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=project.environment(),
        cwd=ROOT,
        text=True,
        capture_output=True,
    )


@pytest.mark.parametrize("wire", ["auto", "csv", "parquet"])
def test_a_load_of_any_format_reads_back_the_same(project: Project, wire: str) -> None:
    table = read_load(filled(project, wire) / "manifest.json")
    [one, two, three] = table.to_pylist()
    assert table.schema.field("paid").type == pa.decimal128(12, 2)
    assert table.schema.field("seen").type == pa.timestamp("us", "UTC")
    assert table.schema.field("span").metadata == {b"postgres_type": b"interval"}
    assert set(three.values()) == {3, None}
    assert (one["code"], one["word"], one["paid"], one["raw"]) == (
        "ab  ",
        'a,"b"\n\\.',
        Decimal("12.50"),
        b"\x00\xff",
    )
    assert (one["span"], one["place"], one["net"]) == ("1 mon -1 days", "(0.1,-2)", "10.0.0.0/8")
    assert (two["word"], two["raw"], two["doc"], two["born"]) == ("", b"", "null", date(1, 1, 1))
    assert one["big"] == 2**63 - 1 and one["ratio"] != one["ratio"] and one["seen"].microsecond == 1


@pytest.mark.parametrize("wire", ["binary", "csv", "parquet"])
def test_only_the_columns_asked_for_are_read(project: Project, wire: str) -> None:
    folder = filled(project, wire)
    table = read_load(folder / "manifest.json", columns=["word", "id"])
    assert table.column_names == ["word", "id"] and table.column("id").to_pylist() == [1, 2, 3]
    with pytest.raises(InputError, match="orders has no column 'wort'; it has id, code"):
        read_load(folder / "manifest.json", columns=["wort"])


@pytest.mark.parametrize("wire", ["binary", "csv"])
def test_a_column_with_what_arrow_cannot_hold_is_named_and_can_be_left_out(
    project: Project, wire: str
) -> None:
    project.in_source(
        "CREATE TABLE orders (id int, till date); INSERT INTO orders VALUES (1, 'infinity')"
    )
    project.spec({"orders": None}, lake={"format": wire})
    project.succeed()
    manifest = newest(project) / "manifest.json"
    with pytest.raises(Refused, match=r"column till \(date\).*columns=\[\.\.\.\]"):
        read_load(manifest)
    assert read_load(manifest, columns=["id"]).to_pylist() == [{"id": 1}]


def test_an_empty_load_reads_back_as_an_empty_table(project: Project) -> None:
    project.in_source("CREATE TABLE orders (id int, word text)")
    for wire in ("binary", "csv", "parquet"):
        project.spec({"orders": None}, lake={"format": wire})
        project.succeed(full_refresh="all")
        table = read_load(newest(project) / "manifest.json")
        assert (table.num_rows, table.column_names) == (0, ["id", "word"])


def test_a_load_is_read_where_it_lies(project: Project) -> None:
    folder = filled(project, "auto")
    lake = pyarrow.fs.S3FileSystem(
        access_key=project.s3.access_key,
        secret_key=project.s3.secret_key,
        scheme="http",
        region="us-east-1",
        endpoint_override=project.s3.address,
    )
    name = f"{project.bucket}/{folder.relative_to(project.folder / 'lake')}/manifest.json"
    there, here = read_load(name, filesystem=lake), read_load(folder / "manifest.json")
    assert there.schema == here.schema and repr(there.to_pylist()) == repr(here.to_pylist())


def test_a_part_that_is_not_what_the_manifest_says_is_not_read(project: Project) -> None:
    folder = filled(project, "csv")
    (folder / "part-00000.csv.zst").write_bytes(b"x")
    with pytest.raises(Corrupt, match="does not match its manifest"):
        read_load(folder / "manifest.json")
    (folder / "part-00000.csv.zst").unlink()
    with pytest.raises(Corrupt, match="does not exist"):
        read_load(folder / "manifest.json")


def test_two_documented_lines_read_parquet(project: Project) -> None:
    folder = filled(project, "parquet")
    with_duckdb, with_pandas = documented("Parquet")
    table = run(with_duckdb, folder)["orders"].order("id")
    assert table.project("id, word, paid, noted").fetchall()[1:] == [
        (2, "", Decimal("0.00"), datetime(2026, 2, 3, 4, 5, 6)),
        (3, None, None, None),
    ]
    frame = run(with_pandas, folder)["orders"]
    assert list(frame["id"]) == [1, 2, 3] and frame["seen"].iloc[0] == pandas.Timestamp(
        "2026-03-29 01:30:00.000001Z"
    )
    told = re.search(r"```sql\n(SELECT decode.*?);", DOCS)
    assert told
    query = told[1].replace("part-00000.parquet", str(folder / "part-00000.parquet"))
    [(metadata,)] = duckdb.sql(query).fetchall()
    assert json.loads(metadata)["primary_key"] == ["id"]


def test_two_documented_lines_read_csv(project: Project) -> None:
    folder = filled(project, "csv")
    with_duckdb, with_pandas = documented("csv")
    table = run(with_duckdb, folder)["orders"].order("id")
    assert table.project("id, word, paid, big").fetchall() == [
        ("1", 'a,"b"\n\\.', "12.50", "9223372036854775807"),
        ("2", "", "0.00", "-1"),
        ("3", None, None, None),
    ]
    assert list(run(with_pandas, folder)["orders"]["code"])[:2] == ["ab  ", "    "]


@pytest.mark.parametrize("wire", ["binary", "csv", "parquet"])
def test_two_documented_lines_read_any_load(project: Project, wire: str) -> None:
    folder = filled(project, wire)
    [with_arrow] = documented("Binary and all other formats")
    orders = run(with_arrow, folder)["orders"]
    assert duckdb.sql("SELECT word, paid FROM orders WHERE id = 2").fetchall() == [
        ("", Decimal("0.00"))
    ]
    assert list(orders.to_pandas()["id"]) == [1, 2, 3]


def test_the_documented_question_names_the_newest_manifest(project: Project) -> None:
    folder = filled(project, "csv")
    told = re.search(r"```sql\n(SELECT manifest.*?);", DOCS, re.DOTALL)
    assert told
    [(manifest,)] = project.in_warehouse(told[1])
    assert folder / "manifest.json" == project.folder / "lake" / manifest
