"""The process in which libpg_query reads SQL, started by `loadsheet.sql.libpg`.

It is run as a file, by a Python without site-packages: it imports nothing but these modules, so
that it starts in a few milliseconds.

A question is the length of the SQL (4 bytes) and the SQL; an answer is its kind (1 byte), a
position (4 bytes), the length of the text (4 bytes) and the text.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import sys
import threading
from typing import BinaryIO

if sys.platform != "win32":
    import resource

# libpg_query writes its tree by recursion and checks no limit: a stack that is too small ends the
# process (SIGSEGV). Measured: 130 bytes for each operator in a chain, 400 for each scalar subquery.
# The most that `tokens` lets through, 50,000 operators, takes 6.3 MiB: close to the 8 MiB usual on
# Linux, and far more than the operating system's own default for threads on macOS (512 KiB) and
# musl (128 KiB). Only pages that are touched take memory.
_STACK_BYTES = 32 * 1024 * 1024
# Its output ends it at 1 GB.
_MOST_MEMORY = 3 * 1024 * 1024 * 1024

# CPU time for one text, because a busy machine must not refuse what a quiet one reads. The longest
# text that `tokens` lets through takes less than one second.
_MOST_SECONDS = 20

TREES, REFUSED, NO_LIBRARY = 0, 1, 2
HEADER = struct.Struct(">BII")
LENGTH = struct.Struct(">I")


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


def _serve(file: str, questions: BinaryIO, answers: BinaryIO) -> None:
    try:
        library = ctypes.CDLL(file)
        library.pg_query_parse.argtypes = [ctypes.c_char_p]
        library.pg_query_parse.restype = _Result
        library.pg_query_free_parse_result.argtypes = [_Result]
        library.pg_query_free_parse_result.restype = None
    # An AttributeError: the file has no such function.
    except (OSError, AttributeError) as error:
        _answer(answers, NO_LIBRARY, 0, str(error).encode())
        return
    while length := questions.read(LENGTH.size):
        sql = questions.read(LENGTH.unpack(length)[0])
        _limit_time()
        result = library.pg_query_parse(sql)
        if result.error:
            refused = result.error.contents
            _answer(answers, REFUSED, max(refused.cursorpos - 1, 0), refused.message)
        else:
            _answer(answers, TREES, 0, result.tree)
        library.pg_query_free_parse_result(result)


def _answer(answers: BinaryIO, kind: int, position: int, text: bytes) -> None:
    answers.write(HEADER.pack(kind, position, len(text)))
    answers.write(text)
    answers.flush()


def _limit_time() -> None:
    """From now on, this process may take _MOST_SECONDS more of CPU time."""
    if sys.platform == "win32":
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = int(used.ru_utime + used.ru_stime) + 1 + _MOST_SECONDS
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    for kind, most in ((resource.RLIMIT_AS, _MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        # The system's own limit may be lower.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    _limit_memory()
    threading.stack_size(_STACK_BYTES)
    arguments = (sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
    parser = threading.Thread(target=_serve, args=arguments)
    parser.start()
    parser.join()
