"""`loadsheet render`: the pipeline as a dag-factory file, for use without Loadsheet's factory."""

from __future__ import annotations

import typer

from loadsheet.cli.output import PipelineArgument
from loadsheet.project.folder import open_pipeline


def render(ctx: typer.Context, pipeline: PipelineArgument) -> None:
    """Print a pipeline's DAG as a dag-factory YAML file."""
    from loadsheet.plan import dag_config

    spec, project = open_pipeline(ctx.obj, pipeline)
    typer.echo(dag_config.render_dag(spec, project), nl=False)
