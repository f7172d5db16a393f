"""`loadsheet schema`: the JSON Schemas of pipeline files and test files, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loadsheet.spec.files import SCHEMA_FILE


class Kind(StrEnum):
    """What files there are to check and complete."""

    pipeline = "pipeline"
    tests = "tests"


def schema(
    kind: Annotated[
        Kind,
        typer.Argument(
            metavar="[pipeline|tests]", help="Of pipeline files, or of the test files beside them."
        ),
    ] = Kind.pipeline,
) -> None:
    """Print the JSON Schema that editors check and complete pipeline files by, or test files."""
    typer.echo(SCHEMA_FILE.with_name(f"{kind}.schema.json").read_text(encoding="utf-8"), nl=False)
