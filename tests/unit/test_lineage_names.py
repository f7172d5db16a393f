"""What a name on the command line of `loadsheet lineage` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadsheet.lineage.naming import find_asked
from loadsheet.spec.pipeline_file import load_pipeline

SPEC = """
version: 1
pipeline: shop
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables: {a: , a.b: , b: }
transforms: {b: }
"""


@pytest.mark.parametrize(
    ("name", "kind", "meant"),
    [
        ("a", "staging", ("a", "")),
        ("a.c", "staging", ("a", "c")),
        ("a.b", "staging", ("a.b", "")),
        # The longest table that it can begin with, which is declared after `a`.
        ("a.b.c", "staging", ("a.b", "c")),
        ("staging.a.b.c", "staging", ("a.b", "c")),
        ("public.a.b.c", "source", ("a.b", "c")),
        ("b.c", "mart", ("b", "c")),
        ("staging.b.c", "staging", ("b", "c")),
    ],
)
def test_a_name_means_the_longest_table_and_a_column_of_it(
    tmp_path: Path, name: str, kind: str, meant: tuple[str, str]
) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "b.sql").write_text("SELECT 1 AS c FROM staging.b\n")
    (tmp_path / "pipeline.yml").write_text(SPEC)
    asked = find_asked(load_pipeline(tmp_path / "pipeline.yml"), name)
    assert asked is not None
    assert (asked.dataset.kind, (asked.dataset.name, asked.column)) == (kind, meant)
