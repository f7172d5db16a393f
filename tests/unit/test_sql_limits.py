"""No SQL of up to 1 MiB, the most that a file may have, ends the process or keeps it busy for long.
And the parser's own limits are not ours: comments anywhere, threads with any stack."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadsheet.errors import WorkError
from loadsheet.sql import libpg
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import columns_read, tables_read
from loadsheet.sql.tokens import Unparsable, tokenize

MIB = 1024 * 1024
TOO_LONG = "the file has more than 100,000 words, values and signs"
ROOT = Path(__file__).parents[2]


def ended_at(sql: str) -> str:
    with pytest.raises(Unparsable) as caught:
        parse(sql)
    return str(caught.value)


def test_sql_that_ends_the_parser_costs_one_file_and_the_next_one_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library that crashes at the word `crash` and never comes back from `hang`."""
    real = libpg._library_file()
    code = Path(libpg.libpg_process.__file__).read_text()
    broken = tmp_path / "broken_parser.py"
    mischief = "    if b'crash' in sql: ctypes.string_at(0)\n        while b'hang' in sql: pass\n"
    call = "        result = library.pg_query_parse(sql)\n"
    assert call in code
    broken.write_text(code.replace(call, f"    {mischief}{call}"))
    monkeypatch.setattr(libpg, "_parser", None)
    monkeypatch.setattr(libpg.libpg_process, "__file__", str(broken))
    monkeypatch.setattr(libpg, "MOST_SECONDS", 2.0)
    try:
        for word in ("crash", "hang"):
            assert ended_at(f"SELECT {word}") == (
                "PostgreSQL's parser does not come to an end with this file"
            )
            assert [read.name for read in tables_read(parse("SELECT 1 FROM t"))] == ["t"]
        assert libpg._library_file() == real
    finally:
        libpg._close_parser()


DEEP = {
    "operators": "SELECT 1" + "+1" * 8_000,
    "signs": "SELECT " + "- " * 49_998 + "1",
    "queries": "SELECT 1" + " UNION SELECT 1" * 8_000,
    "joins": "SELECT 1 FROM a" + " JOIN b USING (x)" * 8_000,
    "casts": "SELECT 1" + "::a" * 8_000,
    "tests": "SELECT a" + " ISNULL" * 16_000,
    "subqueries": "SELECT " + "(SELECT " * 1_000 + "1" + ")" * 1_000,
    "functions and operators": "SELECT " + "f(" * 1_000 + "1" + ")" * 1_000 + "+1" * 4_000,
    "CASE": "SELECT " + "CASE WHEN a THEN " * 5_000 + "1" + " END" * 5_000,
}
DEEPEST = "SELECT 1" + "+1" * 49_999
PARSE = """
import sys, threading
from loadsheet.sql.parsing import parse
from loadsheet.sql.reads import columns_read, tables_read
from loadsheet.sql.tokens import Unparsable

def judge():
    try:
        statements = parse(sql)
        tables_read(statements), list(columns_read(statements))
        print("read")
    except Unparsable as error:
        print(error)

sql = sys.stdin.read()
judge()
for stack in map(int, sys.argv[1:]):
    threading.stack_size(stack)
    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert threading.stack_size() == stack
"""


