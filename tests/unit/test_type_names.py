"""Only the name of a type passes as one: whatever is accepted, the grammar of PostgreSQL reads as
one column with a type and nothing else."""

from __future__ import annotations

import json
import random
import re
from hashlib import sha256

import pytest

from loadsheet.errors import Corrupt
from loadsheet.lake.manifest import VERSION, Manifest, read_manifest
from loadsheet.sql.libpg import SyntaxRefused, syntax_trees
from loadsheet.sql.type_names import UnknownType, declared_type, known_type
from loadsheet.sql.types import Column

KNOWN = (
    """
integer|bigint[]|numeric(10,2)|numeric(3,-2)[]|character varying(20)|character(3)|bpchar|"char"
bit(3)|"bit"|bit varying(5)[]|time(3) without time zone|timestamp with time zone
timestamp(0) with time zone[]|interval|interval(3)|interval year to month
interval day to second(6)[]|name|json|jsonb[]|tstzmultirange|int2vector|public.citext
"odd "" schema".hstore[]|gis.geometry(Point,4326)|geometry(MultiPolygonZM)|vector(3)|ext.halfvec(3)
""".replace("\n", "|")
    .strip("|")
    .split("|")
)
HOSTILE = (
    """
integer); DROP TABLE canary; --|integer default 1|integer NOT NULL|integer, evil text
integer COLLATE "C"|integer PRIMARY KEY|integer[]; SELECT 1|numeric(10,2) CHECK (false)
numeric(10,(SELECT 1))|character varying(20|text)|text --|text/**/|x"; DROP TABLE canary; --|mood
interval day to second(3) default now()|timestamp with time zone USING now()|integer[][]; x
geometry(Point,4326); DROP TABLE canary|geometry(evil(),1)|public.evil|"a".b.citext|"a\x00".citext
"a.citext|text using pg_sleep(9)|regclass|int4|INTEGER|\ttext|integer\u00a0|١integer|bit(٣)
serial|setof text|record|text[3]
""".strip("\n")
    .replace("\n", "|")
    .split("|")
)
WORDS = """
integer text numeric interval timestamp time bit character varying with without zone day to second
vector geometry public "a" "b""c" ( ) , . [] [ ] 3 -2 10 ; -- /* */ ' " default 1 not null check
primary key references using collate generated always as identity \x00 \\ $$ | = :: % Point setof
""".split()


@pytest.mark.parametrize("text", KNOWN)
def test_a_type_that_lands_is_known(text: str) -> None:
    assert known_type(text) == text
    assert Column(name="a", attnum=1, source_type=text, type=text).type == text


@pytest.mark.parametrize("text", [*HOSTILE, "text\n", "", None, 3, ["text"], {"text": 1}])
def test_any_other_text_is_no_column_s_type(text: object) -> None:
    with pytest.raises(UnknownType, match="is not the name of a type"):
        Column(name="a", attnum=1, source_type="text", type=text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("int", "int"),
        ("VARCHAR ( 20 )", "varchar(20)"),
        ("Numeric(10, 2)", "numeric(10,2)"),
        ("time (3) with  time zone", "time(3) with time zone"),
        ("timestamptz[]", "timestamptz[]"),
        ("int[3][]", "int[3][]"),
        ('"Odd".citext', '"Odd".citext'),
        ("xml", "xml"),
    ],
)
def test_a_person_may_write_it_in_another_way(text: str, name: str) -> None:
    assert declared_type(text) == name


@pytest.mark.parametrize(
    "text", ["int default 1", "int primary key", "int); drop table x; --", "int check (1=1)", ""]
)
def test_a_person_may_not_write_more_than_a_type(text: str) -> None:
    with pytest.raises(UnknownType):
        declared_type(text)


def columns_of(text: str) -> list[dict[str, object]]:
    """The columns and constraints of CREATE TABLE with a column of this type."""
    (tree,) = syntax_trees(f"CREATE TABLE t (c {text})".encode())
    ((kind, body),) = tree["stmt"].items()
    assert kind == "CreateStmt"
    return body["tableElts"]


def test_what_is_accepted_is_read_as_a_type_and_no_more() -> None:
    chance = random.Random(16)
    accepted = 0
    for number in range(60_000):
        words = chance.choices(WORDS, k=chance.randint(1, 4))
        text = chance.choice(("", " ")).join(words)
        if number % 2:
            base = chance.choice(KNOWN)
            place = chance.randint(0, len(base))
            text = base[:place] + text + base[place:]
        for check in (known_type, declared_type):
            try:
                name = check(text)
            except UnknownType:
                continue
            accepted += 1
            try:
                (column,) = columns_of(name)
            except SyntaxRefused:  # an unquoted schema that is called like a keyword
                assert re.match(r"[a-z]+\.[a-z]", name), text
                continue
            assert set(column) == {"ColumnDef"}, text
            assert set(column["ColumnDef"]) <= {"colname", "typeName", "is_local", "location"}, text
    # Otherwise nothing would have been looked at.
    assert accepted > 500


def test_the_parser_sees_what_hides_behind_a_type() -> None:
    """The control: the oracle above would see it."""
    assert "constraints" in columns_of("int default 1")[0]["ColumnDef"]
    with pytest.raises(ValueError, match="unpack"):
        columns_of("int); DROP TABLE canary; --")
    with pytest.raises(SyntaxRefused):
        columns_of('x"; DROP TABLE canary; --')


def stored(**changed: object) -> bytes:
    """A manifest as it is stored, with changes to its fields."""
    column = Column(name="at", attnum=1, source_type="date", type="date")
    manifest = Manifest(
        load_id="x",
        pipeline="shop",
        table="sale",
        run_id="r",
        fence=1,
        action="merge",
        builds_on_target=False,
        format="csv",
        columns=(column,),
        key=("at",),
        key_is_enforced=True,
        source_oid=1,
        cursor="at",
        cursor_type="date",
        read_at="2026-01-01",
        rows=0,
        parts=(),
    )
    return json.dumps({**json.loads(manifest.to_json()), **changed}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"cursor_type": "date) OR true; --"},
        {"columns": [{"name": "a", "attnum": 1, "source_type": "date", "type": "date default 1"}]},
        {"columns": [{"name": "a", "attnum": 1, "source_type": "date", "type": ["date"]}]},
        {"columns": [{"name": ["a"], "attnum": 1, "source_type": "date", "type": "date"}]},
        {"columns": ["at"]},
        {"key": [["at"]]},
        {"key": "at"},
        {"rows": "0"},
        {"rows": True},
        {"cursor": {"a": 1}},
        {"read_at": None},
        {"parts": [{"name": 1, "bytes": 1, "sha256": ""}]},
        {"parts": {"name": "x"}},
        {"action": "drop"},
        {"format": "text"},
        {"evil": 1},
    ],
)
def test_a_manifest_holds_only_what_a_manifest_holds(changed: dict[str, object]) -> None:
    read_manifest(stored(), "m", sha256(stored()).hexdigest())
    forged = stored(**changed)
    with pytest.raises(Corrupt, match="not a readable manifest"):
        read_manifest(forged, "m", sha256(forged).hexdigest())


def test_a_manifest_of_another_version_is_called_so_whatever_fields_it_has() -> None:
    newer = stored(version=VERSION + 1, new_in_it=1)
    with pytest.raises(Corrupt, match="written by another version of Loadsheet"):
        read_manifest(newer, "m", sha256(newer).hexdigest())
