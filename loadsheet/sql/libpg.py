"""PostgreSQL's own grammar: the C library libpg_query, which gives its tree as JSON.

It comes with the package `postgast`, but not through `postgast.parse`: that reads protobuf, which
refuses messages nested more than 100 deep (46 `||`, 19 CTEs), and takes 65 ms to import.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loadsheet.errors import WorkError

_FILES = {"darwin": "libpg_query.dylib", "win32": "pg_query.dll"}
_JSON = re.compile(r'"(?:[^"\\]|\\.)*+":?|[{}\[\]]|[^\s{}\[\],:"]+')
"""A key with its colon, a value, or a bracket."""


class SyntaxRefused(Exception):
    """What the grammar does not take: its message, and the character (from 0) where it gave up."""

    def __init__(self, message: str, offset: int):
        self.message, self.offset = message, offset
        super().__init__(message)


class _Error(ctypes.Structure):
    _fields_ = [
        ("message", ctypes.c_char_p),
        ("funcname", ctypes.c_char_p),
        ("filename", ctypes.c_char_p),
        ("lineno", ctypes.c_int),
        ("cursorpos", ctypes.c_int),
        ("context", ctypes.c_char_p),
    ]


class _Result(ctypes.Structure):
    _fields_ = [
        ("tree", ctypes.c_char_p),
        ("stderr", ctypes.c_char_p),
        ("error", ctypes.POINTER(_Error)),
    ]


def tree(sql: bytes) -> list[dict[str, Any]]:
    """The raw statements of `sql`, which holds no NUL. Their locations count bytes.

    Raises SyntaxRefused, and RecursionError where they are nested too deeply for the grammar.
    """
    library = _library()
    result = library.pg_query_parse(sql)
    try:
        if result.error:
            error = result.error.contents
            message = error.message.decode(errors="replace")
            if message.startswith("memory exhausted"):  # the grammar's own stack, of 10,000 entries
                raise RecursionError(message)
            raise SyntaxRefused(message, max(error.cursorpos - 1, 0))
        statements: list[dict[str, Any]] = _decoded(result.tree.decode()).get("stmts", [])
        return statements
    finally:
        library.pg_query_free_parse_result(result)


@cache
def _library() -> ctypes.CDLL:
    package = find_spec("postgast")
    if package is None or package.origin is None:
        raise WorkError(
            "the package postgast, which reads SQL, is not installed: pip install postgast"
        )
    file = Path(package.origin).with_name(_FILES.get(sys.platform, "libpg_query.so"))
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise WorkError(
            f"cannot load PostgreSQL's parser, a part of the package postgast: {error}"
        ) from None
    library.pg_query_parse.argtypes = [ctypes.c_char_p]
    library.pg_query_parse.restype = _Result
    library.pg_query_free_parse_result.argtypes = [_Result]
    library.pg_query_free_parse_result.restype = None
    return library


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:  # from some 200 subqueries or 500 operators on, by version of Python
        return _decoded_level_by_level(text)


def _decoded_level_by_level(text: str) -> Any:
    """As `json.loads`, without recursion and 10 times slower."""
    root: list[Any] = []
    stack: list[Any] = [root]
    key = ""
    for part in _JSON.findall(text):
        if part.endswith(":"):
            key = json.loads(part[:-1])
        elif part in ("}", "]"):
            stack.pop()
        else:
            value: Any = {"{": {}, "[": []}[part] if part in ("{", "[") else json.loads(part)
            if isinstance(stack[-1], dict):
                stack[-1][key] = value
            else:
                stack[-1].append(value)
            if part in ("{", "["):
                stack.append(value)
    return root[0]
