"""PostgreSQL's own grammar: the C library libpg_query, which gives its syntax tree as JSON.

It comes with the package `postgast`, but not through `postgast.parse`: that reads protobuf, which
refuses messages nested more than 100 deep (46 `||`, 19 CTEs), and takes 65 ms to import.

The library runs in a process of its own. SQL that ends it, or that it does not come to an end
with, costs the file that holds that SQL, and not the process that checks all files.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Timer, stack_size
from typing import IO, Any

from loadsheet.errors import WorkError
from loadsheet.sql import libpg_process
from loadsheet.sql.libpg_process import HEADER, LENGTH, NO_LIBRARY, REFUSED

REQUIREMENT = "postgast>=0.2,<0.3"
"""As in pyproject.toml. Other versions may keep the library elsewhere, or change its interface."""

MOST_SECONDS = 300.0
"""For one text, if its process is not ended earlier for the CPU time that it takes."""

_FILES = {"darwin": "libpg_query.dylib", "win32": "pg_query.dll"}
# A key with its colon, a value, or a bracket.
_JSON = re.compile(r'"(?:[^"\\]|\\.)*+":?|[{}\[\]]|[^\s{}\[\],:"]+')


class SyntaxRefused(Exception):
    """What the grammar does not take: its message, and the character (from 0) where it gave up."""

    def __init__(self, message: str, offset: int):
        self.message, self.offset = message, offset
        super().__init__(message)


class ParserEnded(Exception):
    """The parser's process ended at this SQL, or was ended because it took too long."""


class _Parser:
    """The process that runs the library. Raises WorkError where there is none."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", libpg_process.__file__, _library_file()]
        try:
            # In a session of its own: Ctrl-C is for us, and must not end it in the middle of a
            # text.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise WorkError(f"PostgreSQL's parser cannot be started: {error}") from None

    @property
    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._process.stdin and self._process.stdout
        return self._process.stdin, self._process.stdout

    def answer(self, sql: bytes) -> tuple[int, int, bytes]:
        """The kind, the position and the text of the answer. Raises ParserEnded."""
        questions, answers = self._pipes
        # Not by waiting for the pipe, which Windows cannot do for a limited time.
        alarm = Timer(MOST_SECONDS, self._process.kill)
        alarm.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # what it said before it ended counts
                questions.write(LENGTH.pack(len(sql)) + sql)
                questions.flush()
            header = answers.read(HEADER.size)
            if len(header) < HEADER.size:
                raise ParserEnded
            kind, position, length = HEADER.unpack(header)
            text = answers.read(length)
            if len(text) < length:
                raise ParserEnded
            return kind, position, text
        except BaseException:
            # Also an interruption: the rest of its answer would be taken for the next one.
            self._process.kill()
            raise
        finally:
            alarm.cancel()

    def close(self) -> None:
        """End the process."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """In a process that was forked from the one that started it: let go of it."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                os.close(pipe.fileno())
        self._process.returncode = 0  # it is no child of this process


# Python's JSON reader recurses in C, and 128 KiB of stack, which a thread of musl has, do not
# suffice for the 1,000 levels after which it gives up. So a thread with this stack reads the trees.
# Only pages that are touched take memory.
_STACK_BYTES = 32 * 1024 * 1024
_lock = Lock()
_reader: ThreadPoolExecutor | None = None
_parser: _Parser | None = None
"""Used by the reader's thread alone."""


def syntax_trees(sql: bytes) -> list[dict[str, Any]]:
    """The trees of the statements in `sql`, which holds no NUL. Their locations count bytes.

    Raises SyntaxRefused; RecursionError where they are nested too deeply for the grammar;
    ParserEnded; WorkError without the library.
    """
    global _reader
    with _lock:
        if _reader is None:
            _reader = ThreadPoolExecutor(1, thread_name_prefix="libpg_query")
        # Its thread starts with the first call. The size holds for every thread that starts from
        # now on, so it is set for one start only. A thread that someone else starts in between gets
        # a larger stack, which does no harm.
        usual = stack_size(_STACK_BYTES)
        try:
            reading = _reader.submit(_trees, sql)
        finally:
            stack_size(usual)
    return reading.result()


def _trees(sql: bytes) -> list[dict[str, Any]]:
    kind, position, text = _answer(sql)
    if kind == NO_LIBRARY:
        raise WorkError(
            f"PostgreSQL's parser cannot be loaded from the package postgast: {text.decode()};"
            f" this release needs {REQUIREMENT}: pip install '{REQUIREMENT}'"
        )
    if kind == REFUSED:
        message = text.decode(errors="replace")
        if message.startswith("memory exhausted"):  # the grammar's own stack, of 10,000 entries
            raise RecursionError(message)
        raise SyntaxRefused(message, position)
    try:
        root = json.loads(text)
    except RecursionError:  # from some 200 subqueries or 500 operators on, by version of Python
        root = _decoded_level_by_level(text.decode())
    statements: list[dict[str, Any]] = root.get("stmts", [])
    return statements


def _answer(sql: bytes) -> tuple[int, int, bytes]:
    """Asks the parser, and once more a new one: it may have ended since the last text."""
    global _parser
    for _ in range(2):
        parser = _parser or _Parser()
        _parser = None
        try:
            answer = parser.answer(sql)
        except ParserEnded:
            parser.close()
            continue
        except BaseException:
            parser.close()
            raise
        if answer[0] == NO_LIBRARY:
            parser.close()
        else:
            _parser = parser
        return answer
    raise ParserEnded


def _forget_parser() -> None:
    """In a process that was forked: the thread has stayed behind, perhaps with the lock, and the
    parser belongs to the other process."""
    global _lock, _reader, _parser
    _lock = Lock()
    _reader = None
    if _parser:
        _parser.forget()
    _parser = None


def _close_parser() -> None:
    if _parser:
        _parser.close()


atexit.register(_close_parser)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_parser)


def _library_file() -> str:
    package = find_spec("postgast")
    if package is None or package.origin is None:
        raise WorkError(
            "PostgreSQL's parser is not installed: it comes with the package postgast;"
            f" pip install '{REQUIREMENT}'"
        )
    return str(Path(package.origin).with_name(_FILES.get(sys.platform, "libpg_query.so")))


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
