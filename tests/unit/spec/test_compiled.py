"""What a check has found is remembered by content: never stale, never trusted further than it
deserves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadsheet.errors import SpecError
from loadsheet.plan.steps import build_plan
from loadsheet.problem import Problem
from loadsheet.spec import compiled, dependencies, pipeline_file
from loadsheet.spec.models import Pipeline

ROOT = Path(__file__).resolve().parents[3]
SPECS = sorted((ROOT / "tests" / "specs").rglob("*.yml")) + [
    ROOT / "pipelines" / "flights" / "pipeline.yml"
]
SPEC = """\
version: 1
source: {conn_id: s}
lake: {conn_id: l, bucket: lake}
warehouse: {conn_id: w}
tables: {orders: , public.lines: }
transforms: {daily: , fct: }
"""
Found = tuple[Pipeline | None, list[Problem]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOADSHEET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "shop" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(SPEC)
    (file.parent / "sql" / "daily.sql").write_text("SELECT * FROM mart.fct\n")
    (file.parent / "sql" / "fct.sql").write_text("SELECT * FROM orders\n")
    (file.parent / "sql" / "orphan.sql").write_text("SELECT 1\n")
    return file


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were checked in full; nothing else in this process remembers them."""
    seen: list[Path] = []
    real = pipeline_file._check

    def check(path: Path) -> compiled.CheckResult:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(pipeline_file, "_check", check)
    return seen


