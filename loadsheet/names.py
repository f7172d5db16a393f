"""Names of tables: as patterns, as Airflow task ids and object keys, and what a typo meant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache

# difflib compares each letter with each, and a name may be as long as a file.
_LONGEST_WORD = 100
_MOST_WORDS = 2_000
# From 0 to 1, as difflib measures it: below this, a word is not a likely typo of another.
_SIMILARITY = 0.65
_UNSAFE = re.compile(r"[^\w-]", re.ASCII)
# A wildcard, or one in brackets, which stands for the character itself.
_WILDCARD = re.compile(r"\[[*?]\]|[*?]")


def slug(name: str) -> str:
    """`name` where it is plain ASCII letters, digits, `_` and `-`; else those plus a hash that
    keeps it unique.

    Airflow task ids allow `[\\w.-]`, object keys almost anything; a table may be called `Order
    "Lines" é`.
    """
    # A pattern stays readable: `order_*` becomes `order_any` and the hash.
    safe = _UNSAFE.sub("_", name.replace("*", "any"))
    if safe == name and len(name) <= 63:
        return name
    # 54 + 1 + 8 characters: as long as a plain name may be.
    return f"{safe[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_pattern(name: str) -> bool:
    """Whether `name` is a pattern: `*` stands for any text, `?` for any one character.

    In brackets, `[*]` and `[?]`, they stand for themselves, as in fnmatch and gitignore. Other
    brackets have no meaning.
    """
    return any(wildcard in ("*", "?") for wildcard in _WILDCARD.findall(name))


def unescape_wildcards(name: str) -> str:
    """The table that `name`, which is not a pattern, stands for: `odd[*]name` is `odd*name`."""
    return _WILDCARD.sub(lambda match: match[0].strip("[]"), name)


def escape_wildcards(table: str) -> str:
    """How a pipeline file names `table` and no other: the inverse of `unescape_wildcards`."""
    return re.sub(r"[*?]", r"[\g<0>]", table)


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the whole of `name`. It is case-sensitive."""
    return bool(_regex(pattern).fullmatch(name))


def covers(pattern: str, other: str) -> bool:
    """Whether `pattern` matches every name that the pattern (or name) `other` matches.

    It may be False where that is so, but it is never wrongly True.
    """
    return bool(_regex(pattern, one="[^\x00]").fullmatch(_sample_name(other)))


@lru_cache(maxsize=256)
def _regex(pattern: str, one: str = ".") -> re.Pattern[str]:
    """`pattern` as a regular expression; `one` is what `?` becomes.

    The text between two `*` is taken where it first occurs, and nothing that follows can make the
    search try another place: no later place leaves more for the rest. With plain `.*`, 30 of them
    took longer than anyone waits.
    """
    texts = [""]
    end = 0
    for wildcard in _WILDCARD.finditer(pattern):
        texts[-1] += re.escape(pattern[end : wildcard.start()])
        if wildcard[0] == "*":
            texts.append("")
        elif wildcard[0] == "?":
            texts[-1] += one
        else:
            texts[-1] += re.escape(wildcard[0][1])
        end = wildcard.end()
    texts[-1] += re.escape(pattern[end:])
    regex, *rest = texts
    for text in filter(None, rest[:-1]):
        regex += f"(?>.*?{text})"
    if rest:
        regex += f".*{rest[-1]}"
    return re.compile(regex, re.DOTALL)


def _sample_name(pattern: str) -> str:
    """A name that stands for all that `pattern` matches.

    `*` becomes NUL and `?` becomes U+0001: no name in PostgreSQL holds NUL, so that only a `*`
    covers a `*`.
    """
    samples = {"*": "\0", "?": "\1"}
    return _WILDCARD.sub(lambda match: samples.get(match[0], match[0][1:2]), pattern)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is spelled most like `word`; None when `word` is a likely typo of
    none of them, or too long to compare. One that differs in capitals alone comes first. Of
    more than 2,000, those with the same first letter are compared before others."""
    if len(word) > _LONGEST_WORD:
        return None
    names = [name for name in known if len(name) <= _LONGEST_WORD]
    # To difflib, a capital is another letter.
    for name in names:
        if name.lower() == word.lower():
            return name
    if len(names) > _MOST_WORDS:
        names.sort(key=lambda name: name[:1] != word[:1])
        del names[_MOST_WORDS:]
    return next(iter(get_close_matches(word, names, n=1, cutoff=_SIMILARITY)), None)


def did_you_mean(word: str, known: Iterable[str], limit: int = 10) -> str:
    """What to append to an error about the unknown name `word`: the name it is a likely typo of, or
    the first `limit` names there are."""
    names = list(known)
    meant = closest(word, names)
    if meant:
        return f" (did you mean {meant!r}?)"
    if not names:
        return ""
    more = ", ..." if len(names) > limit else ""
    return f"; it has {', '.join(names[:limit])}{more}"
