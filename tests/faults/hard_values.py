"""Values that tools get wrong, each with a name: what a column of that type must carry letter by
letter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.debian import has_vectors

TYPES = r"""
CREATE TYPE mood AS ENUM ('sad', 'o''k', 'NULL', 'a,b', '{"x"}', 'ünï cødé');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE nested AS (
    p pair, ps pair[], m mood, n numeric, f float8, at timestamptz, i interval, b bytea
);
CREATE DOMAIN percent AS numeric(5, 2) CHECK (VALUE >= 0);
CREATE DOMAIN small_percent AS percent CHECK (VALUE < 50);
CREATE DOMAIN named AS text NOT NULL;
CREATE DOMAIN ints AS int[];
CREATE DOMAIN eight AS char(8);
CREATE DOMAIN consent AS bool;
CREATE DOMAIN address AS inet;
CREATE DOMAIN feeling AS mood;
CREATE DOMAIN couple AS pair;
CREATE TYPE floats AS RANGE (subtype = float8, multirange_type_name = many_floats);
CREATE TYPE texts AS RANGE (subtype = text, collation = "C");
CREATE DOMAIN positive AS int4range CHECK (lower(VALUE) > 0);
CREATE TYPE label;
CREATE FUNCTION label_in(cstring) RETURNS label LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION label_out(label) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE label (INPUT = label_in, OUTPUT = label_out, LIKE = text, DELIMITER = ';');
CREATE TABLE "Some ""Table" (id int);
"""
if has_vectors():
    TYPES += "CREATE EXTENSION vector;"


@dataclass(frozen=True, kw_only=True)
class Hard:
    """A value as SQL, and a second one, `near` it, that it is updated to and from. `note`: what is
    easily lost."""

    name: str
    type: str
    value: str
    near: str = "NULL"
    lands: str = ""
    """The type it arrives as; empty for its own."""
    exact: bool = True
    """Arrives as a type whose binary form is the same everywhere, so that `auto` takes binary."""
    shown: str = "{}"
    """What of the source's column must be seen in the target, where the server would write it in
    another way."""
    nullable: bool = True


def _hard(
    type_name: str,
    values: dict[str, str | tuple[str, str]],
    lands: str = "",
    exact: bool = True,
    **more: Any,
) -> list[Hard]:
    pairs = {
        name: given if isinstance(given, tuple) else (given, "NULL")
        for name, given in values.items()
    }
    return [
        Hard(name=name, type=type_name, value=value, near=near, lands=lands, exact=exact, **more)
        for name, (value, near) in pairs.items()
    ]


_CONTROL = "||".join(f"chr({code})" for code in (*range(1, 32), 127))
_EVERY_BYTE = "decode('" + bytes(range(256)).hex() + "', 'hex')"
_LONG_NUMBER = "(repeat('9', 131072) || '.' || repeat('7', 16383))::numeric"

NUMBERS = [
    *_hard(
        "numeric",
        {
            "numeric NaN": "'NaN'",
            "numeric infinity": "'Infinity'",
            "numeric -infinity": "'-Infinity'",
            "numeric of every digit": (_LONG_NUMBER, f"-{_LONG_NUMBER}"),
            "numeric 16383 digits down": "1e-16383",
            "numeric 1.0": ("1.0", "1.00"),
            "numeric 0.00": ("0.00", "0"),
            "numeric -0": "-0.0",
            "numeric 1e1000": "1e1000",
        },
    ),
    *_hard("numeric(20, 5)", {"numeric with a scale": ("0.00001", "-1.1")}),
    *_hard("numeric(3, -2)", {"numeric with a negative scale": "99900"}),
    *_hard("numeric(3, 5)", {"numeric with more scale than precision": "0.00999"}),
    *_hard("numeric(1000, 500)", {"numeric of the highest precision": "repeat('9', 500)::numeric"}),
    *_hard("int2", {"smallest smallint": "-32768"}),
    *_hard("int4", {"smallest integer": "-2147483648"}),
    *_hard(
        "int8", {"smallest bigint": "-9223372036854775808", "largest bigint": "9223372036854775807"}
    ),
    *_hard(
        "float4",
        {
            "real -0": ("'-0'", "'0'"),
            "real NaN": "'NaN'",
            "real -infinity": "'-infinity'",
            "real denormal": "1.4e-45",
            "real largest": "3.4028235e38",
            "real shortest": ("0.1", "0.10000001"),
            "real 16777217": "16777216",
        },
    ),
    *_hard(
        "float8",
        {
            "double -0": ("'-0'", "'0'"),
            "double NaN": "'NaN'",
            "double infinity": "'infinity'",
            "double denormal": "4.9406564584124654e-324",
            "double largest": "1.7976931348623157e308",
            "double of 17 digits": ("0.1::float8 + 0.2::float8", "0.3"),
            "double 2^53 + 2": "9007199254740994",
        },
    ),
    *_hard("bool", {"true": "true", "false": ("false", "true")}),
    *_hard("oid", {"largest oid": "4294967295"}),
    *_hard(
        "money",
        {"money": "'-$1,234.56'", "largest money": "'$92,233,720,368,547,758.07'"},
        exact=False,
    ),
]

TIMES = [
    *_hard(
        "timestamptz",
        {
            "timestamptz infinity": ("'infinity'", "'-infinity'"),
            "timestamptz BC": "'4713-01-01 00:00+00 BC'",
            "timestamptz last": "'294276-12-31 23:59:59.999999+00'",
            "timestamptz leap second": "'2016-12-31 23:59:60+00'",
            "timestamptz microsecond": (
                "'2026-01-01 00:00:00.000001+00'",
                "'2026-01-01 00:00:00+00'",
            ),
            "timestamptz inside a DST change": "'2026-03-29 01:30:00+00'",
            "timestamptz day or month": "'2026-02-03Z'",
        },
    ),
    *_hard(
        "timestamp",
        {
            "timestamp infinity": "'-infinity'",
            "timestamp BC": "'0001-12-31 23:59:59.5 BC'",
            "timestamp last": "'294276-12-31 23:59:59.999999'",
            "timestamp not there in DST": "'2026-03-29 02:30:00'",
        },
    ),
    *_hard("timestamp(3)", {"timestamp of milliseconds": "'2026-01-01 00:00:00.9996'"}),
    *_hard(
        "date",
        {
            "date infinity": ("'infinity'", "'-infinity'"),
            "date last": "'5874897-12-31'",
            "date BC": "'4713-01-01 BC'",
            "date leap day": "'2024-02-29'",
            "date day or month": "'2026-02-03'",
        },
    ),
    *_hard("time", {"time 24:00": ("'24:00'", "'00:00'"), "time microsecond": "'23:59:59.999999'"}),
    *_hard(
        "timetz",
        {"timetz 24:00 far west": "'24:00-15:59'", "timetz with seconds": "'12:00+05:30:15'"},
    ),
    *_hard("time(0) with time zone", {"timetz without fraction": "'12:00:00.6+05:45'"}),
    *_hard(
        "interval",
        {
            "interval 1 mon": ("'1 mon'", "'30 days'"),
            "interval of mixed signs": "'1 mon -2 days 00:00:00.000001'",
            "interval negative": "'-1 year -2 mons +3 days -04:05:06.7'",
            "interval long": "'178000000 years'",
            "interval of hours": ("'24:00'", "'1 day'"),
            "interval zero": "'0'",
        },
    ),
    *_hard("interval day to second(3)", {"interval with fields": "'1 2:03:04.5678'"}),
]

TEXTS = [
    *_hard(
        "text",
        {
            "every control character": _CONTROL,
            "carriage return": r"E'a\rb'",
            "line feed": r"E'a\nb'",
            "carriage return and line feed": (r"E'a\r\nb'", r"E'a\nb'"),
            "tab": r"E'\t'",
            "backspace": r"E'\b'",
            "end of data": r"E'\\.'",
            "end of data on its own line": r"E'a\n\\.\nb'",
            "backslash N": (r"E'\\N'", "''"),
            "backslash at the end": r"E'\\'",
            "two backslashes": r"E'\\\\'",
            "quote": "'\"'",
            "quotes": "'\"\"'",
            "apostrophe": "''''",
            "comma": "','",
            "all at once": r"""E'",\\\n\r\t''"'""",
            "empty": ("''", "NULL"),
            "null": ("NULL", "''"),
            "the word NULL": ("'NULL'", "'null'"),
            "blank": "' '",
            "leading blanks": "'  x'",
            "trailing blanks": ("'x  '", "'x'"),
            "trailing line feed": r"E'x\n'",
            "combining": ("U&'e\\0301'", "U&'\\00e9'"),
            "right to left": "U&'\\202e\\05d0\\05d1'",
            "emoji": "U&'\\+01F468\\200D\\+01F469\\200D\\+01F467'",
            "four bytes": "U&'\\+010348'",
            "byte order mark": ("U&'\\FEFFx'", "'x'"),
            "noncharacter": "U&'\\FFFF'",
            "last code point": "U&'\\+10FFFF'",
            "line separators": "U&'\\0085\\2028\\2029'",
            "zero width": "U&'\\200B'",
            "placeholders": "'%s %(x)s :a {} $1'",
            "formula": "'=1+1'",
            "leading zero": "'007'",
            "hexadecimal": r"E'\\x00'",
            "five megabytes": "repeat('0123456789abcde\n', 327680)",
            "incompressible": (
                "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 5000) i)"
            ),
        },
    ),
    *_hard("varchar(10)", {"varchar with blanks": "'x         '", "varchar empty": "''"}),
    *_hard("char(8)", {"char padded": "'x '", "char empty": "''"}),
    *_hard("bpchar", {"bpchar": ("'x  '", "'x'")}),
    *_hard(
        '"char"', {"one char": "'x'", "char of eight bits": "'\\351'", "no char": "''"}, exact=False
    ),
    *_hard("name", {"name": "repeat('ü', 31) || 'x'"}, exact=False),
    *_hard(
        "bytea",
        {
            "every byte": _EVERY_BYTE,
            "bytea empty": ("''", "NULL"),
            "bytea like text": r"'\x5c78'",
            "one megabyte": f"decode(repeat(encode({_EVERY_BYTE}, 'hex'), 4096), 'hex')",
            "bytea zeros": r"'\x000000'",
        },
    ),
    *_hard("uuid", {"uuid": ("'00000000-0000-0000-0000-000000000000'", "gen_random_uuid()")}),
    *_hard("bit(5)", {"bits": ("B'10101'", "B'00000'")}),
    *_hard("bit varying", {"bits none": "B''", "bits many": "repeat('10', 999)::varbit"}),
    *_hard('"bit"', {"bits free": "B'101'"}),
]

DOCUMENTS = [
    *_hard(
        "json",
        {
            "json with a zero character": r"""'{"a": "\u0000"}'""",
            "json with a key twice": """'{"a":1, "a":2}'""",
            "json oddly spaced": ("E'{ \"b\" :\\t[1,\\n2 ] }'", "'{\"b\":[1,2]}'"),
            "json null": ("'null'", "NULL"),
            "json number": "'1.000e2'",
            "json half a pair": r"""'"\ud83d"'""",
            "json text": "'\"\"'",
        },
    ),
    *_hard(
        "jsonb",
        {
            "jsonb number": ("'1.00'", "'1.0'"),
            "jsonb null": ("'null'", "NULL"),
            "jsonb": r"""'{"b": [1, null, {}], "a": "\u00e9\n\"", "": 1e400}'""",
        },
    ),
    *_hard(
        "jsonpath",
        {
            "jsonpath": '\'strict $.a[*] ? (@."b c" > 1.0 && @.d like_regex "^x" flag "i")\'',
        },
        lands="text",
    ),
    *_hard(
        "tsvector",
        {"tsvector": "'''a b'':1A,2 ''c''''d'':3 ''\\\\'''", "tsvector empty": "''"},
        exact=False,
    ),
    *_hard("tsquery", {"tsquery": "'!''a b'':*A <2> (c | d)'"}, exact=False),
    *_hard(
        "xml",
        {
            "xml": """'<a b="1">&amp;<![CDATA[<]]></a>'::text::xml""",
            "xml content": "'a <b/> c'::text::xml",
            "xml with its encoding": (
                """'<?xml version="1.0" encoding="ISO-8859-1"?><ä/>'::text::xml""",
                """'<?xml version="1.0"?><ä/>'::text::xml""",
            ),
        },
        lands="text",
        shown="CAST({} AS text)",
    ),
]

ARRAYS = [
    *_hard(
        "text[]",
        {
            "array of words for nothing": "ARRAY['NULL', NULL, '', 'null']",
            "array empty": ("'{}'", "NULL"),
            "array of quotes": r"""ARRAY['"', '{', '}', ',', E'\\', ' ', E'\n', 'é']""",
            "array with bounds": "'[5:7]={a,b,c}'",
            "array of two dimensions": "'{{a,NULL},{\"\",b}}'",
            "array below zero": ("'[-1:0]={a,b}'", "'{a,b}'"),
        },
    ),
    *_hard(
        "int[]",
        {
            "array of three dimensions": "'{{{1,2},{3,4}},{{5,6},{7,NULL}}}'",
            "array with all bounds": "'[0:1][5:6]={{1,2},{3,4}}'",
            "array of nothing": ("'{NULL}'", "'{}'"),
        },
    ),
    *_hard("numeric(5, 1)[]", {"array of numerics": "'{1.0,NaN,-0.1}'"}),
    *_hard("float8[]", {"array of doubles": "'{-0,NaN,Infinity,0.1}'"}),
    *_hard(
        "timestamptz[]",
        {"array of times": "'{infinity,4713-01-01 BC,\"2026-01-01 00:00:00.1+05:30\"}'"},
    ),
    *_hard("interval[]", {"array of intervals": "'{1 mon,30 days,-00:00:01}'"}),
    *_hard("bytea[]", {"array of bytes": r"'{NULL,\"\",\"\\\\x00ff\"}'"}),
    *_hard("json[]", {"array of json": r"""ARRAY['{"a" : "\\"}', 'null', NULL]::json[]"""}),
    *_hard("bool[]", {"array of truths": "'{t,f,NULL}'"}),
    *_hard("char(3)[]", {"array of chars": "'{a,\"  \"}'"}),
    *_hard("point[]", {"array of points": "ARRAY[point '(1,2)', '(NaN,-0)']"}),
    *_hard("box[]", {"array of boxes": "ARRAY[box '((1,2),(3,4))', '((0,0),(-1,-1))']"}),
    *_hard("money[]", {"array of moneys": "'{\"$1,000.00\",NULL}'"}, exact=False),
    *_hard("int4range[]", {"array of ranges": "ARRAY[int4range '[1,5)', 'empty', '(,)']"}),
    *_hard("int2vector", {"int2vector": "'1 2 3'"}),
    *_hard("oidvector", {"oidvector": "'1 2'"}),
]

MADE = [
    *_hard(
        "mood",
        {
            "enum": ("'o''k'", "'sad'"),
            "enum called NULL": ("'NULL'", "NULL"),
            "enum of letters": "'ünï cødé'",
        },
        lands="text",
    ),
    *_hard(
        "mood[]",
        {
            "array of enums": "ARRAY['a,b', '{\"x\"}', 'NULL', NULL]::mood[]",
            "array of enums with bounds": "'[0:0]={sad}'",
        },
        lands="text[]",
    ),
    *_hard("percent", {"domain": ("12.50", "12.5")}, lands="numeric(5,2)"),
    *_hard("small_percent", {"domain of a domain": "0.01"}, lands="numeric(5,2)"),
    *_hard(
        "percent[]", {"array of a domain": "ARRAY[1, 2.5, NULL]::percent[]"}, lands="numeric(5,2)[]"
    ),
    *_hard("named", {"domain that is not null": ("'NULL'", "''")}, nullable=False, lands="text"),
    *_hard("ints", {"domain of an array": "'[3:4]={1,NULL}'"}, lands="integer[]"),
    *_hard(
        "ints[]",
        {"array of a domain of an array": "ARRAY['{1}'::ints, '{2,3}'::ints]"},
        lands="text[]",
    ),
    *_hard("eight", {"domain of a char": "'x'"}, lands="character(8)"),
    *_hard("eight[]", {"array of a domain of a char": "'{x,\"y z\"}'"}, lands="character(8)[]"),
    *_hard("consent[]", {"array of a domain of truth": "'{t,f}'"}, lands="boolean[]"),
    *_hard("feeling", {"domain of an enum": "'a,b'"}, lands="text"),
    *_hard("address[]", {"array of a domain of an address": "'{10.0.0.1,::1/64}'"}, lands="inet[]"),
    *_hard("feeling[]", {"array of a domain of an enum": "'{sad,NULL}'"}, lands="text[]"),
    *_hard("positive", {"domain of a range": "'[1,5)'"}, lands="int4range"),
    *_hard(
        "pair",
        {
            "composite": r"""ROW(1, E'x,"y"\\ (')""",
            "composite of nulls": ("ROW(NULL, NULL)", "NULL"),
            "composite empty": "ROW(0, '')",
        },
        lands="text",
    ),
    *_hard("couple", {"domain of a composite": "ROW(1, ' ')"}, lands="text"),
    *_hard(
        "pair[]",
        {"array of composites": "ARRAY[ROW(1, 'a,b'), NULL, ROW(NULL, NULL)]::pair[]"},
        lands="text[]",
    ),
    *_hard(
        "nested",
        {
            "composite nested": (
                r"""ROW(ROW(1, '"'), ARRAY[ROW(2, '{}')::pair], 'o''k', 1.00,
        0.1::float8 + 0.2::float8, '2026-01-01 12:00+05:30', '1 mon -1 day', '\x00ff')"""
            )
        },
        lands="text",
    ),
    *_hard("floats", {"range made": "'[0.1,Infinity)'"}, lands="text"),
    *_hard("many_floats", {"multirange made": "'{[-0,0.1],(1,2)}'"}, lands="text"),
    *_hard("texts", {"range of texts": """'["a,b","c"")")'"""}, lands="text"),
    *_hard("texts[]", {"array of ranges made": "ARRAY['[a,b]', 'empty']::texts[]"}, lands="text[]"),
    *_hard("label", {"type of an extension": r"E';,\n\"'"}, lands="text"),
    *_hard(
        "label[]",
        {
            "array of a type with its own delimiter": "ARRAY['a;b', 'c,d', NULL]::label[]",
        },
        lands="text[]",
        shown="(SELECT array_agg(CAST(e AS text)) FROM unnest({}) e)",
    ),
    *_hard("regclass", {"regclass": ("'pg_class'", '\'public."Some ""Table"\'')}, lands="text"),
    *_hard("regtype", {"regtype": "'timestamp with time zone'"}, lands="text"),
    *_hard(
        "regclass[]",
        {"array of regclass": 'ARRAY[\'public."Some ""Table"\'::regclass]'},
        lands="text[]",
    ),
    *_hard("regproc", {"regproc": "'now'"}, lands="text"),
    *_hard("regrole", {"regrole": "'pg_monitor'"}, lands="text"),
    *_hard("xid", {"xid": "'4294967295'"}, lands="text"),
    *_hard("tid", {"tid": "'(4294967295,65535)'"}, lands="text"),
    *_hard("aclitem[]", {"array of aclitems": "'{=r/pg_monitor}'"}, lands="text[]"),
    *_hard("refcursor", {"refcursor": "'a\"b'"}, lands="text"),
]

VECTORS = [
    *_hard("vector(3)", {"vector": "'[0.1,-0,1e-40]'"}, lands="text"),
    *_hard("halfvec(2)", {"half vector": "'[1,65504]'"}, lands="text"),
    *_hard("sparsevec(5)", {"sparse vector": "'{1:0.1,5:-2}/5'"}, lands="text"),
    *_hard("vector[]", {"array of vectors": "ARRAY[vector '[1,2]', '[3]']"}, lands="text[]"),
]

RANGES = [
    *_hard("int4range", {"range empty": ("'empty'", "'(,)'"), "range without an end": "'[1,)'"}),
    *_hard(
        "numrange",
        {
            "range of numerics": ("'[1.0,1.00]'", "'[1,1]'"),
            "range to infinity": ("'[1,Infinity]'", "'[1,)'"),
        },
    ),
    *_hard(
        "tstzrange",
        {
            "range of times": "'[-infinity,infinity]'",
            "range of a moment": "'[2026-01-01 00:00+05:30,2026-01-01 00:00+05:30]'",
        },
    ),
    *_hard("tsrange", {"range of local times": "'(2026-02-03 04:05:06.000007,)'"}),
    *_hard("int8range", {"range of bigints": "'[-9223372036854775808,0)'"}),
    *_hard("daterange", {"range of dates": ("'[-infinity,infinity]'", "'(,)'")}),
    *_hard("datemultirange", {"multirange": "'{[2020-01-01,2020-02-01),[2021-01-01,)}'"}),
    *_hard("int4multirange", {"multirange empty": ("'{}'", "'{(,)}'")}),
    *_hard("nummultirange", {"multirange of numerics": "'{[1.10,2.0]}'"}),
]

SHAPES = [
    *_hard("point", {"point": ("'(1e-300,-0)'", "'(0,0)'"), "point nowhere": "'(NaN,Infinity)'"}),
    *_hard("line", {"line": "'{0.1,-1,3}'"}),
    *_hard("lseg", {"segment": "'[(0,-0),(0.1,1)]'"}),
    *_hard("box", {"box": "'((1,2),(3,0.1))'"}),
    *_hard("circle", {"circle": "'<(0.1,2),3>'"}),
    *_hard("path", {"path open": ("'[(0,0),(1,1)]'", "'((0,0),(1,1))'")}),
    *_hard("polygon", {"polygon": "'((0,0),(0.1,1),(2,-0))'"}),
    *_hard("inet", {"inet": ("'10.0.0.1'", "'10.0.0.1/8'"), "inet of six": "'::ffff:1.2.3.4/96'"}),
    *_hard("cidr", {"cidr": "'10.0.0.0/8'"}),
    *_hard("macaddr", {"macaddr": "'08:00:2b:01:02:03'"}),
    *_hard("macaddr8", {"macaddr8": "'08:00:2b:01:02:03:04:05'"}),
    *_hard("pg_lsn", {"lsn": "'FFFFFFFF/FFFFFFFF'"}, exact=False),
    *_hard("xid8", {"xid8": "'18446744073709551615'"}, exact=False),
    *_hard("pg_snapshot", {"snapshot": "'10:20:10,14,15'"}, exact=False),
    *_hard("txid_snapshot", {"old snapshot": "'10:20:10,14,15'"}, exact=False),
]

HARD = [*NUMBERS, *TIMES, *TEXTS, *DOCUMENTS, *ARRAYS, *MADE, *RANGES, *SHAPES]
if has_vectors():
    HARD += VECTORS
