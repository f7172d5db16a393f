"""Hostile values for every string field of a pipeline file, and the fields themselves, found by
walking the schema."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.project import ROOT

Field = tuple[str, ...]
KEY, NAME, ITEM = "<key>", "<name>", "[]"
"""In a field's path: the key of an entry itself, any entry, an item of a list."""
SCHEMA: dict[str, Any] = json.loads((ROOT / "schemas" / "pipeline.schema.json").read_text())
CANARY_VARIABLE = "LOADSHEET_TEST_CANARY"
CANARY_VALUE = "canary-from-the-environment"
RENDERED = "62773913"
"""What `7919*7927` becomes where somebody computes it; no value and no message holds it otherwise.
"""
TRAP = "/tmp/loadsheet-canary-file"
"""The file that whoever executes a value would make or read; it must never exist."""

_CODE = f"__import__('os').system('touch {TRAP}')"
_JINJA = [
    "{{ 7919*7927 }}",
    "{% print(7919*7927) %}",
    "{# x #}{{ 7919*7927 }}",
    "{{ '7'*7919 }}",
    "{{7919*7927}}.md",
    "${{ 7919*7927 }}",
    "#{7919*7927}",
    "{{ conn.warehouse.password }}",
    "{{ var.value.get('x', 7919*7927) }}",
    "{{ macros.datetime }}{{ 7919*7927 }}",
    "{{ ti.xcom_pull() or 7919*7927 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% set x = 7919*7927 %}{{ x }}",
    f"{{{{ cycler.__init__.__globals__.os.popen('touch {TRAP}').read() }}}}",
    "{{ dag_run.conf['x'] or 7919*7927 }}",
    "{% include '/etc/passwd' %}",
    "{% raw %}{{ 7919*7927 }}",
    "{{ ds }}{{ 7919*7927 }}",
    "<%= 7919*7927 %>",
    "{{-7919*7927-}}",
    "@{{ 7919*7927 }}daily",
    "/x.md",
    "x{{ 7919*7927 }}.sql",
    "{{ params.tables or 7919*7927 }}",
    "{{ task.spec }}{{ 7919*7927 }}",
]
_STATEMENTS = [
    "DROP TABLE sentinel",
    "DROP TABLE public.sentinel",
    "DELETE FROM sentinel",
    "TRUNCATE public.sentinel",
    "UPDATE public.sentinel SET v = 'hurt'",
    f"COPY (SELECT 1) TO PROGRAM 'touch {TRAP}'",
    f"COPY sentinel TO '{TRAP}'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SELECT pg_sleep(9)",
    "DROP SCHEMA loadsheet CASCADE",
    "COMMIT",
    "ROLLBACK",
]
_BREAKOUTS = [
    "x; {}",
    "x'; {}; --",
    'x"; {}; --',
    'x"."y"; {}; --',
    "x); {}; --",
    "x\\'; {}; --",
    "$$; {}; $$",
    "x') ; {} /*",
    "*/ {}; /*",
    "x\n; {};",
    "x--\r{};",
    "1=1; {}",
    "x' OR 1=1; {}; --",
    "{}",
    'x""; {}; --',
    "%s; {}",
    "(({}))",
    "E'x\\'; {}; --",
    "x::regclass; {}",
    "E'\\047; {}; --",
    "x -- :run_id\n; {}",
    "x' || ({}) || '",
    "U&'\\0027; {}",
]
_PATHS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "...",
    "../sentinel",
    "..\\..\\sentinel",
    "sub/../../x",
    "~/.ssh/id_rsa",
    "file:///etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/environ",
    "//server/share",
    "C:\\boot.ini",
    "a/b",
    "./x",
    "%2e%2e%2f%2e%2e%2fetc",
    "x/",
    "/x",
    "x//y",
    "....//....//etc",
    "sql:../../etc/passwd",
    "con.md",
    "x.sql",
    ".airflowignore",
    "s3://other/key",
    "http://169.254.169.254/latest",
    TRAP,
    f"../../../../..{TRAP}",
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "**/*",
]
_CODES = [
    _CODE,
    f"`touch {TRAP}`",
    f"$(touch {TRAP})",
    f"| touch {TRAP}",
    f"; touch {TRAP}",
    f"&& touch {TRAP}",
    f"%({_CODE})s",
    "builtins.exit",
    "os:system",
    "pathlib.Path.touch",
    "__type__",
    "__args__",
    "__class__",
    "__proto__",
    "__init__",
    "!!python/object/apply:os.system [x]",
    "!include x",
    "__type__: builtins.exit",
    '{"__type__": "builtins.exit"}',
    "&a x",
    "*a",
    "<<",
    "${" + CANARY_VARIABLE + "}",
    "$" + CANARY_VARIABLE,
    "%" + CANARY_VARIABLE + "%",
    "$$" + CANARY_VARIABLE,
    "$(" + CANARY_VARIABLE + ")",
    "%s",
    "%d",
    "%(password)s",
    "%n%n%n",
    "{}",
    "{0}",
    "{0.__class__}",
    "{password}",
    "{self}",
    "{0!r:>9999}",
    "%99999d",
    "%%",
    ":since_load",
    ":run_id",
    ":'x'",
    "$1",
    "@x",
    "=1+1",
    "+1",
    "-1",
    "=cmd|'/c calc'!A0",
    "\\copy x",
    "\\! ls",
    "\\g",
]
_SHOWN = [
    "<!channel>",
    "<!here> x",
    "<@U123>",
    "<http://evil.example|click>",
    "*bold*",
    "`x`",
    "```x```",
    "~~~~",
    "&lt;",
    "<b>x</b>",
    "<script>alert(7919*7927)</script>",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "|a|b|",
    "# x",
    "> x",
    "[red]x[/red]",
    "[bold",
    ":red_circle:",
    "::error file=x::y",
    "::set-output name=x::y",
    "##[error]x",
    "\\",
    "\\\\",
    "x\\",
]
_CONTROLS = [
    *(f"a{chr(code)}b" for code in (*range(32), *range(0x7F, 0xA0))),
    *(
        f"a{turn}b"
        for turn in "\u061c\u200b\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    ),
    *(f"a{turn}b" for turn in "\u2060\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"),
    "\x1b[2J\x1b[Hx",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x07x",
    "a\nb",
    "a\n\nFAILED",
    "a\r\nb",
    "\n",
    "\t",
    " ",
    "x\nERROR: 0 rows lost",
    "x\n  loaded  load.load_y",
    "\x00",
    "x\x00y",
    "\x9b31mx",
    "\u202egnp.exe",
    "a\u2066;drop\u2069",
]
_UNICODE = [
    "\u0430dmin",
    "ſtaging",
    "ﬁeld",
    "İ",
    "ß",
    "ǆ",
    "e\u0301",
    "\u00e9",
    "\u3164",
    "\u00a0",
    "\u2003",
    "😀",
    "👩‍👩‍👧",
    "\U0010ffff",
    "\U000e0041",
    "ａｂｃ",
    "′; x",
    "ʼ; x",
    "＇; x",
    "＂x",
    "；x",
    "‘x’",
    "𝕏",
    "Ω",
    "K",
    "x̸" * 9,
    "ت",
    "א",
    "१",
    "١",
    "Ⅷ",
    "½",
    "\ufe0f",
    "\u034f",
]
_LONG = [
    "x" * 63,
    "x" * 64,
    "é" * 31,
    "é" * 32,
    "x" * 255,
    "x" * 256,
    "x" * 5000,
    "'" * 63,
    '"' * 63,
    "x." * 400,
    "😀" * 15,
    "😀" * 16,
    "a" * 62 + "'",
    "0" * 5000,
    "9" * 400,
    "(" * 3000,
    "[" * 3000,
    "{{" * 1000,
    "1:" * 900,
    "/" * 500,
    "../" * 400,
    "\\" * 63,
]
_WORDS = [
    "",
    "null",
    "~",
    "true",
    "no",
    "on",
    "010",
    "1e400",
    ".nan",
    "0x10",
    "1_0",
    "12:30:45",
    "2026-01-01",
    "nan",
    "inf",
    "-0",
    "NULL",
    "select",
    "user",
    "public",
    "pg_catalog",
    "pg_temp",
    "information_schema",
    "loadsheet",
    "pg_toast",
    "PUBLIC",
    "postgres",
    "ctid",
    "xmin",
    "tableoid",
    "_load_id",
    "_loadsheet_1",
    "staging",
    "mart",
    "sentinel",
    "public.sentinel",
    "none",
    "None",
    "default",
    "all",
    "@once",
    "@reboot",
    "@continuous",
    "* * * * *",
    "*/0 * * * *",
    "0 0 31 2 *",
    "* * * * * *",
    "R/2026-01-01/P1D",
    "@every 1s",
    "-1s",
    "99999999d",
    "1s;",
    "1s\n",
    "2026-02-30",
    "2026-01-01T00:00:00Z'--",
    "0001-01-01",
    "9999-12-31",
    "infinity",
    "now",
    "epoch",
    "now()",
    "(SELECT 1)",
    "current_user",
    "default_pool",
    "airflow",
    "x'x",
    'x"x',
    "x`x",
    "x;x",
    "x--x",
    "x/*x",
    "x,y",
    "x y",
    " x",
    "x ",
    "$$",
    "$x$",
]
VALUES: tuple[str, ...] = tuple(
    dict.fromkeys(
        [
            *_JINJA,
            *(shape.format(s) for shape in _BREAKOUTS for s in _STATEMENTS[:9]),
            *_PATHS,
            *_CODES,
            *_SHOWN,
            *_CONTROLS,
        ]
        + [*_UNICODE, *_LONG, *_WORDS, *_STATEMENTS]
    )
)
"""At least 500, each once."""

_LAUGHS = "\n".join(f"  a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))
RAW: tuple[str, ...] = (
    f"!!python/object/apply:os.system ['touch {TRAP}']",
    "!!python/name:os.system",
    "!!python/object/new:os.system [x]",
    f"!!python/object/apply:subprocess.Popen [[touch, {TRAP}]]",
    "!!python/module:os",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!ENV x",
    "!include /etc/passwd",
    "!<tag:yaml.org,2002:python/name:os.system> x",
    "!Ref x",
    "!!timestamp 2026-01-01",
    "!!str x",
    "! x",
    "&a x",
    "*a",
    "&a [*a]",
    "{<<: {a: b}}",
    "{a: b, a: c}",
    "{__type__: builtins.exit}",
    "[{__type__: builtins.exit}]",
    f"{{__type__: pathlib.Path.touch, __args__: [{TRAP}]}}",
    "{callback: os.system}",
    "{? [a] : b}",
    "{1: 2}",
    "[" * 60 + "]" * 60,
    "{a: " * 60 + "x" + "}" * 60,
    "{" * 2000,
    "[" * 20000,
    "'never closed",
    '"\\q"',
    '"\\ud800"',
    "@x",
    "%x",
    "`x`",
    "|x",
    "x: y: z",
    "{{ 7919*7927 }}",
    "{% x %}",
    "- - - x",
    f"\n  a0: &a0 {{x: 1}}\n{_LAUGHS}",
    "!!float x",
    "!!int '1'",
    "1" + ":1" * 5000,
    "\ufeffx",
)
"""YAML that is no plain value: none of it may be taken."""

BASE: dict[str, Any] = {
    "version": 1,
    "pipeline": "shop",
    "description": "d",
    "schedule": "@daily",
    "start_date": "2026-01-01",
    "owner": "o",
    "tags": ["t"],
    "source": {"conn_id": "shop_source", "schema": "public"},
    "lake": {"conn_id": "lake", "bucket": "lake", "prefix": "p", "format": "auto"},
    "warehouse": {"conn_id": "warehouse", "schema": "staging", "mart_schema": "mart"},
    "notify": {"slack_conn_id": "slack", "events": ["failure"]},
    "tables": {"orders": {"incremental": {"cursor": "c"}}},
    "transforms": {"daily": {}},
}
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ENTRIES = {"tables": "orders", "transforms": "daily"}


def string_fields(root: Mapping[str, Any] = SCHEMA) -> list[Field]:
    """Every place of a document where the schema allows text: values, items of lists, and the keys
    people choose."""
    return list(dict.fromkeys(_walk(root, root, ())))


def _walk(root: Mapping[str, Any], node: Mapping[str, Any], path: Field) -> Iterator[Field]:
    if "$ref" in node:
        node = {
            **root["$defs"][node["$ref"].rpartition("/")[2]],
            **{k: v for k, v in node.items() if k != "$ref"},
        }
    types = node.get("type", [])
    if "string" in types or any(isinstance(value, str) for value in node.get("enum", ())):
        yield path
    for name, child in node.get("properties", {}).items():
        yield from _walk(root, child, (*path, name))
    if isinstance(child := node.get("additionalProperties"), dict):
        yield (*path, KEY)
        yield from _walk(root, child, (*path, NAME))
    if isinstance(child := node.get("items"), dict):
        yield from _walk(root, child, (*path, ITEM))


def placed(field: Field, value: Any) -> dict[str, Any]:
    """A document that is right but for `value` in `field`."""
    document = copy.deepcopy(BASE)
    _put(document, field, value, field[0])
    return document


def _put(inside: dict[str, Any], path: Field, value: Any, section: str) -> None:
    step, *rest = path
    if step == KEY:
        inside[value] = inside.pop(_ENTRIES[section])
        return
    name = _ENTRIES[section] if step == NAME else step
    if not rest:
        inside[name] = value
    elif rest[0] == ITEM:
        inside[name] = [value]
    else:
        if not isinstance(inside.get(name), dict):
            inside[name] = {"cursor": "c"} if name == "incremental" else {}
        _put(inside[name], tuple(rest), value, section)


def written(folder: Path, document: Mapping[str, Any], sql: str = "SELECT 1 AS one\n") -> Path:
    """The document as a pipeline file in `folder`, with a SQL file for each transform that can have
    one."""
    (folder / "sql").mkdir(parents=True, exist_ok=True)
    for old in (folder / "sql").iterdir():
        old.unlink()
    for name in document.get("transforms") or {}:
        if (
            isinstance(name, str)
            and name
            and len(name.encode(errors="replace")) < 200
            and not {"/", "\0"} & set(name)
            and name not in (".", "..")
        ):
            (folder / "sql" / f"{name}.sql").write_text(sql)
    file = folder / "pipeline.yml"
    file.write_text(
        yaml.dump(dict(document), Dumper=_DUMPER, allow_unicode=True, sort_keys=False),
        encoding="utf-8",
    )
    return file


def written_raw(folder: Path, field: Field, raw: str) -> Path:
    """The document with the YAML `raw` in `field`."""
    file = written(folder, placed(field, "MARKER"))
    file.write_text(file.read_text().replace("MARKER", raw, 1), encoding="utf-8")
    return file
