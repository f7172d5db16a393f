"""`loadsheet status`: the ledger's view, for people and for scripts."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadsheet import postgres
from loadsheet.warehouse import status
from loadsheet.warehouse.status import TableStatus
from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

LOADED = TableStatus(
    pipeline="shop", table="orders", target='"staging"."orders"', watermark="2026-01-01 00:00:00+00", fence=3,
    load_id="abc", load_no=7, action="merge", loaded_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), extracted=1234,
    inserted=1, updated=2, deleted=0, bytes=99, held_by="", extract_seconds=0.5, load_seconds=1.25,
)  # fmt: skip
NEVER = TableStatus(
    pipeline="shop", table="customers", target='"staging"."customers"', watermark=None, fence=1, load_id=None,
    load_no=None, action=None, loaded_at=None, extracted=None, inserted=None, updated=None, deleted=None, bytes=None,
    held_by="", extract_seconds=None, load_seconds=None,
)  # fmt: skip


@pytest.fixture
def ledger(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose warehouse knows two tables of `shop`."""
    monkeypatch.setattr(postgres, "connect_warehouse", lambda connection: nullcontext(connection))
    monkeypatch.setattr(status, "status_rows", lambda session, name: [NEVER, LOADED] if name == "shop" else [])
    return project


def test_each_table_has_a_line(cli: Cli, ledger: Path) -> None:
    result = cli("status", "shop")
    assert result.code == 0
    orders = next(line for line in result.out.splitlines() if "orders" in line)
    for word in ("2026-01-02 03:04:05 UTC", "merge", "1,234", "2026-01-01 00:00:00+00", "1.8"):
        assert word in orders
    assert "never" in next(line for line in result.out.splitlines() if "customers" in line)


def test_all_pipelines_are_shown_when_none_is_named(cli: Cli, ledger: Path) -> None:
    write_pipeline(ledger, "other", SPEC.replace("shop", "other"))
    out = cli("status").out
    assert "other: nothing was loaded yet" in out and "shop: 2 tables" in out


def test_json_has_every_field(cli: Cli, ledger: Path) -> None:
    (pipeline,) = cli("status", "--json").json["pipelines"]
    assert pipeline["pipeline"] == "shop"
    orders = pipeline["tables"][1]
    assert (orders["table"], orders["load_no"], orders["loaded_at"]) == ("orders", 7, "2026-01-02 03:04:05+00:00")


def test_a_warehouse_that_is_away_is_no_crash(cli: Cli, project: Path) -> None:
    result = cli("status", "shop")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: connection failed: ")
    assert "(SQLSTATE 08001)" in result.err and "Next: see that the server runs" in result.err
    assert "s3cr3t" not in result.err


def test_an_unknown_pipeline_lists_the_known(cli: Cli, project: Path) -> None:
    result = cli("status", "nope")
    assert result.code == 2
    assert "it has: shop" in result.err
