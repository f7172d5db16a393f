"""What the documents show is real: specs, commands, options, targets, links, keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from docs.spec_reference import mappings, reference
from loadsheet.cli.main import app
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.schema import pipeline_schema

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").glob("*.md"),
]
TEXTS = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}
README = TEXTS["README.md"]
SHOWN = "\n".join(
    TEXTS[name]
    for name in (
        "README.md",
        "docs/install.md",
        "docs/pipeline-file.md",
        "docs/modes.md",
        "docs/late-commits.md",
        "docs/full-refresh.md",
        "docs/transforms.md",
        "docs/commands.md",
        "docs/connections.md",
        "docs/alerts.md",
        "docs/lake-cleanup.md",
        "docs/deploy.md",
        "docs/troubleshooting.md",
    )
)
"""Pages whose YAML is that of pipeline files, and whose SQL is that of their transforms."""
EXAMPLE = TEXTS["docs/pipeline-file.md"]
COMMANDS = TEXTS["docs/commands.md"]
BLOCK = re.compile(r'^( *)```(\w*)(?: title="[^"\n]*")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
CLI: Any = typer.main.get_command(app)
FRAME = """\
version: 1
source: {conn_id: source}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables: {a_table: }
"""


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of `language`, without the indentation of the list they may stand in."""
    return [
        re.sub(rf"^{m[1]}", "", m[3], flags=re.MULTILINE)
        for m in BLOCK.finditer(text)
        if m[2] == language
    ]


def commands(text: str, word: str) -> set[str]:
    """Every command that begins with `word`, in shell blocks and in inline code."""
    shell = "\n".join(blocks(text, "bash")) + "\n" + "\n".join(blocks(text, "console"))
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    found = re.findall(
        rf"^\$? *(?:\S*/|[A-Z_]+=\S+ )*({word} .*)$", "\n".join([shell, *inline]), re.MULTILINE
    )
    return {re.sub(r"\s+#.*", "", command) for command in found}


def every(word: str) -> list[str]:
    return sorted({command for text in TEXTS.values() for command in commands(text, word)})


SPECS = [block for block in blocks(SHOWN, "yaml") if yaml.safe_load(block).get("version")]
FRAGMENTS = [block for block in blocks(SHOWN, "yaml") if block not in SPECS]
SHOP = next(spec for spec in SPECS if "pipeline: shop" in spec)


def write(folder: Path, spec: str) -> Path:
    """The spec in a project below `folder`, with the SQL that the pages show for its transforms."""
    home = folder / "pipelines" / yaml.safe_load(spec).get("pipeline", "unnamed")
    (home / "sql").mkdir(parents=True)
    for sql in blocks(SHOWN, "sql"):
        name = re.match(r"-- sql/(\w+)\.sql\n", sql)
        if name and name[1] in (yaml.safe_load(spec).get("transforms") or {}):
            (home / "sql" / f"{name[1]}.sql").write_text(sql)
    (home / "pipeline.yml").write_text(spec)
    return home / "pipeline.yml"


def test_there_is_something_to_test() -> None:
    assert len(SPECS) >= 2
    assert FRAGMENTS
    assert len(every("make")) >= 8
    assert len(every("loadsheet")) >= 8


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_that_is_shown_has_no_problem(tmp_path: Path, spec: str) -> None:
    assert check_file(write(tmp_path, spec))[1] == []


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_part_of_a_spec_fits_into_a_whole_one(tmp_path: Path, fragment: str) -> None:
    # The SQL of transforms reads the tables of the example.
    frame = SHOP if "transforms" in yaml.safe_load(fragment) else FRAME
    whole = yaml.safe_dump(yaml.safe_load(frame) | yaml.safe_load(fragment), sort_keys=False)
    assert check_file(write(tmp_path, whole))[1] == []


def output(command: str) -> str:
    """What docs/commands.md shows as the output of `command`."""
    found = blocks(COMMANDS, "console")
    shown = next(block for block in found if block.startswith(f"$ {command}\n"))
    return shown.partition("\n")[2]


