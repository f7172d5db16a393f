"""Names as identifiers elsewhere: an Airflow task id or an object key from any table name."""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(r"[^\w-]", re.ASCII)


def slug(name: str) -> str:
    """`name` where it is plain ASCII letters, digits, `_` and `-`; else those plus a hash that keeps it unique.

    Airflow task ids allow `[\\w.-]`, object keys almost anything; a table may be called `Order "Lines" é`.
    """
    plain = _UNSAFE.sub("_", name)
    if plain == name and len(name) <= 63:
        return name
    return f"{plain[:54]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
