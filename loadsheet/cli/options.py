"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

PipelineArgument = Annotated[str, typer.Argument(metavar="PIPELINE", help="A pipeline's name, or its file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")]
