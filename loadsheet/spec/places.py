"""Where the files beside a pipeline file are."""

from __future__ import annotations

from pathlib import Path

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "schemas" / "pipeline.schema.json"
"""Beside the package, in a checkout and in an editable install alike."""


def sql_folder(pipeline_file: Path) -> Path:
    """Where the SQL files of the pipeline in `pipeline_file` are."""
    return pipeline_file.parent / "sql"
