"""The manifest of an attempt, written after all of its parts. An attempt without one is no load."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from loadsheet.errors import Corrupt, Refused
from loadsheet.names import slug
from loadsheet.spec.models import Pipeline
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.type_names import known_type
from loadsheet.sql.types import TIME_TYPES, Column
from loadsheet.wording import counted

VERSION = 2
FILE_NAME = "manifest.json"
LONGEST_MANIFEST = 64 << 20
"""Bytes of a manifest, at most: those of 250,000 parts, which hold 2 TB."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stored object: a complete file, compressed."""

    name: str
    bytes: int
    sha256: str
    """Hash of the stored, compressed bytes."""
    content_bytes: int | None = None
    """How much they unpack to; None in Parquet, and in older manifests."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One attempt to extract a table: enough to load it, check it and trace it. Cursor values are
    text as the source writes them."""

    load_id: str
    pipeline: str
    table: str
    run_id: str
    fence: int
    action: Literal["replace", "merge", "append", "fill"]
    """`fill`: the rows have only the key and new columns, for rows that the target has."""
    builds_on_target: bool
    """The rows are an increment of a target that existed when they were read."""
    format: FileFormat
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_is_enforced: bool
    """The source enforces the key, so the load need not look for duplicates and NULLs in it."""
    source_oid: int
    cursor: str | None = None
    cursor_type: str | None = None
    lower: str | None = None
    upper: str | None = None
    moves_watermark: bool = False
    read_at: str
    """The source's clock when the rows were read."""
    clock: str | None = None
    """The same for a cursor without a time zone: the lowest of the clocks of its writers' zones."""
    rows: int
    parts: tuple[Part, ...]
    gone: tuple[Part, ...] = ()
    """Parts with nothing but primary keys (csv): the rows that have to leave the target."""
    gone_rows: int = 0
    marks_gone: bool = False
    """The target keeps rows that are gone from the source, marked as deleted. A row that arrives
    loses its mark."""
    deletes_checked_at: str | None = None
    """The source's clock when it was searched for deleted rows; None where it was not."""
    gone_found: int | None = None
    """How many rows that search has found gone, also where the spec asks for a report alone."""
    repairs: bool = False
    """The rows, and what is gone, are where the target differed from the source: what reads the
    target must be built in full."""
    fills_through: tuple[str, ...] | None = None
    """Of a fill: the last key of its range; None where the range has no end."""
    fills_in_order: tuple[str, ...] = ()
    """What the source ordered the keys of a fill by, per column."""
    has_all_rows: bool = False
    """Every row of the source's table was read. Manifests from before this was recorded tell it by
    their hash alone."""
    content_sha256: str | None = None
    """Hash of the uncompressed rows, where the whole table was read: equal content need not be
    loaded again."""
    held_by: str = ""
    seconds: float = 0.0
    source: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.cursor_type is not None:
            known_type(self.cursor_type)

    @property
    def is_whole(self) -> bool:
        """Whether every row of the source's table is known to have been read."""
        return self.has_all_rows or self.content_sha256 is not None

    @property
    def size(self) -> int:
        """Stored bytes of all parts."""
        return sum(part.bytes for part in (*self.parts, *self.gone))

    @property
    def lag_seconds(self) -> float | None:
        """How far the watermark is below the source's clock; None where it is no time, or stays."""
        if not self.moves_watermark or self.cursor_type not in TIME_TYPES:
            return None
        try:
            clock = datetime.fromisoformat(self.clock or self.read_at)
            watermark = datetime.fromisoformat(self.upper or "")
        except ValueError:  # no watermark yet, or a time that Python cannot hold
            return None
        # A cursor without a time zone, of which no clock is known: its zone is not UTC's.
        if (clock.tzinfo is None) != (watermark.tzinfo is None):
            return None
        # The lowest of several clocks may be below a value that another one has stamped.
        return max((clock - watermark).total_seconds(), 0.0)

    def to_json(self) -> bytes:
        """The manifest as it is stored. Raises Refused where it would be too long to be read."""
        stored = json.dumps(asdict(self), indent=1, ensure_ascii=False).encode()
        if len(stored) > LONGEST_MANIFEST:
            raise Refused(
                f"{self.table}: {counted(len(self.parts), 'part')} are too many for one load: read"
                " the table in pieces (run --from and --to), or fewer of its columns"
            )
        return stored


