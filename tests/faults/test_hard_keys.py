"""Keys and cursors of hard types: values that are equal but not the same, and steps as small as the
type allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from loadsheet.errors import Refused
from loadsheet.sql.text import ident
from tests.faults.fidelity import compared
from tests.faults.hard_values import TYPES
from tests.faults.hostile import PROFILES, TRAP, hostile
from tests.faults.oracle import Verdict, violations
from tests.faults.scale import scaled
from tests.faults.tally import Tally
from tests.project import Project

# Each type's keys; a pair is one key and how it is written later, which the type takes for the
# same.
KEYS: dict[str, list[str | tuple[str, str]]] = {
    "numeric": [("1.0", "1.00"), ("0", "-0.000"), "'NaN'", "'-Infinity'", "1e-16383"],
    "float8": [("'-0'", "'0'"), "'NaN'", "0.3", "0.1::float8 + 0.2::float8"],
    "float4": [("'0'", "'-0'"), "16777216", "1.4e-45"],
    "interval": [("'1 mon'", "'30 days'"), ("'24:00'", "'1 day'"), "'0'"],
    "jsonb": [("'{\"a\": 1.0}'", "'{\"a\": 1.00}'"), "'[]'", "'null'", "'\"\"'"],
    "bpchar": [("'a'", "'a  '"), "' a'", "''"],
    "numeric[]": [("'{1.0}'", "'{1.00}'"), "'{}'", "'[5:5]={1}'", "'{NULL}'"],
    "numrange": [("'[1.0,2]'", "'[1.00,2.0]'"), "'empty'", "'(,)'"],
    "nummultirange": [("'{[1.0,2]}'", "'{[1.00,2]}'"), "'{}'"],
    "text": ["'a'", "'a '", "'A'", "''", r"E'a\n'", "U&'e\\0301'", "U&'\\00e9'", "'%s'"],
    "char(8)": ["'a'", "' a'", "''"],
    "varchar(9)": ["'a'", "'a '"],
    "bytea": ["''", r"'\x00'", r"'\x0000'"],
    "timestamptz": [
        "'infinity'",
        "'-infinity'",
        "'4713-01-01 BC'",
        "'2026-01-01 00:00:00.000001Z'",
    ],
    "date": ["'infinity'", "'0001-01-01 BC'", "'5874897-12-31'"],
    "timetz": ["'12:00+00'", "'13:00+01'", "'24:00+00'"],
    "text[]": ["'{}'", "'{NULL}'", "'{\"NULL\"}'", "'{\"\"}'", "'[0:0]={a}'", "'{a}'"],
    "mood": ["'sad'", "'NULL'", "'ünï cødé'"],
    "feeling": ["'sad'", "'a,b'"],
    "percent": ["0", "0.10", "99.99"],
    "uuid": ["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    "inet": ["'10.0.0.1'", "'10.0.0.1/8'", "'::1'"],
    "macaddr8": ["'08:00:2b:01:02:03:04:05'"],
    "bit varying": ["B''", "B'0'", "B'00'"],
    "money": ["'-$0.01'", "'$92,233,720,368,547,758.07'"],
    "tsvector": ["'a:1'", "'a'"],
    "name": ["'a'", "'A'"],
    '"char"': ["'a'", "''"],
    "oid": ["0", "4294967295"],
    "xid8": ["'0'", "'18446744073709551615'"],
    "pg_lsn": ["'0/0'", "'FFFFFFFF/FFFFFFFF'"],
    "bool": ["true", "false"],
    "daterange": ["'[2026-01-01,2026-01-02)'", "'empty'"],
}
# Each type's cursors, in the order in which the rows come; `|` is where the first run ends.
CURSORS = {
    "int2": "-32768 | 0, 32767",
    "int8": "9223372036854775805, 9223372036854775806 | 9223372036854775807",
    "numeric": "9, 10.00 | 10.000000000000000000000000000000000000001, 1e500",
    "float8": "0.1, 0.3 | 0.1::float8 + 0.2::float8, 1.7976931348623157e308",
    "float4": "'-infinity', 0.1 | 0.10000001, 16777216",
    "percent": "0.01 | 0.02, 50",
    "timestamptz": (
        "'4713-01-01 BC', '2026-01-01 00:00:00Z' | '2026-01-01 00:00:00.000001Z', '2026-02-03Z'"
    ),
    "timestamp": "'-infinity', '2026-01-01 23:59:59.999999' | '2026-01-02', '2026-02-03'",
    "timestamp(3)": "'2026-01-01 00:00:00.001' | '2026-01-01 00:00:00.002'",
    "date": "'0044-03-15 BC' | '2026-02-03', '2026-03-02'",
}
# Types with an order that rows need not follow as they are written.
NO_CURSORS = (
    "money",
    "interval",
    "time",
    "timetz",
    "uuid",
    "text",
    "char(5)",
    "bytea",
    "inet",
    "pg_lsn",
    "xid8",
    "oid",
    "bool",
    "bit(3)",
    "bit varying",
    "jsonb",
    "int[]",
)


@pytest.fixture
def typed(project: Project) -> Iterator[Project]:
    project.in_source(TYPES)
    project.in_source(TRAP)
    project.in_warehouse(TRAP)
    yield project


@pytest.mark.timeout(scaled(120, 600))
@pytest.mark.parametrize("profile", scaled(["traps"], list(PROFILES)))
@pytest.mark.parametrize("wire", scaled(["auto"], ["auto", "binary", "csv"]))
def test_a_key_that_is_written_in_another_way_stays_one_row(
    typed: Project, tally: Callable[[str], Tally], wire: str, profile: str
) -> None:
    loose = [kind for kind, keys in KEYS.items() if any(isinstance(key, tuple) for key in keys)]
    names = {
        kind: f"k {kind}"
        for kind in scaled([*loose, *sorted(KEYS.keys() - loose)[::3]], list(KEYS))
    }
    script = []
    for kind, name in names.items():
        script += [
            f"CREATE TABLE {ident(name)} (k {kind} PRIMARY KEY, id int, v text, at timestamptz"
            " DEFAULT now())"
        ]
        for number, key in enumerate(KEYS[kind]):
            script += [
                f"INSERT INTO {ident(name)} VALUES ({key if isinstance(key, str) else key[0]},"
                f" {number})"
            ]
    typed.in_source(";".join(script))
    typed.spec({name: {"incremental": "at"} for name in names.values()}, lake={"format": wire})
    with hostile(profile, typed.source, typed.warehouse):
        typed.succeed()
    problems = compared(typed.source, typed.warehouse, list(names.values()))
    for number, row in enumerate(["'changed'", "NULL"]):  # a merge, then a replacement in place
        script = []
        for kind, name in names.items():
            for place, key in enumerate(KEYS[kind]):
                new = key if isinstance(key, str) else key[1 - number]
                script += [
                    f"UPDATE {ident(name)} SET k = {new}, v = {row}, at = clock_timestamp() WHERE"
                    f" id = {place}"
                ]
        typed.in_source(";".join(script))
        if number:
            views = (
                f"CREATE VIEW {ident(name)} AS SELECT * FROM staging.{ident(name)}"
                for name in names.values()
            )
            typed.in_warehouse(";".join(views))
        with hostile(profile, typed.source, typed.warehouse):
            typed.succeed(full_refresh="all" if number else frozenset())
        problems += compared(typed.source, typed.warehouse, list(names.values()))
    tally("hard keys, merged and replaced").add(
        Verdict(rows=0, lost=len(problems)), tried=sum(len(KEYS[kind]) for kind in names)
    )
    assert not problems, "\n".join(problems)
    assert violations(typed) == []


@pytest.mark.timeout(scaled(120, 600))
@pytest.mark.parametrize("profile", scaled(["german"], list(PROFILES)))
@pytest.mark.parametrize("wire", scaled(["csv"], ["auto", "binary", "csv"]))
def test_a_cursor_of_any_number_or_time_reads_every_row_once(
    typed: Project, tally: Callable[[str], Tally], wire: str, profile: str
) -> None:
    names = {
        f"{mode} {kind}": kind
        for kind in CURSORS
        for mode in scaled(["append"], ["append", "merge"])
    }
    create = "CREATE TABLE {} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, c {} UNIQUE)"
    typed.in_source(";".join(create.format(ident(name), kind) for name, kind in names.items()))
    spec = {}
    for name, kind in names.items():
        cursor = {"cursor": "c"}
        if kind in ("timestamp", "timestamp(3)", "date"):
            cursor["time_zone"] = "UTC"
        spec[name] = {"incremental": cursor, "mode": name.split()[0]}
    typed.spec(spec, lake={"format": wire})
    problems = []
    for turn in range(2):
        values = [
            (ident(name), v)
            for name, kind in names.items()
            for v in CURSORS[kind].split(" | ")[turn].split(", ")
        ]
        typed.in_source(
            ";".join(f"INSERT INTO {name} (c) VALUES ({value})" for name, value in values)
        )
        with hostile(profile, typed.source, typed.warehouse):
            typed.succeed()
        problems += compared(typed.source, typed.warehouse, list(names))
    tally("hard cursors").add(Verdict(rows=0, lost=len(problems)), tried=len(names))
    assert not problems, "\n".join(problems)
    assert violations(typed) == []


def test_a_cursor_of_another_type_is_refused(typed: Project) -> None:
    names = {f"no_cursor_{number}": kind for number, kind in enumerate(NO_CURSORS)}
    for name, kind in names.items():
        typed.in_source(f"CREATE TABLE {name} (id int PRIMARY KEY, c {kind})")
    typed.spec({name: {"incremental": {"cursor": "c", "nulls": "exclude"}} for name in names})
    results = typed.run()
    for result in results.values():
        if result.step.kind == "extract":
            error = result.result
            assert isinstance(error, Refused) and "cannot be a cursor" in str(error), error
