"""PostgreSQL's own grammar: the C library libpg_query, which gives its syntax tree as JSON.

It comes with the package `postgast`, but not through `postgast.parse`: that reads protobuf, which
refuses messages nested more than 100 deep (46 `||`, 19 CTEs), and takes 65 ms to import.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, stack_size
from typing import Any

from loadsheet.errors import WorkError

REQUIREMENT = "postgast>=0.2,<0.3"
"""As in pyproject.toml. Other versions may keep the library elsewhere, or change its interface."""

_FILES = {"darwin": "libpg_query.dylib", "win32": "pg_query.dll"}
# A key with its colon, a value, or a bracket.
_JSON = re.compile(r'"(?:[^"\\]|\\.)*+":?|[{}\[\]]|[^\s{}\[\],:"]+')

# libpg_query writes its tree by recursion and checks no limit: a stack that is too small ends the
# process (SIGSEGV). Measured: 130 bytes for each operator in a chain, 400 for each scalar subquery.
# The most that `tokens` lets through, 50,000 operators, takes 6.3 MiB: close to the 8 MiB usual on
# Linux, of which the caller has used some, and far more than the operating system's own default
# for threads on macOS (512 KiB) and musl (128 KiB). So a thread with this stack parses. Only pages
# that are touched take memory.
#
# It is one thread for all: libpg_query takes a pthread key for every thread that it runs in, and
# never gives it back. After a thousand, OpenSSL could not start any more.
_STACK_BYTES = 32 * 1024 * 1024
_lock = Lock()
_parser: ThreadPoolExecutor | None = None


class SyntaxRefused(Exception):
    """What the grammar does not take: its message, and the character (from 0) where it gave up."""

    def __init__(self, message: str, offset: int):
        self.message, self.offset = message, offset
        super().__init__(message)


def syntax_trees(sql: bytes) -> list[dict[str, Any]]:
    """The trees of the statements in `sql`, which holds no NUL. Their locations count bytes.

    Raises SyntaxRefused; RecursionError where they are nested too deeply for the grammar; WorkError
    without the library.
    """
    global _parser
    with _lock:
        if _parser is None:
            _parser = ThreadPoolExecutor(1, thread_name_prefix="libpg_query")
        # Its thread starts with the first call. The size holds for every thread that starts from
        # now on, so it is set for one start only. A thread that someone else starts in between gets
        # a larger stack, which does no harm.
        usual = stack_size(_STACK_BYTES)
        try:
            parsing = _parser.submit(_statements, sql)
        finally:
            stack_size(usual)
    return parsing.result()


def _forget_parser() -> None:
    """In a process that was forked: the thread has stayed behind, perhaps with the lock."""
    global _lock, _parser
    _lock = Lock()
    _parser = None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_parser)


def _statements(sql: bytes) -> list[dict[str, Any]]:
    library = _library()
    result = library.pg_query_parse(sql)
    try:
        if result.error:
            error = result.error.contents
            message = error.message.decode(errors="replace")
            if message.startswith("memory exhausted"):  # the grammar's own stack, of 10,000 entries
                raise RecursionError(message)
            raise SyntaxRefused(message, max(error.cursorpos - 1, 0))
        text = result.tree.decode()
        try:
            root = json.loads(text)
        except RecursionError:  # from some 200 subqueries or 500 operators on, by version of Python
            root = _decoded_level_by_level(text)
        statements: list[dict[str, Any]] = root.get("stmts", [])
        return statements
    finally:
        library.pg_query_free_parse_result(result)


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


@cache
def _library() -> ctypes.CDLL:
    package = find_spec("postgast")
    if package is None or package.origin is None:
        raise WorkError(
            "PostgreSQL's parser is not installed: it comes with the package postgast;"
            f" pip install '{REQUIREMENT}'"
        )
    file = Path(package.origin).with_name(_FILES.get(sys.platform, "libpg_query.so"))
    try:
        library = ctypes.CDLL(str(file))
        library.pg_query_parse.argtypes = [ctypes.c_char_p]
        library.pg_query_parse.restype = _Result
        library.pg_query_free_parse_result.argtypes = [_Result]
        library.pg_query_free_parse_result.restype = None
    # An AttributeError: the file has no such function.
    except (OSError, AttributeError) as error:
        raise WorkError(
            f"PostgreSQL's parser cannot be loaded from the package postgast: {error};"
            f" this release needs {REQUIREMENT}: pip install '{REQUIREMENT}'"
        ) from None
    return library


def _decoded_level_by_level(text: str) -> Any:
    """As `json.loads`, without recursion and 10 times slower."""
    root: list[Any] = []
    stack: list[Any] = [root]
    key = ""
    for part in _JSON.findall(text):
        if part.endswith(":"):
            key = json.loads(part[:-1])
            continue
        if part in ("}", "]"):
            stack.pop()
            continue
        value: Any
        if part == "{":
            value = {}
        elif part == "[":
            value = []
        else:
            value = json.loads(part)
        parent = stack[-1]
        if isinstance(parent, dict):
            parent[key] = value
        else:
            parent.append(value)
        if part in ("{", "["):
            stack.append(value)
    return root[0]
