"""Control characters, turns of direction and secrets: what is shown steers nothing and gives
nothing away."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from loadsheet import redact
from loadsheet.connections.lookup import Connection
from loadsheet.redact import clean, hanging, json_safe, mask_line, masked, on_one_line, visible
from loadsheet.spec.pipeline_file import check_file
from loadsheet.spec.suggest import quote_value

HEAD = (
    "version: 1\nsource: {conn_id: s}\nlake: {conn_id: l, bucket: lake}\nwarehouse: {conn_id:"
    " w}\ntables: {t: }\n"
)


def test_what_steers_a_screen_becomes_visible_and_lines_stay() -> None:
    assert (
        visible("a\x1b[2Jb\r\x9b\u202e\tc\nd é 👩‍👩‍👧")
        == "a\\x1b[2Jb\\r\\x9b\\u202e\tc\nd é 👩‍👩‍👧"
    )
    assert on_one_line("a\nb\tc") == "a\\nb\\tc"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("has no table x\nok; it has y", "has no table x\n  ok; it has y"),
        ("line 3:\n  SELECT x\n         ^", "line 3:\n  SELECT x\n         ^"),
        ("a\n\n  b", "a\n\n  b"),
    ],
)
def test_no_further_line_of_a_message_looks_like_a_line_of_output(message: str, shown: str) -> None:
    assert hanging(message) == shown


def test_json_stays_json_and_gives_the_same_text_back() -> None:
    text = {"name": "a\x1b\x7f\x9b\u202e\u2028\nb"}
    shown_ = json_safe(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown_) == text and shown_ == visible(shown_)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\u202eb", "a\x9bb", "a\u2066b", "a\x08b"])
def test_neither_a_spec_nor_a_sql_file_may_hold_what_shows_it_otherwise_than_it_is(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "shop" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(f"{HEAD}description: {json.dumps(name)}\n")
    (problem,) = check_file(file)[1]
    assert (problem.line, problem.column) == (6, 14) and "is not allowed here" in problem.message
    file.write_text(f"{HEAD}transforms: {{m: }}\n")
    (file.parent / "sql" / "m.sql").write_text(f"SELECT 1\n  AS x -- {name}\n")
    (problem,) = check_file(file)[1]
    assert problem.file.endswith("m.sql") and (problem.line, problem.column) == (2, 12)
    assert "\x1b" not in str(problem)


def test_a_name_in_sql_cannot_forge_a_line_of_the_check(tmp_path: Path) -> None:
    file = tmp_path / "shop" / "pipeline.yml"
    (file.parent / "sql").mkdir(parents=True)
    file.write_text(f"{HEAD}transforms: {{m: }}\n")
    (file.parent / "sql" / "m.sql").write_text('SELECT * FROM staging."x\nall is well"')
    (problem,) = check_file(file)[1]
    assert len(str(problem).splitlines()) == 2  # itself and its hint


@pytest.mark.parametrize("target", ["../../../secret.txt", "/dev/zero", "/dev/stdin"])
def test_a_pipeline_file_may_not_be_a_link_to_what_is_not_a_pipeline(
    tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret.txt").write_text("TOP_SECRET: in here")
    file = tmp_path / "project" / "pipelines" / "shop" / "pipeline.yml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    pipeline, (problem,) = check_file(file)
    assert pipeline is None and "this link leads out" in problem.message
    assert "TOP_SECRET" not in str(problem)


def test_a_link_within_the_folder_of_pipelines_is_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    folder = tmp_path / "pipelines" / "shop"
    (folder / "..2026_01_01").mkdir(parents=True)
    (folder / "..2026_01_01" / "pipeline.yml").write_text(HEAD)
    (folder / "..data").symlink_to("..2026_01_01")
    (folder / "pipeline.yml").symlink_to("..data/pipeline.yml")
    assert check_file(folder / "pipeline.yml")[0]


@pytest.fixture
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_secrets", set())


def test_a_connections_secrets_are_known_by_value(nothing_known: None) -> None:
    extra = {
        "options": "-c app.key=opt-canary -c x=1",
        "aws_secret_access_key": "s3-canary",
        "deep": {"token": "deep-canary"},
    }
    text = "p@ss/w:rd#1 p%40ss%2Fw%3Ard%231 opt-canary s3-canary deep-canary plain"
    assert masked(text) == text
    Connection(conn_id="c", password="p@ss/w:rd#1", extra=extra)
    assert masked(text) == "*** *** *** *** *** plain"


@pytest.mark.parametrize("show", [str, json.dumps, repr, quote])
def test_a_secret_is_masked_in_every_way_it_may_be_written(
    nothing_known: None, show: Callable[[str], str]
) -> None:
    secret = "can\"ary/'é\\x"
    Connection(conn_id="c", extra={"servers": [{"password": secret}]})
    assert "can" in show(secret) and "can" not in masked(f"the server said {show(secret)}")


def test_a_short_password_does_not_blank_out_the_messages(nothing_known: None) -> None:
    Connection(conn_id="c", password="x")
    assert clean("relation x is missing") == "relation x is missing"


def test_a_password_that_is_the_word_before_another_does_not_uncover_that(
    nothing_known: None,
) -> None:
    Connection(conn_id="c", password="secret")
    assert clean("secret_key=hunter2 failed") == "secret_key=*** failed"


LONG = (
    "a.",
    "a+",
    "x:",
    "://x:",
    "password",
    "password=",
    "token ",
    "invalid ",
    'value "',
    'value "***" is out of range',
    'invalid: "***"',
    "out of range",
    "\n \t",
    "'\"",
    "host=a ",
    "host=a b=c ",
    "password=a b=c ",
    "password '",
    "host=",
)


@pytest.mark.parametrize("piece", LONG)
def test_a_long_message_costs_no_more_than_its_length(piece: str) -> None:
    """Whoever owns a view may RAISE a megabyte of it; what looks back at each place took 13 s for
    40 kB."""
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    clean(text), mask_line("http://" + text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            'value "12" is out of range for type smallint',
            'value "***" is out of range for type smallint',
        ),
        (
            'invalid input syntax for type integer: "x: "y""',
            'invalid input syntax for type integer: "***"',
        ),
        ("connect to postgresql://me@corp.example:p:w@h:5/d", "connect to postgresql://***@h:5/d"),
    ],
)
def test_values_and_logins_are_taken_out(text: str, shown: str) -> None:
    assert clean(text) == shown


REASONS = (
    'invalid input syntax for type integer: "12"',
    "no server",
    'value "12" is out of range for type smallint',
    'relation "x" does not exist',
    'value "12" is out of range for type bigint',
    'malformed array literal: "{"',
)


@pytest.mark.parametrize("first", range(len(REASONS)))
def test_a_report_of_many_tables_loses_none_when_it_is_cleaned_again(first: int) -> None:
    """An alarm about a batch, or a digest: masked values are no reason to mask what is between
    them."""
    order = [*REASONS[first:], *REASONS[:first]]
    lines = [f"t{number}: {clean(reason)}" for number, reason in enumerate(order)]
    report = "\n".join(lines)
    assert "12" not in report and clean(report) == report
    # The control: uncleaned, a value may hold quotes and lines, and all between them is taken out.
    assert clean("\n".join(REASONS)).count("\n") < len(REASONS) - 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("dblink('host=db user=me password=hunter2', 'x')", "host=db user=me password=***'"),
        ("dblink('dbname=x\n  password=hunter2 host=db')", "password=*** host=db'"),
        ("dblink('PASSWORD=hunter2 port=5 dbname=x')", "PASSWORD=*** port=5 dbname=x'"),
        ("dblink('host=db password=''hunter2 a'' user=me')", "password=*** user=me'"),
        ("ALTER ROLE me PASSWORD 'a''hunter2'", "PASSWORD ***"),
        ("OPTIONS (user 'me', password 'hunter2')", "password ***)"),
        # The negative control: these are columns.
        ("WHERE user=a AND password=b.hunter2", "password=b.hunter2"),
        ("SELECT password, 'hunter2' FROM t WHERE token = 'hunter2'", "token = 'hunter2'"),
        ("ON host=a.host\nWHERE password=b.hunter2", "password=b.hunter2"),
    ],
)
def test_passwords_in_sql_are_masked_and_columns_are_not(text: str, shown: str) -> None:
    assert shown in masked(text)
    assert ("hunter2" in masked(text)) == ("hunter2" in shown)


@pytest.mark.parametrize(
    "value",
    [
        "host=db password=hunter2",
        "secret_key: hunter2",
        "postgresql://u:hunter2@db/x",
        "token=hunter2;",
    ],
)
def test_a_secret_put_where_an_id_belongs_is_not_quoted(tmp_path: Path, value: str) -> None:
    assert "hunter2" not in quote_value(value)
    file = tmp_path / "shop" / "pipeline.yml"
    file.parent.mkdir(parents=True)
    file.write_text(HEAD.replace("conn_id: s", f"conn_id: {json.dumps(value)}"))
    pipeline, problems = check_file(file)
    assert pipeline is None and problems and "hunter2" not in "".join(map(str, problems))