def read_manifest(stored: bytes | None, name: str, sha256: str) -> Manifest:
    """The manifest in `stored`, the bytes of the object `name` (None: there is no such object).
    Raises Corrupt unless they have this hash and this version of Loadsheet can read them."""
    if stored is None:
        raise Corrupt(f"{name} is gone from the lake; run the extract step again")
    if len(stored) > LONGEST_MANIFEST:
        raise Corrupt(f"{name} is not what was stored; run the extract step again")
    # An older manifest in the place of a newer one is a valid manifest: only the hash tells.
    if hashlib.sha256(stored).hexdigest() != sha256:
        raise Corrupt(f"{name} is not what was stored; run the extract step again")
    try:
        fields = document(stored)
        # First: another version may have other fields.
        if fields.get("version") != VERSION:
            raise Corrupt(
                f"{name} was written by another version of Loadsheet; run the extract step again"
            )
        fields["columns"] = tuple(stored_column(column) for column in _list(fields["columns"]))
        for name_of_parts in ("parts", "gone"):
            stored_parts = _list(fields.get(name_of_parts, []))
            fields[name_of_parts] = tuple(Part(**part) for part in stored_parts)
        fields["key"] = tuple(_list(fields["key"]))
        if fields.get("fills_through") is not None:
            fields["fills_through"] = tuple(_list(fields["fills_through"]))
        fields["fills_in_order"] = tuple(_list(fields.get("fills_in_order", [])))
        manifest = Manifest(**fields)
        parts = (*manifest.parts, *manifest.gone)
        _refuse_other_types(manifest, *manifest.columns, *parts)
        _check_sizes(parts)
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{name} is not a readable manifest; run the extract step again") from error
    return manifest


def document(stored: bytes) -> dict[str, Any]:
    """What a manifest says, unchecked. Raises ValueError for what is not JSON, or not an object, or
    too long or too deep to be a manifest."""
    if len(stored) > LONGEST_MANIFEST:
        raise ValueError("too long")
    try:
        found = json.loads(stored)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _check_sizes(parts: tuple[Part, ...]) -> None:
    """Raises ValueError for sizes that are none: they decide how much is read."""
    for part in parts:
        if min(part.bytes, part.content_bytes or 0) < 0:
            raise ValueError("no size")


def stored_column(stored: dict[str, Any]) -> Column:
    """A column from the fields of one as JSON. Raises ValueError or TypeError for what is none."""
    fields = {**stored}
    for name in ("labels", "inside"):
        fields[name] = tuple(_list(fields.get(name, [])))
    return Column(**fields)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _refuse_other_types(*records: Manifest | Column | Part) -> None:
    """Raises TypeError when a field holds another type than it says: its value may become part of
    a statement."""
    for record in records:
        for name, wanted in _types()[type(record)].items():
            value = getattr(record, name)
            if not _is_of(value, wanted):
                raise TypeError(f"{name} is {value!r}")


@cache
def _types() -> dict[type, dict[str, Any]]:
    """The types that the fields of each kind of record say. Kept: evaluating them again for each
    column took 3 ms of a manifest of 10."""
    return {kind: get_type_hints(kind) for kind in (Manifest, Column, Part)}


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether the value is of the type that a field's annotation names."""
    if isinstance(wanted, UnionType):
        return any(_is_of(value, one) for one in get_args(wanted))
    container = get_origin(wanted)
    if container is Literal:
        return value in get_args(wanted)
    if container is tuple:
        return isinstance(value, tuple) and all(_is_of(one, get_args(wanted)[0]) for one in value)
    if container is dict:
        return isinstance(value, dict) and all(_is_of(one, str) for one in value.values())
    if wanted is float:
        return type(value) in (int, float)
    # Not isinstance: True is an int.
    return type(value) is wanted


def load_prefix(pipeline: Pipeline, table: str = "", load_id: str = "") -> str:
    """The prefix, with a slash at its end, of all attempts of the load `load_id`; without an id, of
    all loads of the table; without a table, of all that the pipeline stores."""
    folders = [pipeline.lake.prefix, slug(table), load_id]
    return "/".join(folder for folder in folders if folder) + "/"