def check_file(file: Path) -> Found:
    """As in a new process."""
    dependencies._remembered.clear()
    pipeline_file._check_once.cache_clear()
    return pipeline_file.check_file(file)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def test_a_heap_of_files_that_nothing_names_is_not_held_in_memory(
    spec: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = compiled._read
    monkeypatch.setattr(compiled, "_read", lambda file: read.append(Path(file).name) or real(file))
    for number in range(17):
        (spec.parent / "sql" / f"heap{number}.sql").write_bytes(
            b"-- " + b"x" * (compiled.MAX_BYTES - 3)
        )
    assert check_file(spec)[0]
    assert not [name for name in read if name.startswith("heap")] and not entries(folder)
    (spec.parent / "sql" / "heap0.sql").unlink()
    (spec.parent / "sql" / "heap1.sql").unlink()
    assert check_file(spec)[0]
    assert [name for name in read if name.startswith("heap")] and entries(folder)


@pytest.mark.parametrize("file", SPECS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_second_time_finds_what_the_first_found(file: Path, checks: list[Path]) -> None:
    first, again = check_file(file), check_file(file)
    assert again == first
    assert len(checks) == (1 if first[0] else 2)
    if first[0] and again[0]:
        assert build_plan(again[0]) == build_plan(first[0])


def test_warnings_are_not_lost(spec: Path, checks: list[Path]) -> None:
    first, again = check_file(spec), check_file(spec)
    assert (
        len(checks) == 1
        and len(first[1]) == 2
        and list(map(str, again[1])) == list(map(str, first[1]))
    )


def test_errors_are_found_again_each_time(spec: Path, folder: Path) -> None:
    spec.write_text(SPEC.replace("daily", "weekly"))
    for _ in range(2):
        dependencies._remembered.clear()
        with pytest.raises(SpecError, match=r"there is no file sql/weekly\.sql"):
            pipeline_file.load_pipeline(spec)
    assert entries(folder) == []


@pytest.mark.parametrize("name", ["pipeline.yml", "sql/fct.sql", "sql/orphan.sql", "sql/new.sql"])
def test_an_edit_is_seen_at_once(spec: Path, checks: list[Path], name: str) -> None:
    check_file(spec)
    file = spec.parent / name
    before = file.stat() if file.exists() else None
    file.write_text((file.read_text() if before else "") + "  \n")
    if before:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # a clock tells nothing
    check_file(spec)
    assert len(checks) == 2


def test_the_sql_is_the_files_and_the_order_that_of_the_sql(spec: Path) -> None:
    check_file(spec)
    pipeline, _ = check_file(spec)
    assert pipeline and pipeline.transform("fct").sql == "SELECT * FROM orders\n"
    assert [step.name for step in build_plan(pipeline)][-2:] == ["fct", "daily"]


def test_a_copy_under_another_name_is_another_pipeline(spec: Path, checks: list[Path]) -> None:
    check_file(spec)
    spec.parent.rename(spec.parent.with_name("store"))
    moved = spec.parent.with_name("store") / "pipeline.yml"
    pipeline, _ = check_file(moved)
    assert pipeline and pipeline.name == "store" and len(checks) == 2


def test_the_same_folder_elsewhere_has_its_own_paths(spec: Path, checks: list[Path]) -> None:
    check_file(spec)
    elsewhere = spec.parents[1] / "next version" / "shop"
    elsewhere.parent.mkdir()
    spec.parent.rename(elsewhere)
    pipeline, problems = check_file(elsewhere / "pipeline.yml")
    assert len(checks) == 1 and pipeline
    assert {pipeline.file.parent, pipeline.transforms[0].file.parents[1]} == {elsewhere}
    assert {problem.file for problem in problems} == {str(elsewhere / "pipeline.yml")}


def test_another_checker_checks_again(
    spec: Path, checks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_file(spec)
    monkeypatch.setattr(compiled, "checker_version", lambda: b"another schema")
    check_file(spec)
    assert len(checks) == 2


@pytest.mark.parametrize(
    "changed",
    [
        "loadsheet/schemas/pipeline.schema.json",
        "loadsheet/spec/rules/pipeline.py",
        "loadsheet/spec/sql_reading.py",
    ],
)
def test_a_changed_schema_or_rule_is_another_checker(tmp_path: Path, changed: str) -> None:
    subprocess.run(["cp", "-r", str(ROOT / "loadsheet"), str(tmp_path)], check=True)

    def checker_version() -> str:
        code = "from loadsheet.spec.compiled import checker_version; print(checker_version().hex())"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout

    before = checker_version()
    assert checker_version() == before
    with (tmp_path / changed).open("a") as file:
        file.write("\n")
    assert checker_version() != before


CHECK_ALL = """
import sys
from pathlib import Path
from loadsheet.spec.pipeline_file import check_file
for spec in sorted(Path("tests/specs").rglob("*.yml")):
    check_file(spec)
for name, module in sys.modules.items():
    if name.split(".")[0] == "loadsheet":
        print(module.__file__)
"""


def test_the_key_covers_every_module_that_a_check_imports() -> None:
    """Code that a check runs may move to another folder only together with `compiled.CHECKING`."""
    environment = {"LOADSHEET_CACHE": "", "PYTHONPATH": str(ROOT), "PATH": ""}
    command = [sys.executable, "-c", CHECK_ALL]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    imported = {Path(file) for file in done.stdout.split()}
    assert ROOT / "loadsheet" / "spec" / "rules" / "tables.py" in imported
    assert imported <= set(compiled.code_files())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("orders", "secret"),
        lambda text: text[:-7],
        lambda text: "",
        lambda text: "not json",
        lambda text: "\udcff".join(text.split("\n")),
        lambda text: text.partition("\n")[2],
    ],
    ids=["tampered", "truncated", "empty", "foreign", "not UTF-8", "unsealed"],
)
def test_an_entry_that_is_not_what_was_written_is_not_used(
    spec: Path, folder: Path, checks: list[Path], damage
) -> None:  # type: ignore[no-untyped-def]
    first = check_file(spec)
    (entry,) = entries(folder)
    entry.write_text(damage(entry.read_text()), errors="surrogateescape")
    assert check_file(spec) == first and len(checks) == 2


def test_another_files_entry_is_not_used(spec: Path, folder: Path, checks: list[Path]) -> None:
    check_file(spec)
    (other,) = entries(folder)
    spec.write_text(SPEC.replace("public.lines", "lines"))
    first = check_file(spec)
    (entry,) = set(entries(folder)) - {other}
    entry.write_bytes(other.read_bytes())
    assert check_file(spec) == first and len(checks) == 3


def test_an_entry_with_a_true_seal_is_used(spec: Path, folder: Path, checks: list[Path]) -> None:
    """The negative control of the two above: what protects is the seal, and the folder's owner, not
    luck."""
    check_file(spec)
    (entry,) = entries(folder)
    body = json.loads(entry.read_text().partition("\n")[2])
    body["data"]["description"] = "tampered"
    compiled.write_entry(entry.stem, body)
    pipeline, _ = check_file(spec)
    assert pipeline and pipeline.description == "tampered" and len(checks) == 1


def test_a_sql_link_is_left_to_the_check(spec: Path, folder: Path) -> None:
    check_file(spec)
    sql = spec.parent / "sql" / "fct.sql"
    sql.rename(spec.parents[1] / "outside.sql")
    sql.symlink_to(spec.parents[1] / "outside.sql")
    pipeline, problems = check_file(spec)
    assert pipeline is None and any(
        "outside the pipeline's folder" in problem.message for problem in problems
    )


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_may_write_is_not_used(
    spec: Path, folder: Path, checks: list[Path], mode: int
) -> None:
    check_file(spec)
    folder.chmod(mode)
    check_file(spec)
    assert len(checks) == 2


def test_a_folder_of_somebody_else_is_not_used(
    spec: Path, checks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_file(spec)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    check_file(spec)
    assert len(checks) == 2


@pytest.mark.parametrize("chosen", ["", "relative", "/proc/nowhere", "/dev/null/cache", "/nul\0"])
def test_nowhere_to_write_is_fine(
    spec: Path, checks: list[Path], monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    if "\0" in chosen:
        monkeypatch.setattr(compiled, "_folder", lambda: Path(chosen))
    else:
        monkeypatch.setenv("LOADSHEET_CACHE", chosen)
    assert check_file(spec) == check_file(spec) and len(checks) == 2


def test_without_a_choice_it_is_in_the_users_cache_folder(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOADSHEET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    previous = os.umask(0o002)
    try:
        check_file(spec)
    finally:
        os.umask(previous)
    (entry,) = entries(tmp_path / "user" / "loadsheet")
    assert (
        entry.stat().st_mode & 0o077
        == (tmp_path / "user" / "loadsheet").stat().st_mode & 0o077
        == 0
    )


def test_the_cache_stays_small(folder: Path) -> None:
    for number in range(compiled.MOST_ENTRIES + 5):
        compiled.write_entry(f"00{number:062}", number)
        os.utime(folder / "00" / f"00{number:062}.json", (number, number))
    assert len(entries(folder)) == compiled.MOST_ENTRIES
    assert compiled.read_entry(f"00{4:062}") is None and compiled.read_entry(f"00{5:062}") == 5


def test_a_remembered_file_needs_no_parser_of_yaml_json_schema_or_sql(
    spec: Path, folder: Path
) -> None:
    check_file(spec)
    code = (
        "import sys; from pathlib import Path; from loadsheet.spec.pipeline_file import"
        " load_pipeline;from loadsheet.plan.steps import build_plan;"
        f" build_plan(load_pipeline(Path({str(spec)!r})));print(sorted({{'yaml', 'jsonschema',"
        " 'loadsheet.sql.libpg', 'pickle'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
