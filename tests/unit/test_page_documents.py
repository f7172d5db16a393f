"""The documents of the page where no server answers: each pipeline says why, and none hides
another."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from loadsheet.connections.lookup import Connection
from loadsheet.errors import ConnectionMissing, InputError
from loadsheet.page import documents
from loadsheet.page.project import ProjectDocuments
from loadsheet.spec.pipeline_file import load_pipeline

SPEC = """
version: 1
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake, prefix: shop}
warehouse: {conn_id: %s}
tables:
  orders: {incremental: updated_at}
transforms:
  totals:
"""


def write(folder: Path, name: str, warehouse: str = "warehouse", text: str = "") -> Path:
    home = folder / "pipelines" / name
    (home / "sql").mkdir(parents=True)
    (home / "sql" / "totals.sql").write_text("SELECT count(*) AS n FROM staging.orders\n")
    file = home / "pipeline.yml"
    file.write_text(text or SPEC % warehouse)
    return file


class Nowhere:
    """Connections to a port on which nothing listens; it counts how often each was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __call__(self, conn_id: str) -> Connection:
        self.asked.append(conn_id)
        if conn_id == "missing":
            raise ConnectionMissing("there is no connection 'missing'")
        return Connection(
            conn_id=conn_id, host="127.0.0.1", port=self.port, login="me", password="s3cr3t-pw"
        )


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in document["pipelines"]}


def test_a_broken_file_and_a_server_that_is_away_hide_no_other_pipeline(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "broken", text="version: 1\ntabels: {}\n"),
        write(tmp_path, "lost", warehouse="missing"),
        write(tmp_path, "shop"),
    ]
    found = by_name(documents.overview(files, Nowhere()))
    assert "tabels" in found["broken"]["error"]
    assert "pipeline.yml:2" in found["broken"]["error"]
    assert "there is no connection 'missing'" in found["lost"]["unknown"]
    assert "'warehouse'" in found["shop"]["unknown"]
    assert all(one["targets"] == [] for one in found.values())


def test_a_server_that_is_away_is_asked_once_for_all_of_its_pipelines(tmp_path: Path) -> None:
    files = [write(tmp_path, f"shop_{number:02}") for number in range(20)]
    nowhere = Nowhere()
    found = by_name(documents.overview(files, nowhere))
    assert len({one["unknown"] for one in found.values()}) == 1
    # Those that were asked about at the same time do not know of each other yet.
    assert len(nowhere.asked) < 10


def test_no_document_has_a_secret(tmp_path: Path) -> None:
    file = write(tmp_path, "shop")
    nowhere = Nowhere()
    pipeline = load_pipeline(file)
    found = [
        documents.overview([file], nowhere),
        documents.target(pipeline, nowhere, "table", "orders"),
        documents.run(pipeline, nowhere, "a run with s3cr3t-pw in its name"),
    ]
    assert "s3cr3t-pw" not in json.dumps(found, allow_nan=False)
    assert "***" in found[2]["run_id"]


def test_a_target_tells_what_its_file_says_without_the_warehouse(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, "shop"))
    table = documents.target(pipeline, Nowhere(), "table", "orders")
    assert table["unknown"]
    assert table["lineage_unknown"]
    assert 'FROM "public"."orders"' in table["sql"]
    assert table["lake"][0]["name"] == "s3://lake/shop/orders/"
    mart = documents.target(pipeline, Nowhere(), "transform", "totals")
    assert "SELECT count(*)" in mart["sql"]
    assert mart["file"].endswith("totals.sql")


@pytest.mark.parametrize(
    ("kind", "name"), [("table", "totals"), ("transform", "orders"), ("view", "orders")]
)
def test_what_the_pipeline_does_not_have_is_an_error(tmp_path: Path, kind: str, name: str) -> None:
    pipeline = load_pipeline(write(tmp_path, "shop"))
    with pytest.raises(InputError, match=name):
        documents.target(pipeline, Nowhere(), kind, name)


def test_values_that_json_does_not_have_are_none() -> None:
    found = documents.finished({"a": [float("nan"), float("inf"), 1.5], "b": {"c": (1, None)}})
    assert found == {"a": [None, None, 1.5], "b": {"c": [1, None]}}


@pytest.mark.parametrize(
    "path",
    [
        [],
        ["nothing"],
        ["pipelines", "other"],
        ["pipelines", "other", "runs", "1"],
        ["pipelines", "shop", "targets", "table"],
        ["pipelines", "shop", "targets", "table", "none"],
        ["pipelines", "broken", "runs", "1"],
    ],
)
def test_a_path_that_leads_nowhere_is_an_error(tmp_path: Path, path: list[str]) -> None:
    files = [write(tmp_path, "shop"), write(tmp_path, "broken", text="version: 1\ntabels: {}\n")]
    project = ProjectDocuments(lambda: files, Nowhere())
    with pytest.raises(InputError):
        project.answer(path)
    assert project.answer(["pipelines", "shop", "runs", "1"])["loads"] == []


def test_many_tabs_read_the_overview_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadsheet.page.project._FRESH_SECONDS", 3600)
    files = [write(tmp_path, "shop")]
    listed = 0

    def count() -> list[Path]:
        nonlocal listed
        listed += 1
        return files

    project = ProjectDocuments(count, Nowhere())
    first = project.answer(["pipelines"])
    assert project.answer(["pipelines"]) is first
    assert listed == 1
    assert project.answer(["pipelines"], asks_source=False)["asked_source"] is False
