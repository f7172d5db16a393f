"""`loadsheet schema`: the JSON Schemas of pipeline files and test files, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loadsheet.spec.files import SCHEMA_FILE


class Kind(StrEnum):
    """The kinds of files that have a schema."""

    pipeline = "pipeline"
    tests = "tests"


def schema(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="[pipeline|tests]",
            help="For pipeline files, or for test files.",
        ),
    ] = Kind.pipeline,
) -> None:
    """Print the JSON Schema with which editors check and complete pipeline files or test files."""
    typer.echo(SCHEMA_FILE.with_name(f"{kind}.schema.json").read_text(encoding="utf-8"), nl=False)
