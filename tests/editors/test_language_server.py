"""What an editor shows of a pipeline file: the real yaml-language-server, with the committed schema
and no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from typer.testing import CliRunner

from loadsheet import __version__
from loadsheet.cli.main import app
from loadsheet.spec.files import SCHEMA_FILE
from loadsheet.spec.schema import pipeline_schema
from tests.editors.server import HERE, ROOT, SETTINGS, LanguageServer
from tests.npm import install

MODELINE = "# yaml-language-server: $schema=../../schemas/pipeline.schema.json\n"
SPECS = ROOT / "tests" / "specs"
VALID = sorted((SPECS / "valid").rglob("*.yml"))
FLIGHTS = ROOT / "pipelines" / "flights" / "pipeline.yml"
# By the schema alone, each with the line that is wrong in the file.
INVALID = {
    "mode_typo": (7, "Value is not accepted"),
    "format_orc": (3, "Value is not accepted"),
    "unknown_top_key": (5, "shedule is not allowed"),
    "unknown_table_key": (6, "primry_key is not allowed"),
    "password_in_spec": (2, "password is not allowed"),
    "missing_version": (1, 'Missing property "version"'),
    "missing_conn_id_and_bucket": (3, 'Missing property "bucket"'),
    "retries_text": (5, "Incorrect type"),
    "tables_as_list": (6, "a mapping with one key per table"),
    "lookback_words": (6, "does not match the pattern"),
    "duplicate_key": (9, "must be unique"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[LanguageServer]:
    """One server for all tests."""
    install(HERE)
    with LanguageServer() as started:
        yield started


_numbers = count()


def opened(server: LanguageServer, text: str) -> str:
    """Opens `text` as a new pipeline file; its URI."""
    uri = (ROOT / "pipelines" / f"p{next(_numbers)}" / "pipeline.yml").as_uri()
    server.open(uri, text)
    return uri


def test_valid_specs_have_no_diagnostic(server: LanguageServer) -> None:
    uris = {file: opened(server, MODELINE + file.read_text(encoding="utf-8")) for file in VALID}
    assert {file: found for file, uri in uris.items() if (found := server.diagnostics(uri))} == {}


def test_the_flights_spec_has_no_diagnostic_by_its_own_modeline(server: LanguageServer) -> None:
    assert FLIGHTS.read_text().startswith(MODELINE)
    assert server.diagnostics(opened(server, FLIGHTS.read_text())) == []


def test_invalid_specs_are_marked_at_the_line_that_is_wrong(server: LanguageServer) -> None:
    files = {name: SPECS / "invalid" / f"{name}.yml" for name in INVALID}
    uris = {name: opened(server, MODELINE + file.read_text()) for name, file in files.items()}
    for name, (line, words) in INVALID.items():
        found = server.diagnostics(uris[name])
        assert any(d["range"]["start"]["line"] == line and words in d["message"] for d in found), (
            name,
            found,
        )
        # as `loadsheet check` says
        assert f"{{file}}:{line}:" in files[name].with_suffix(".expected").read_text()


def test_without_the_modeline_nothing_is_known_of_the_keys(server: LanguageServer) -> None:
    """The negative control."""
    uri = opened(server, (SPECS / "invalid" / "mode_typo.yml").read_text())
    assert server.diagnostics(uri) == []


def test_the_settings_in_the_documentation_do_without_the_modeline() -> None:
    page = (ROOT / "docs" / "editors.md").read_text()
    settings = json.loads(page.partition("```json\n")[2].partition("```")[0])
    schemas = {str(ROOT / file): files for file, files in settings["yaml.schemas"].items()}
    text = FLIGHTS.read_text().removeprefix(MODELINE).replace("bookings: {", "bookings: {x: 1, ", 1)
    install(HERE)
    with LanguageServer({"yaml": {**SETTINGS["yaml"], "schemas": schemas}}) as server:
        server.open(FLIGHTS.as_uri(), text)
        found = server.diagnostics(FLIGHTS.as_uri())
    assert any("x is not allowed" in diagnostic["message"] for diagnostic in found)


def keys(
    node: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every key of a pipeline file with what the schema says of it; `some` stands for a name of the
    user's."""
    children = dict(node.get("properties", {}))
    if isinstance(node.get("additionalProperties"), dict):
        children["some"] = node["additionalProperties"]
    for name, child in children.items():
        known = {
            **pipeline_schema()["$defs"].get(child.get("$ref", "").rpartition("/")[2], {}),
            **child,
        }
        yield (*path, name), known
        yield from () if name == "defaults" else keys(known, (*path, name))


