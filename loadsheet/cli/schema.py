"""`loadsheet schema`: the JSON Schema of a pipeline file, for editors."""

from __future__ import annotations

import typer

from loadsheet.spec.places import SCHEMA_FILE


def schema() -> None:
    """Print the JSON Schema that editors check and complete pipeline files by."""
    typer.echo(SCHEMA_FILE.read_text(encoding="utf-8"), nl=False)
