"""`loadsheet render`: the pipeline as a dag-factory file, for whoever wants to go on without Loadsheet's factory."""

from __future__ import annotations

import typer

from loadsheet.cli.options import PipelineArgument
from loadsheet.cli.places import open_pipeline


def render(ctx: typer.Context, pipeline: PipelineArgument) -> None:
    """Print a pipeline's DAG as a dag-factory YAML file."""
    from loadsheet.plan import dagfactory

    spec, project = open_pipeline(ctx.obj, pipeline)
    typer.echo(dagfactory.render(spec, project), nl=False)
