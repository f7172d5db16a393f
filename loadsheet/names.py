"""Names as identifiers elsewhere: an Airflow task id or an object key from any table name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain

# A ratio from 0 to 1, as difflib measures it.
_LIKELY = 0.65
_UNSAFE = re.compile(r"[^\w-]", re.ASCII)


def slug(name: str) -> str:
    """`name` where it is plain ASCII letters, digits, `_` and `-`; else those plus a hash that
    keeps it unique.

    Airflow task ids allow `[\\w.-]`, object keys almost anything; a table may be called `Order
    "Lines" é`.
    """
    plain = _UNSAFE.sub("_", name.replace("*", "any"))
    if plain == name and len(name) <= 63:
        return name
    return f"{plain[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_pattern(name: str) -> bool:
    """Whether `name` stands for tables by a pattern: `*` is any text, `?` any one character.

    In brackets, `[*]` and `[?]`, they are themselves, as in fnmatch and gitignore; other brackets
    mean nothing.
    """
    return any(found[0] in _ANY for found in _SIGN.finditer(name))


def plain(name: str) -> str:
    """The table that `name`, which is no pattern, means: `odd[*]name` is `odd*name`."""
    return _SIGN.sub(lambda found: found[0].strip("[]"), name)


def spelled(table: str) -> str:
    """How a spec names `table` and no other: the other way round."""
    return re.sub(r"[*?]", r"[\g<0>]", table)


def matches(pattern: str, name: str) -> bool:
    """Whether the whole of `name` is as `pattern` says; capitals count."""
    return bool(_compiled(pattern).fullmatch(name))


def covers(pattern: str, other: str) -> bool:
    """Whether every name that the pattern (or name) `other` matches is also one for `pattern`.
    Never wrongly true."""
    return bool(_compiled(pattern, one="[^\x00]").fullmatch(_as_text(other)))


_SIGN = re.compile(r"\[[*?]\]|[*?]")
_ANY = {"*": ".*", "?": "."}


@lru_cache(maxsize=256)
def _compiled(pattern: str, one: str = ".") -> re.Pattern[str]:
    any_of = {**_ANY, "?": one}
    signs = [any_of.get(sign, re.escape(sign[1:2])) for sign in _SIGN.findall(pattern)]
    texts = [re.escape(text) for text in _SIGN.split(pattern)]
    return re.compile(
        "".join(chain.from_iterable(zip(texts, [*signs, ""], strict=True))), re.DOTALL
    )


def _as_text(pattern: str) -> str:
    """A name like all that `pattern` matches: what may be any text is a character that no name of
    PostgreSQL has."""
    return _SIGN.sub(lambda found: {"*": "\0", "?": "\1"}.get(found[0], found[0][1:2]), pattern)


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is spelled most like `word`; None when none is a likely typo."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=_LIKELY)), None)


def did_you_mean(word: str, known: Iterable[str], shown: int = 10) -> str:
    """What to append to an error about the unknown name `word`: the likely typo, or the names there
    are."""
    names = list(known)
    if meant := closest(word, names):
        return f" (did you mean {meant!r}?)"
    more = ", ..." if len(names) > shown else ""
    return f"; it has {', '.join(names[:shown])}{more}" if names else ""
