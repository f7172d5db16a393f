"""Rules about one transform."""

from __future__ import annotations

from collections.abc import Iterator

from loadsheet.spec.finding import Finding
from loadsheet.spec.view import Entry


def merge_needs_a_key(transform: Entry) -> Iterator[Finding]:
    """Without a key nothing says which row is updated."""
    if transform.full["materialized"] == "merge" and transform.full.get("unique_key") is None:
        hint = "add unique_key: <column>, or use materialized: table"
        yield transform.finding("unsafe-mode", "materialized", "merge needs a unique_key", hint)


def only_tables_have_keys(transform: Entry) -> Iterator[Finding]:
    """A view has no key, and a script keeps its own."""
    kind = transform.full["materialized"]
    if kind in ("view", "script") and transform.full.get("unique_key") is not None:
        yield transform.finding(
            "no-effect", "unique_key", f"unique_key has no effect on a {kind}", "drop it, or use merge or table"
        )


TRANSFORM_RULES = (merge_needs_a_key, only_tables_have_keys)
