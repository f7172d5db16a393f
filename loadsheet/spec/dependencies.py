"""What each transform reads, and an order in which transforms can run.

The result is remembered: reading the SQL of 10 marts takes 15 ms, and importing the parser 25.
"""

from __future__ import annotations

from collections.abc import Mapping

from loadsheet.spec.models import Inputs, Pipeline

# Pipelines; a long-lived DAG processor sees a new one after each edit.
_MOST = 1024
_remembered: dict[Pipeline, dict[str, Inputs]] = {}


def transform_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is
    free.

    Raises SpecError with all problems of all SQL files, see `infer_inputs`.
    """
    if not pipeline.transforms:
        return {}
    inputs = _remembered.get(pipeline)
    if inputs is None:
        from loadsheet.spec.sql_reading import infer_inputs

        inputs = infer_inputs(pipeline)
        remember_inputs(pipeline, inputs)
    # A copy, so that no caller can change what is remembered.
    return dict(inputs)


def remember_inputs(pipeline: Pipeline, inputs: Mapping[str, Inputs]) -> None:
    """Keep `inputs`, which `infer_inputs` has found for `pipeline`, now or in an earlier
    process."""
    if len(_remembered) >= _MOST:
        _remembered.clear()
    _remembered[pipeline] = dict(inputs)
