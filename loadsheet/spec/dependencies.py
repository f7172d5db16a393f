"""What each transform reads, and an order in which transforms can run. Inferred once, then
remembered: reading the SQL of 10 marts takes 15 ms, and importing the parser 25."""

from __future__ import annotations

from collections.abc import Mapping

from loadsheet.spec.models import Inputs, Pipeline

_MOST = 1024
_known: dict[Pipeline, dict[str, Inputs]] = {}


def transform_inputs(pipeline: Pipeline) -> dict[str, Inputs]:
    """Every transform's inputs, in an order in which they can run; the spec's order where it is
    free.

    Raises SpecError with all problems of all SQL files, see `infer_inputs`.
    """
    if not pipeline.transforms:
        return {}
    found = _known.get(pipeline)
    if found is None:
        from loadsheet.spec.sql_reading import infer_inputs

        found = infer_inputs(pipeline)
        remember(pipeline, found)
    return dict(found)


def remember(pipeline: Pipeline, inputs: Mapping[str, Inputs]) -> None:
    """`inputs` is what `infer_inputs` has found for `pipeline`, now or in an earlier process."""
    if len(_known) >= _MOST:
        _known.clear()
    _known[pipeline] = dict(inputs)