def test_every_key_has_its_meaning_its_default_and_an_example_on_hover(
    server: LanguageServer,
) -> None:
    every = list(keys(pipeline_schema()))
    uri = opened(
        server, MODELINE + "".join(f"{'  ' * (len(path) - 1)}{path[-1]}:\n" for path, _ in every)
    )
    for line, (path, known) in enumerate(every, start=1):
        hover = server.hover(uri, line, 2 * (len(path) - 1) + 1).replace("\\", "")
        assert known["description"].partition("<")[0].partition("`")[0] in hover, (path, hover)
        assert "Example:" in hover, (path, hover)
        if known.get("default"):
            assert "Default: " in hover, (path, hover)


def labels(server: LanguageServer, text: str) -> set[str]:
    """What can be written at the `|` in `text`."""
    before, _, after = (MODELINE + text).partition("|")
    uri = opened(server, before + after)
    return set(server.completions(uri, before.count("\n"), len(before.rpartition("\n")[2])))


def test_top_level_keys_are_completed(server: LanguageServer) -> None:
    assert labels(server, "version: 1\n|\n") >= set(pipeline_schema()["properties"]) - {"version"}


@pytest.mark.parametrize(
    ("place", "kind"),
    [("tables:\n  t:\n    |\n", "table"), ("transforms:\n  t:\n    |\n", "transform")],
)
def test_the_keys_of_tables_and_transforms_are_completed(
    server: LanguageServer, place: str, kind: str
) -> None:
    """The server (2.0.0) stops at a nested key whose first type is string and whose default null:
    none after it."""
    assert labels(server, f"version: 1\n{place}") >= set(
        pipeline_schema()["$defs"][kind]["properties"]
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("tables:\n  t:\n    mode: |\n", {"replace", "append", "merge"}),
        ("tables:\n  t:\n    incremental:\n      nulls: |\n", {"fail", "include", "exclude"}),
        ("tables:\n  t:\n    incremental:\n      by: |\n", {"watermark", "data_interval"}),
        ("transforms:\n  t:\n    materialized: |\n", {"table", "view", "merge", "script"}),
        ("lake:\n  format: |\n", {"auto", "binary", "csv", "parquet"}),
        ("notify:\n  events:\n    - |\n", {"failure", "recovery"}),
        ("tables:\n  |\n", {"a table, new and changed rows only"}),
        ("transforms:\n  |\n", {"a mart, merged by key"}),
    ],
)
def test_values_and_snippets_are_completed(
    server: LanguageServer, text: str, values: set[str]
) -> None:
    assert labels(server, f"version: 1\n{text}") >= values


def test_a_server_that_reaches_for_the_network_is_noticed() -> None:
    """The negative control: the schema is somewhere else."""
    install(HERE)
    with LanguageServer() as server, pytest.raises(AssertionError, match="network: "):
        server.open(
            FLIGHTS.as_uri(),
            "# yaml-language-server: $schema=http://127.0.0.1:9/x.json\nversion: 1\n",
        )
        server.hover(FLIGHTS.as_uri(), 1, 1)


def test_the_schema_is_printed_as_it_is_committed_and_has_the_packages_version() -> None:
    for arguments in ([], ["tests"]):
        result = CliRunner().invoke(app, ["schema", *arguments])
        file = SCHEMA_FILE.with_name(f"{(arguments or ['pipeline'])[0]}.schema.json")
        assert (result.exit_code, result.stdout) == (0, file.read_text(encoding="utf-8"))
        assert json.loads(result.stdout)["x-version"] == __version__
    assert pipeline_schema()["x-version"] == __version__
    assert (
        pipeline_schema()["$id"]
        == f"urn:loadsheet:pipeline:{pipeline_schema()['properties']['version']['const']}"
    )


def test_the_locked_packages_have_hashes_and_no_host() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert all(entry["integrity"].startswith("sha512-") for name, entry in packages.items() if name)
    assert not any("resolved" in entry for entry in packages.values())
