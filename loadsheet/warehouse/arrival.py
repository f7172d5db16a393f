"""The table in which the rows of a load arrive. What is done with them there is the load
transaction's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadsheet.lake.manifest import Manifest
from loadsheet.lake.parts import Progress
from loadsheet.lake.store import Lake
from loadsheet.postgres import Session
from loadsheet.sql.copying import FileFormat
from loadsheet.sql.text import Relation, ident
from loadsheet.sql.types import Column
from loadsheet.warehouse.copying_in import Arriving, copy_parts


class Arrival:
    """A new table with the columns that arrive, made and filled in the load's transaction. It is a
    temporary one where its rows are to be merged, and a permanent one where it is to become the
    target."""

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

    def create(self, kept: Mapping[str, str], statement: str = "CREATE TABLE") -> None:
        """Create the table, with the columns `kept` that only the target has: nothing arrives in
        them. `statement` begins that of a permanent table."""
        columns = column_definitions(self.columns, kept)
        if self.table.schema == "pg_temp":
            statement = f"CREATE TEMPORARY TABLE {self.table.sql} ({columns}) ON COMMIT DROP"
        else:
            statement = f"{statement} {self.table.sql} ({columns})"
        self.session.execute(statement)

    def copy(self, lake: Lake, manifest: Manifest, progress: Progress) -> None:
        """Copy the manifest's rows. Raises as `copying_in.copy_parts`."""
        arriving = Arriving(
            parts=manifest.parts,
            rows=manifest.rows,
            format=self.format,
            columns=[column.name for column in self.columns],
        )
        copy_parts(self.session, lake, arriving, self.table, self.target, progress)


def column_definitions(columns: Sequence[Column], kept: Mapping[str, str]) -> str:
    """The columns of CREATE TABLE: those that arrive, then those that only the target has."""
    definitions = [f"{ident(column.name)} {column.type}" for column in columns]
    for name, type_name in kept.items():
        definitions.append(f"{ident(name)} {type_name}")
    return ", ".join(definitions)
