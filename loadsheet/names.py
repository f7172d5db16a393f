"""Names as identifiers elsewhere: an Airflow task id or an object key from any table name."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache

_UNSAFE = re.compile(r"[^\w-]", re.ASCII)


def slug(name: str) -> str:
    """`name` where it is plain ASCII letters, digits, `_` and `-`; else those plus a hash that keeps it unique.

    Airflow task ids allow `[\\w.-]`, object keys almost anything; a table may be called `Order "Lines" é`.
    """
    plain = _UNSAFE.sub("_", name.replace("*", "any"))
    if plain == name and len(name) <= 63:
        return name
    return f"{plain[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_pattern(name: str) -> bool:
    """Whether `name` stands for tables by a pattern: `*` is any text, `?` any one character."""
    return "*" in name or "?" in name


def matches(pattern: str, name: str) -> bool:
    """Whether the whole of `name` is as `pattern` says; capitals count."""
    return bool(_compiled(pattern).fullmatch(name))


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
