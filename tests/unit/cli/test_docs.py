"""`loadsheet docs` on the command line: what it writes, refuses and exits with."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.conftest import SPEC, Cli, write_pipeline


def test_without_connections_it_writes_what_the_files_say(project: Path, cli: Cli) -> None:
    result = cli("docs", "--no-connect")
    assert (result.code, result.err) == (0, "")
    assert result.out == "written: build/docs/index.html (1 pipeline, 5 tables and marts)\n"
    page = (project / "build" / "docs" / "index.html").read_text()
    assert "odd [red]name" in page
    assert "SELECT id FROM staging.orders" in page


def test_a_warehouse_that_is_away_is_an_error_and_the_site_says_so(project: Path, cli: Cli) -> None:
    result = cli("docs", "--out", "site")
    assert result.code == 1
    assert "error: shop: the warehouse could not be asked" in result.err
    page = (project / "site" / "index.html").read_text()
    assert "s3cr3t" not in page
    assert "Connection refused" in page or "connection failed" in page.lower()


def test_a_file_with_problems_is_wrong_input_and_hides_no_other(project: Path, cli: Cli) -> None:
    # It even says that it is the same pipeline.
    write_pipeline(project, "broken", SPEC.replace("tables:", "tabels:"))
    result = cli("docs", "--no-connect")
    assert result.code == 2
    assert "tabels" in result.err
    assert "2 pipelines, 5 tables and marts" in result.out


def test_only_the_named_pipelines_are_on_the_site(project: Path, cli: Cli) -> None:
    write_pipeline(project, "store", SPEC.replace("pipeline: shop", "pipeline: store"))
    result = cli("docs", "shop", "shop", "--no-connect")
    assert "1 pipeline, 5 tables and marts" in result.out


def test_a_folder_with_other_files_is_refused_before_a_server_is_asked(
    project: Path, cli: Cli
) -> None:
    result = cli("docs", "--out", ".")
    assert result.code == 2
    assert "other files in it" in result.err
    assert "could not be asked" not in result.err


def test_a_pipeline_that_is_not_there_is_refused(project: Path, cli: Cli) -> None:
    result = cli("docs", "shpo")
    assert result.code == 2
    assert "did you mean 'shop'" in result.err
    assert not (project / "build").exists()


def test_pipelines_of_two_projects_are_refused(project: Path, cli: Cli) -> None:
    other = write_pipeline(project / "other", "store", SPEC.replace("shop", "store"))
    result = cli("docs", "pipelines/shop", other)
    assert result.code == 2
    assert "several projects" in result.err
