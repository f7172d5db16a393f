"""`loadsheet check` prints every problem where it is, and its exit code tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

from loadsheet.spec.rule_catalog import RULES
from tests.unit.cli.conftest import SPEC, Cli, write_pipeline

BROKEN = SPEC.replace("merge, ", "mrge, ")


def test_a_sound_project_has_no_problems(cli: Cli, project: Path) -> None:
    result = cli("check")
    assert (result.code, result.out, result.err) == (0, "1 file checked: no problems\n", "")


def test_a_problem_has_a_place_relative_to_here(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    result = cli("check")
    assert result.code == 2
    first, line, caret, hint, why, see, summary = result.out.splitlines()
    assert first.startswith("pipelines/shop/pipeline.yml:11:25 transforms.sales.materialized: ")
    assert line == "  11 |   sales: {materialized: mrge, unique_key: id}"
    assert caret == "     |                         ^^^^"
    assert hint == "  hint: did you mean 'merge'?"
    assert why == f"  why: {RULES['wrong-value'].why}"
    assert see == "  see: docs/rules.md#wrong-value, docs/spec.md#transformsname"
    assert summary == "1 file checked: 1 error, 0 warnings"


def test_a_problem_in_sql_is_found_where_it_is(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/sql/report.sql").write_text("SELECT *\nFROM staging.custmers")
    result = cli("check")
    assert result.code == 2
    assert (
        "pipelines/shop/sql/report.sql:2:14 transforms.report: reads staging.custmers" in result.out
    )
    assert "did you mean 'customers'?" in result.out


def test_all_files_are_checked_at_once(cli: Cli, project: Path) -> None:
    write_pipeline(project, "other", "version: 1\n")
    write_pipeline(project, "third", "version: [\n")
    result = cli("check")
    assert "pipelines/other/pipeline.yml:" in result.out
    assert "pipelines/third/pipeline.yml:" in result.out
    assert result.out.splitlines()[-1].startswith("3 files checked: ")


def test_a_warning_alone_is_no_failure(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/sql/orphan.sql").write_text("SELECT 1")
    result = cli("check")
    assert (result.code, "warning" in result.out) == (0, True)
    assert result.out.splitlines()[-1] == "1 file checked: 0 errors, 1 warning"


def test_a_project_elsewhere_is_checked_by_absolute_paths(
    cli: Cli,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert cli("--project", project, "check").out.startswith(
        f"{project}/pipelines/shop/pipeline.yml:11:25 "
    )


def test_the_project_is_found_from_a_folder_inside_it(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "pipelines/shop/sql")
    assert cli("check").out == "1 file checked: no problems\n"


@pytest.mark.parametrize(
    "path", ["pipelines/shop/pipeline.yml", "pipelines/shop", "pipelines", "."]
)
def test_files_folders_and_projects_may_be_named(cli: Cli, project: Path, path: str) -> None:
    assert cli("check", path).out == "1 file checked: no problems\n"


def test_a_file_named_twice_is_checked_once(cli: Cli, project: Path) -> None:
    assert cli("check", "pipelines", "pipelines/shop/pipeline.yml").out.startswith("1 file checked")


def test_a_folder_of_loose_files_is_checked_whole(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.yml", "b.yaml", "deep/c.yml"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / name).write_text("version: 2\n")
    assert cli("check", tmp_path).out.splitlines()[-1].startswith("3 files checked: ")


def test_two_pipelines_of_one_name_are_a_problem(cli: Cli, project: Path) -> None:
    write_pipeline(project, "zoo", "# a comment\n" + SPEC)
    result = cli("check")
    assert result.code == 2
    assert (
        "pipelines/zoo/pipeline.yml:3:1 pipeline: the name 'shop' is already taken by" in result.out
    )


def test_json_has_every_problem(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    result = cli("check", "--format", "json")
    document = result.json
    assert (result.code, document["files"], document["errors"], document["warnings"]) == (
        2,
        1,
        1,
        0,
    )
    (problem,) = document["problems"]
    assert (problem["code"], problem["see"][0]) == ("wrong-value", "docs/rules.md#wrong-value")
    assert (problem["file"], problem["line"], problem["column"]) == (
        "pipelines/shop/pipeline.yml",
        11,
        25,
    )


def test_github_annotations_are_one_escaped_line_each(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/sql/report.sql").write_text("SELECT '100%' FROM staging.custmers")
    annotation, _ = cli("check", "--format", "github").out.splitlines()
    assert annotation.startswith(
        "::error file=pipelines/shop/sql/report.sql,line=1,col=28,title=transforms.report::"
    )
    assert "%0Ahint%3A" not in annotation
    assert "%0Ahint: did you mean" in annotation
    assert annotation.endswith("%0Asee: docs/rules.md#unknown-table, docs/spec.md#transformsname")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "there is no pipeline 'nowhere' in"),
        ("pipelines/shop/sql", "there are no pipeline files in pipelines/shop/sql"),
    ],
)
def test_a_path_without_pipelines_is_wrong_input(
    cli: Cli, project: Path, path: str, message: str
) -> None:
    result = cli("check", path)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_a_pipeline_may_be_named(cli: Cli, project: Path) -> None:
    assert cli("check", "shop").out == "1 file checked: no problems\n"
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    assert cli("check", "shop").code == 2


@pytest.mark.parametrize("name", [".env", "notes.txt", "secret"])
def test_a_file_of_another_kind_is_not_read(cli: Cli, project: Path, name: str) -> None:
    # It was read as a pipeline file, and its first line was printed.
    (project / name).write_text("PASSWORD=canary\n")
    result = cli("check", name)
    assert (result.code, result.out) == (2, "")
    assert f"{name} is not a pipeline file" in result.err and "canary" not in result.err


@pytest.mark.parametrize(
    "content", ["", "\x00", "\xff\xfe", "{", "- a", "5", "a: &x 1", "\t", "version: 1\nversion: 1"]
)
def test_no_content_breaks_the_check(cli: Cli, project: Path, content: str) -> None:
    (project / "pipelines/shop/pipeline.yml").write_bytes(content.encode("latin-1"))
    assert cli("check").code == 2


def test_unknown_format_lists_the_known(cli: Cli, project: Path) -> None:
    result = cli("check", "--format", "xml")
    assert result.code == 2
    assert "github" in result.err


def test_the_reason_of_a_rule_is_told_once(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(
        BROKEN.replace("customers:", "customers: {mode: upsert}")
    )
    out = cli("check").out
    assert (out.count("  why: "), out.count("  see: ")) == (1, 2)


def test_sql_is_checked_even_when_the_yaml_has_errors(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    (project / "pipelines/shop/sql/report.sql").write_text(
        "SELECT * FROM mart.sales, stagging.customers"
    )
    out = cli("check").out
    assert "sales.materialized: 'mrge'" in out and "reads stagging.customers" in out
    assert out.splitlines()[-1] == "1 file checked: 2 errors, 0 warnings"


SECRETS = ("hunter2", "s3cr3t words", "T0/B0/abc", "tok-123")


@pytest.mark.parametrize(
    "line",
    [
        "source: {conn_id: source, host: db, password: hunter2}",
        "source: {password: s3cr3t words, conn_id: 5}",
        "source: {pass: 'hunter2', conn_id: source}",
        'source: {password: "s3cr3t words',
        "source: {pass: hunter2",
        "source: {conn_id: 'postgresql://me:hunter2@db/x'}",
        "source: {conn_id: 'https://tok-123@db/x'}",
        "source: {conn_id: 'https://hooks.example.com/services/T0/B0/abc'}",
        "source: {conn_id: source, schema: 'x?password=hunter2', schema: y}",
    ],
)
@pytest.mark.parametrize("form", ["text", "json", "github", "sarif"])
def test_a_secret_in_a_spec_is_not_shown(cli: Cli, project: Path, line: str, form: str) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(
        SPEC.replace("source: {conn_id: source}", line)
    )
    result = cli("check", "--format", form)
    assert result.code == 2
    assert not [secret for secret in SECRETS if secret in result.out + result.err]


def test_nothing_of_a_file_reaches_the_terminal_as_a_command(cli: Cli, project: Path) -> None:
    sql = "SELECT '\x1b[31m \u202e \x07' FROM staging.custmers"
    (project / "pipelines/shop/sql/report.sql").write_text(sql)
    line = cli("check").out.splitlines()[1]
    assert (
        line == "   1 | SELECT '\N{REPLACEMENT CHARACTER}[31m \ufffd \ufffd' FROM staging.custmers"
    )


@pytest.mark.parametrize(
    ("sql", "line", "caret"),
    [
        (
            "SELECT '数据', e\u0301 FROM staging.custmers",
            "SELECT '数据', e\u0301 FROM staging.custmers",
            30,
        ),
        ("SELECT\t*\tFROM staging.custmers", "SELECT    *    FROM staging.custmers", 28),
        (
            f"SELECT '{'x' * 90}' FROM staging.custmers",
            "…xxxxxxxxxxxxxx' FROM staging.custmers",
            30,
        ),
        (f"SELECT 1 FROM staging.custmers WHERE 'a' < '{'数' * 90}'", None, 22),
    ],
)
def test_the_caret_is_under_the_place(
    cli: Cli, project: Path, sql: str, line: str | None, caret: int
) -> None:
    (project / "pipelines/shop/sql/report.sql").write_text(sql)
    _, shown, marks, *_ = cli("check").out.splitlines()
    assert line is None or shown == f"   1 | {line}"
    assert cell_len(shown) <= 80
    assert marks == "     | " + " " * caret + "^^^^^^^^"


@pytest.mark.parametrize("ending", ["\r\n", "\r"])
def test_the_line_is_the_right_one_whatever_ends_lines(
    cli: Cli, project: Path, ending: str
) -> None:
    (project / "pipelines/shop/pipeline.yml").write_bytes(BROKEN.replace("\n", ending).encode())
    assert (
        cli("check").out.splitlines()[1] == "  11 |   sales: {materialized: mrge, unique_key: id}"
    )


def test_output_to_a_file_has_no_colours(cli: Cli, project: Path) -> None:
    (project / "pipelines/shop/pipeline.yml").write_text(BROKEN)
    assert "\x1b" not in cli("check").out


def test_a_rule_is_explained_by_its_code(cli: Cli) -> None:
    result = cli("check", "--explain", "unknown-key")
    assert (result.code, result.out.splitlines()[0]) == (
        0,
        f"unknown-key: {RULES['unknown-key'].why}",
    )
    wrong = cli("check", "--explain", "unknown-kye")
    assert wrong.code == 2 and "did you mean 'unknown-key'?" in wrong.err


def test_what_a_link_leads_to_is_not_shown(cli: Cli, project: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the secret of another file\n")
    spec = project / "pipelines/shop/pipeline.yml"
    spec.unlink()
    spec.symlink_to(tmp_path / "secret")
    found = cli("check")
    assert (
        "this link leads out of the pipelines folder" in found.out and "the secret" not in found.out
    )