def test_the_plan_that_is_shown_is_the_one_of_the_example(tmp_path: Path) -> None:
    write(tmp_path, SHOP)
    result = CliRunner().invoke(app, ["--project", str(tmp_path), "plan", "shop"])
    assert output("loadsheet plan shop") == result.stdout


def test_the_problems_that_are_shown_are_those_of_the_example_with_three_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SHOP
    for right, mistake in (
        ("mode: merge ", "mode: upsert"),
        ("event_id, mode: append}", "event_id, primary_keys: event_id}"),
        ("unique_key", "unqiue_key"),
    ):
        assert wrong.count(right) == 1
        wrong = wrong.replace(right, mistake)
    write(tmp_path, wrong)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["check"])
    assert output("loadsheet check") == result.stdout


@pytest.mark.parametrize("command", every("loadsheet"))
def test_a_command_and_its_options_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    own = {option: parameter for parameter in CLI.params for option in parameter.opts}
    while words and words[0].startswith("-"):
        option = own["-v" if words[0] == "-vv" else words[0]]
        takes_no_value = option.is_flag or option.count
        words = words[1:] if takes_no_value else words[2:]
    assert not words or words[0] in CLI.commands
    known = (
        {option for parameter in CLI.commands[words[0]].params for option in parameter.opts}
        if words
        else set()
    )
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}


def test_an_option_named_alone_is_one_of_some_command() -> None:
    known = {
        option
        for command in (CLI, *CLI.commands.values())
        for p in command.params
        for option in p.opts
    }
    assert set(re.findall(r"`(--[a-z-]+)", SHOWN)) <= known | {"--help"}


def test_every_command_is_explained() -> None:
    shown = commands(COMMANDS, "loadsheet")
    names = {command.split()[1] for command in shown}
    assert set(CLI.commands) - names == set()


@pytest.mark.parametrize("command", every("make"))
def test_a_make_target_and_its_variables_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(command)[1:]:
        name, is_variable, value = word.partition("=")
        assert re.search(
            rf"^{name} \?=" if is_variable else rf"^{name}:", makefile, re.MULTILINE
        ), word
        for option in re.findall(r"--\w+", value):
            source = (ROOT / "demo" / "__main__.py").read_text()
            assert f'"{option}"' in source or f" {option[2:]}: Annotated" in source


@pytest.mark.parametrize(
    "module", sorted(set(re.findall(r"python -m ([\w.]+)", " ".join(TEXTS.values()))) - {"pip"})
)
def test_a_module_that_is_to_be_run_is_ours_or_pytest(module: str) -> None:
    path = ROOT / module.replace(".", "/")
    assert module == "pytest" or path.with_suffix(".py").exists() or (path / "__main__.py").exists()


LINKS = [
    (name, link)
    for name, text in TEXTS.items()
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text))
]


@pytest.mark.parametrize(
    ("name", "link"), [(n, link) for n, link in LINKS if not link.startswith("https://")]
)
def test_a_link_or_an_image_leads_somewhere(name: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (ROOT / name).parent / path if path else ROOT / name
    assert target.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", target.read_text()), re.MULTILINE)
        assert anchor in {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }


def test_every_key_of_a_spec_is_explained() -> None:
    text = EXAMPLE + TEXTS["docs/spec.md"]
    keys = {key for _, node in mappings(pipeline_schema()) for key in node["properties"]}
    assert [key for key in keys if f"`{key}`" not in text] == []
    in_example = {
        *pipeline_schema()["properties"],
        *pipeline_schema()["$defs"]["table"]["properties"],
    }
    assert [key for key in in_example if not re.search(rf"\b{key}\b", EXAMPLE)] == []


def test_the_reference_of_keys_is_that_of_the_schema() -> None:
    assert TEXTS["docs/spec.md"] == reference()


@pytest.mark.parametrize("name", TEXTS)
def test_no_document_knows_the_machine_it_was_written_on(name: str) -> None:
    assert not re.search(r"(^|[\s`(])/(work|root|home|tmp/\w+)/", TEXTS[name])
