"""The table in which the rows of a load arrive. What is done with them there is the load
transaction's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadsheet.lake.manifest import Manifest, Part
from loadsheet.lake.parts import Progress
from loadsheet.postgres import Session
from loadsheet.sql.copying import FileFormat, ends
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column
from loadsheet.warehouse.copying_in import Arriving, copy_blocks, copy_parts

if TYPE_CHECKING:
    from loadsheet.lake.store import Lake


class NotAsForeseen(Exception):
    """What has arrived early is not what the sealed manifest lists, or not in the table that the
    load needs. The load begins again, and nothing of this one stays."""


class Arrival:
    """A new table with the columns that arrive, made and filled in the load's transaction. It is a
    temporary one where its rows are to be merged, and a permanent one where it is to become the
    target.

    Rows may arrive before there is a manifest (`copy_early`); `early` are the parts that they are
    in. `refuse_unforeseen` compares them with it.
    """

    def __init__(
        self,
        session: Session,
        table: Relation,
        target: Relation,
        columns: Sequence[Column],
        format: FileFormat,
    ):
        self.session = session
        self.table = table
        self.target = target
        self.columns = tuple(columns)
        self.format = format
        self.early: Sequence[Part] = ()
        self._early_rows = self._early_bytes = 0

    def create(
        self,
        kept: Mapping[str, str],
        key: Collection[str] = (),
        statement: str = "CREATE TABLE",
    ) -> None:
        """Create the table, with the columns `kept` that only the target has: nothing arrives in
        them. Of a permanent table, `key` are the columns of the primary key that it will get, where
        the source enforces it, and `statement` is how its CREATE TABLE begins."""
        if self.table.schema == "pg_temp":
            columns = column_definitions(self.columns, kept)
            statement = f"CREATE TEMPORARY TABLE {self.table.sql} ({columns}) ON COMMIT DROP"
        else:
            columns = column_definitions(self.columns, kept, key)
            statement = f"{statement} {self.table.sql} ({columns})"
        self.session.execute(statement)

    def add_columns(self, kept: Mapping[str, str]) -> None:
        """Add the columns that only the target has, where they were not known at first. It costs no
        byte of a row."""
        if kept:
            added = ", ".join(f"ADD COLUMN {ident(name)} {kind}" for name, kind in kept.items())
            self.session.execute(f"ALTER TABLE {self.table.sql} {added}")

    def copy_early(self, blocks: Iterable[bytes]) -> None:
        """Copy rows that are on their way into the lake. Raises as `copying_in.copy_blocks`."""
        head, tail = self._ends

        def stream() -> Iterator[bytes]:
            yield head
            for block in blocks:
                self._early_bytes += len(block)
                yield block
            yield tail

        self._early_rows = copy_blocks(
            self.session, self.table, self.target, self._names, self.format, stream()
        )

    def refuse_unforeseen(self, schema: str, manifest: Manifest) -> None:
        """Raises NotAsForeseen unless the load needs a table of this schema, with these columns,
        and all that has arrived is in the manifest."""
        if self.table.schema != schema:
            raise NotAsForeseen(f"rows have to arrive in {schema}, not in {self.table.schema}")
        if (self.columns, self.format) != (manifest.columns, manifest.format):
            raise NotAsForeseen("the manifest has other columns")
        listed = {part.name: part for part in manifest.parts}
        if any(listed.get(part.name) != part for part in self.early):
            raise NotAsForeseen("the manifest has other parts")
        around = sum(map(len, self._ends))
        if self._early_bytes != sum((part.content_bytes or 0) - around for part in self.early):
            raise NotAsForeseen("the parts in the manifest have other rows")

    def copy(self, lake: Lake, manifest: Manifest, progress: Progress) -> None:
        """Copy the manifest's rows that have not arrived yet. Raises as `copying_in.copy_parts`."""
        early = {part.name for part in self.early}
        arriving = Arriving(
            parts=[part for part in manifest.parts if part.name not in early],
            rows=manifest.rows,
            format=self.format,
            columns=self._names,
            rows_before=self._early_rows,
            bytes_before=sum(part.bytes for part in self.early),
        )
        copy_parts(self.session, lake, arriving, self.table, self.target, progress)

    @property
    def _names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def _ends(self) -> tuple[bytes, bytes]:
        return ends(self.format, self._names)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A load that has begun: its open transaction, and what has arrived in it."""

    transaction: AbstractContextManager[Any]
    """Commits or rolls back at its end."""
    arrival: Arrival


def column_definitions(
    columns: Sequence[Column], kept: Mapping[str, str], key: Collection[str] = ()
) -> str:
    """The columns of CREATE TABLE: those that arrive, then those that only the target has."""
    definitions = []
    for column in columns:
        # A primary key would look through all rows for NULLs: a fifth of its time.
        not_null = " NOT NULL" if column.name in key else ""
        definitions.append(f"{ident(column.name)} {column.type}{not_null}")
    for name, type_name in kept.items():
        definitions.append(f"{ident(name)} {type_name}")
    return ", ".join(definitions)
