"""Types of extensions that land as themselves where the warehouse has the extension.

Their values travel as the text that the source shows, which is what a dump of the database holds,
too: the binary form of an extension may change with its version. A type that is not listed here
lands as `text` (`sql.types`): nothing is known about what its text leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

TYPES: Mapping[str, frozenset[str]] = {
    "citext": frozenset({"citext"}),
    "cube": frozenset({"cube"}),
    "hstore": frozenset({"hstore"}),
    "intarray": frozenset({"query_int"}),
    "isn": frozenset({"ean13", "isbn", "isbn13", "ismn", "ismn13", "issn", "issn13", "upc"}),
    "ltree": frozenset({"ltree", "lquery", "ltxtquery"}),
    "postgis": frozenset({"geometry", "geography"}),
    "seg": frozenset({"seg"}),
    "vector": frozenset({"halfvec", "sparsevec", "vector"}),
}


@dataclass(frozen=True, kw_only=True)
class Offered:
    """What a warehouse has for one target."""

    names: Mapping[tuple[str, str], str]
    """The qualified name of each type, by its extension and its name."""
    texts: frozenset[str] = frozenset()
    """The target's columns that hold text already, and keep it until a full refresh."""


Ask = Callable[[], Offered]
"""Asks the warehouse. Called only for a table that has columns of such types."""


def is_known(extension: str | None, type_name: str) -> bool:
    """Whether the extension's type lands as itself where it can."""
    return extension is not None and type_name in TYPES.get(extension, ())
