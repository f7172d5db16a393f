"""What a finished task shows of its work under "Rendered Templates" in Airflow: a line about the
result, and where to look further.

A task cannot write a note, and an XCom would be read by later tasks. The fields that Airflow shows
there can be written by the task itself, when it has ended; none of them is rendered as a template.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

    from loadsheet.outcome import Outcome
    from loadsheet.plan.steps import Step
    from loadsheet.spec.models import Pipeline


def show(task: BaseOperator, step: Step, pipeline: Pipeline, outcome: Outcome) -> None:
    """Have Airflow show the outcome of `step`, the place of its load in the lake, and the SQL of a
    transform."""
    fields = {"summary": outcome.message}
    if outcome.load_id:
        from loadsheet.lake.manifest import load_prefix  # not needed to parse a DAG file

        prefix = load_prefix(pipeline, step.name, outcome.load_id)
        fields["lake_prefix"] = f"{pipeline.lake.bucket}/{prefix}"
    if step.kind == "transform":
        fields["sql"] = pipeline.transform(step.name).sql
    for name, text in fields.items():
        setattr(task, name, text)
    # Of this task alone: the stored DAG has no templates.
    task.template_fields = tuple(fields)
    task.overwrite_rtif_after_execution = True
