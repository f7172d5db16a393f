"""Files as bytes: whatever they hold, the answer is data with positions or a located problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadsheet.errors import SpecError
from loadsheet.problem import Finding, dotted
from loadsheet.spec.files import MAX_BYTES
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.strict_yaml import read_document

SPEC = """\
version: 1
source: {conn_id: shop_db}
lake: {conn_id: lake, bucket: lake}
warehouse: {conn_id: warehouse}
tables:
  orders: {primary_key: [id, line]}
  größe:
"""


def _only_message(path: Path) -> str:
    pipeline, problems = check_file(path)
    assert pipeline is None
    assert [(problem.line >= 1, problem.column >= 1) for problem in problems] == [(True, True)]
    return problems[0].message


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "shop" / "pipeline.yml"
    file.parent.mkdir()
    file.write_text(SPEC, encoding="utf-8")
    return file


def test_every_key_and_value_knows_its_line_and_column(spec: Path) -> None:
    document = read_document(spec)
    assert document.keys[("tables", "orders", "primary_key")] == (6, 12)
    assert document.values[("tables", "orders", "primary_key", 1)] == (6, 30)
    assert document.keys[("tables", "größe")] == (7, 3)
    assert document.values[("tables", "größe")] == (7, 9)


def test_a_finding_at_a_path_that_is_not_there_points_at_its_nearest_parent(spec: Path) -> None:
    problem = read_document(spec).problem(
        Finding("wrong-value", path=("tables", "orders", "incremental", "by"), message="x")
    )
    assert (problem.line, problem.column, problem.path) == (6, 3, "tables.orders.incremental.by")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ((), ""),
        (("tables", "orders", "primary_key", 1), "tables.orders.primary_key[1]"),
        (("tables", "größe"), "tables.größe"),
        (("tables", 'a.b "c"'), 'tables."a.b \\"c\\""'),
        (("tables", "two\nlines"), 'tables."two\\nlines"'),
    ],
)
def test_a_path_is_shown_on_one_line(path: tuple[str | int, ...], shown: str) -> None:
    assert dotted(path) == shown


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(spec: Path) -> None:
    plain = read_document(spec)
    spec.write_bytes(b"\xef\xbb\xbf" + SPEC.replace("\n", "\r\n").encode())
    marked = read_document(spec)
    assert (marked.data, marked.keys, marked.values) == (plain.data, plain.keys, plain.values)


def test_old_mac_line_ends_are_line_ends(spec: Path) -> None:
    spec.write_bytes(SPEC.replace("\n", "\r").encode())
    assert read_document(spec).keys[("tables",)] == (5, 1)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    assert _only_message(tmp_path / "nowhere" / "pipeline.yml") == "there is no such file"


def test_a_folder_is_a_problem(tmp_path: Path) -> None:
    assert _only_message(tmp_path) == "this is a folder, not a file"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipeline.yml")
    assert _only_message(tmp_path / "pipeline.yml") == "this is not a regular file"


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "a/../" * 2000])
def test_a_path_no_file_can_have_is_a_problem(tmp_path: Path, name: str) -> None:
    assert _only_message(tmp_path / name)


def test_a_binary_file_is_a_problem(spec: Path) -> None:
    spec.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(range(256)))
    assert "not UTF-8" in _only_message(spec)


def test_a_file_of_zeros_is_a_problem(spec: Path) -> None:
    spec.write_bytes(bytes(1000))
    assert _only_message(spec) == "the invisible character U+0000 is not allowed here"


def test_a_file_above_1_mib_is_refused_unread(spec: Path) -> None:
    spec.write_bytes(b"#" * (MAX_BYTES + 1))
    assert _only_message(spec) == "the file is larger than 1 MiB"


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "? " * 100_000])
def test_a_nesting_bomb_is_a_problem(spec: Path, text: str) -> None:
    spec.write_text(text)
    assert _only_message(spec) == "nested more than 50 levels deep"


@pytest.mark.parametrize("number", ["9" * 5000, f"0x{'f' * 5000}", "9" * 400 + ".5", "1.5e+999"])
def test_a_number_too_large_for_python_is_a_problem(spec: Path, number: str) -> None:
    spec.write_text(SPEC.replace("version: 1", f"version: {number}"))
    assert _only_message(spec) == "this number is too large"


@pytest.mark.parametrize("mark", ["\u0085", "\u2028", "\u2029", "\ufeff", "\x7f", "\x9f"])
def test_invisible_characters_are_refused_where_they_stand(spec: Path, mark: str) -> None:
    spec.write_text(SPEC.replace("shop_db", f"shop{mark}db"), encoding="utf-8")
    (problem,) = check_file(spec)[1]
    assert (problem.line, problem.column) == (2, 23)


@pytest.mark.parametrize(
    "word", ["yes", "No", "ON", "off", "1:30", "1:30.5", "010", "08", "0o17", "0b1", "1_0", "1e3"]
)
@pytest.mark.parametrize("place", ["{}: 1", "a: {}", "a: [{}]", "{{a: {}}}"])
def test_a_word_that_yaml_1_1_and_1_2_read_differently_must_be_quoted(
    spec: Path, word: str, place: str
) -> None:
    spec.write_text(place.format(word))
    (finding,) = read_document(spec).findings
    assert word in finding.hint
    spec.write_text(place.format(f'"{word}"'))
    assert read_document(spec).findings == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("~", None),
        ("Null", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("0x1F", 31),
        ("0.5", 0.5),
        (".5", 0.5),
        ("y", "y"),
        ("15m", "15m"),
        ("1.2.3", "1.2.3"),
        ("0 6 * * *", "0 6 * * *"),
        ("|-\n  2026-01-01", "2026-01-01"),
    ],
)
def test_a_word_that_all_yaml_reads_alike_needs_no_quotes(
    spec: Path, text: str, value: object
) -> None:
    spec.write_text(f"a: {text}\n")
    document = read_document(spec)
    assert (document.data, document.findings) == ({"a": value}, [])


def test_an_unreadable_file_raises_spec_error_with_its_problem(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="there is no such file") as error:
        read_document(tmp_path / "pipeline.yml")
    assert len(error.value.problems) == 1
