"""What GitHub calls `primaryLocationLineHash`: which line of a file a result is about, whatever its number is today.

The same numbers as GitHub's own upload action makes (github/codeql-action, src/fingerprints.ts), which says so where
they differ: a hash of a line and what follows it, 100 characters without blanks, and a count of equal ones before it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

_BLOCK, _FACTOR, _BITS = 100, 37, (1 << 64) - 1
_FIRST = pow(_FACTOR, _BLOCK, 1 << 64)
_END = 65535


def line_hashes(text: str) -> list[str]:
    """The hash of each line of `text`, for the first line first."""
    seen: Counter[str] = Counter()
    hashes = []
    for value in _values(text):
        digits = f"{value:x}"
        seen[digits] += 1
        hashes.append(f"{digits}:{seen[digits]}")
    return hashes


def _values(text: str) -> Iterator[int]:
    window, value = deque([0] * _BLOCK, _BLOCK), 0
    starts: deque[int] = deque()
    at_start = True
    for place, char in enumerate([*_characters(text), *[None] * _BLOCK]):
        if starts and starts[0] == place - _BLOCK:
            starts.popleft()
            yield value
        if char is not None and at_start:
            starts.append(place)
        at_start = char == ord("\n")
        value = (value * _FACTOR + (char or 0) - _FIRST * window[0]) & _BITS
        window.append(char or 0)
    if starts:
        yield value


def _characters(text: str) -> Iterator[int]:
    """As UTF-16 has them, without blanks, every end of line a newline."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").replace(" ", "").replace("\t", "")
    units = plain.encode("utf-16-le", errors="surrogatepass")
    yield from (units[place] | units[place + 1] << 8 for place in range(0, len(units), 2))
    yield _END