def judged(sql: str, *stacks: int) -> list[str]:
    """What a process makes of `sql` in its main thread, and in one thread for each of `stacks`."""
    command = [sys.executable, "-c", PARSE, *map(str, stacks)]
    done = subprocess.run(command, input=sql, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("sql", DEEP.values(), ids=DEEP)
def test_deep_sql_ends_no_process_and_no_thread_with_a_small_stack(sql: str) -> None:
    """Also with the usual stack (0), 512 KiB and 128 KiB. On the caller's own stack, all but the
    signs and CASE ended the process."""
    answers = judged(sql, 0, 512 * 1024, 128 * 1024)
    assert len(answers) == 4 and len(set(answers)) == 1
    assert answers[0] in ("read", "nested too deeply to be read")


@pytest.mark.parametrize(
    "sql",
    [
        f"UPDATE t SET ({', '.join(['a'] * 20_000)}) = (SELECT {', '.join(['1'] * 20_000)})",
        f"UPDATE t SET x = 1, ({', '.join(['a'] * 9_999)}) = ARRAY[1, ({'1, ' * 100_000}1)]",
        "WITH x AS (UPDATE t SET (a, b) = (" * 40 + "SELECT 1" + ")) SELECT 1" * 40,
    ],
    ids=["columns", "an array", "levels"],
)
def test_copies_that_the_parser_makes_end_no_process(sql: str) -> None:
    """At 1 GB of output, it does."""
    (answer,) = judged(sql)
    assert answer in ("nested too deeply to be read", TOO_LONG)


def test_an_assignment_of_many_columns_is_read() -> None:
    columns = ", ".join(f"c{i}" for i in range(300))
    sql = f"UPDATE t SET ({columns}) = (SELECT {columns} FROM s), (a, b) = (1, 2) WHERE (a, b) = c"
    assert [read.name for read in tables_read(parse(sql))] == ["s"]


def test_the_deepest_sql_that_is_read_ends_no_process() -> None:
    assert judged(DEEPEST, 128 * 1024) == ["read", "read"]


LONG = {
    "comments": "SELECT 1" + "/**/" * (MIB // 4 - 2),
    "comments in comments": "SELECT 1 " + "/*" * 262_000 + "*/" * 262_000,
    "comments between strings": "SELECT 'a'" + "/**/" * 262_000 + "\n'b'",
    "signs": "SELECT 1" + "+-" * 500_000,
    "signs of one operator": "SELECT 1" + "@+" * 500_000,
    "quotes in quotes": "DO "
    + "".join(f"$a{i}$" for i in range(65_000))
    + "".join(f"$a{i}$" for i in reversed(range(65_000))),
    "parameters": "SELECT 1" + ",:a" * 49_000,
    "columns after a letter of two bytes": "SELECT 'é'," + ",".join(["a"] * 49_000) + " FROM t",
    "common tables": "WITH "
    + ", ".join(f"a{i} AS (SELECT 1 FROM a{i // 2})" for i in range(9_999))
    + " SELECT 1",
}


@pytest.mark.parametrize("sql", LONG.values(), ids=LONG)
def test_long_sql_is_judged_in_seconds(sql: str) -> None:
    """Each took minutes, or gigabytes. Now 3 s at most, on one slow machine."""
    assert len(sql.encode()) <= MIB
    began = time.process_time()
    try:
        statements = parse(sql)
        tables_read(statements)
        list(columns_read(statements))
    except Unparsable:
        pass
    assert time.process_time() - began < 20


def test_a_common_table_is_seen_by_those_after_it() -> None:
    sql = "WITH a AS (SELECT 1 FROM b), b AS (SELECT 1 FROM a), c AS (TABLE b) SELECT 1 FROM c"
    assert [(read.name, read.offset) for read in tables_read(parse(sql))] == [("b", 25)]


@pytest.mark.parametrize("comment", ["/* x */", "-- x\n", "/* -- */", "-- /*\n", "/*\n/* é */*/"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t WHERE a NOT {} IN (1)",
        "SELECT a FROM t ORDER BY a NULLS {} FIRST",
        "SELECT timestamp {} with {} time zone '2026-01-01' FROM t",
        "{} SELECT a {} FROM t {}",
    ],
)
def test_a_comment_may_stand_between_any_words(sql: str, comment: str) -> None:
    (table,) = tables_read(parse(sql.replace("{}", comment)))
    written = sql.replace("{}", comment)
    assert (table.name, written[table.offset]) == ("t", "t")


def test_strings_on_two_lines_are_one_string_but_not_with_a_block_comment() -> None:
    assert parse("SELECT 'a' -- x /*\n 'b'")
    for comment in ("/* x */\n", "/*\n*/", "-- x\n/* */\n"):
        with pytest.raises(Unparsable, match="cannot be read as PostgreSQL at \"'b'\""):
            parse(f"SELECT 'a' {comment} 'b'")


@pytest.mark.parametrize(
    ("sql", "operators"),
    [("a=-1", ["="]), ("a@-1", ["@-"]), ("a+-+b", ["+", "-", "+"]), ("a<=+-1", ["<=", "+"])],
)
def test_a_row_of_signs_is_cut_as_postgresql_cuts_it(sql: str, operators: list[str]) -> None:
    found = [token.text for token in tokenize(sql) if token.kind == "operator"]
    assert found[: len(operators)] == operators


def test_without_its_library_the_check_names_the_version_that_has_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert libpg.REQUIREMENT in (ROOT / "pyproject.toml").read_text()
    assert libpg.REQUIREMENT in (ROOT / "requirements/core.in").read_text()
    monkeypatch.setattr(libpg, "_parser", None)
    with monkeypatch.context() as patched:
        patched.setattr(libpg, "_FILES", {sys.platform: "moved.so"})
        with pytest.raises(WorkError, match=r"moved\.so.*pip install 'postgast>=0\.2,<0\.3'"):
            parse("SELECT 1")
        patched.setattr(libpg, "find_spec", lambda name: None)
        with pytest.raises(WorkError, match=r"not installed.*pip install 'postgast>=0\.2,<0\.3'"):
            parse("SELECT 1")


def test_a_process_that_has_parsed_much_sql_can_still_encrypt() -> None:
    """libpg_query keeps a key for each thread that it ran in, of 1,024 that a process has. With a
    thread for each statement, OpenSSL could not start after a thousand of them. A process that is
    forked from it starts a parser of its own."""
    code = (
        "from loadsheet.sql.libpg import syntax_trees\n"
        "for number in range(1_100): syntax_trees(b'SELECT 1')\n"
        "import ssl; ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\n"
        "import os\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(len(syntax_trees(b'SELECT 1; SELECT 2')))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, timeout=60
    )
    assert (result.stdout, result.stderr) == ("2\n", "")
