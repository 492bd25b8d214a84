"""Sums of products of data and a constant: what rewrites that multiply less begin with.

Separate because all of them (``minimal_filtering.py``, ``quarters.py``, ``pairs.py``) do, and give
the constant another form when a network is compiled, so that nobody else may read it.
"""

from __future__ import annotations

from schedules.dag import ComputeDAG, Stage
from schedules.expr import Call, Read


def product_with_constant(dag: ComputeDAG, stage: Stage) -> tuple[Read, Read] | None:
    """The reads of the data and of the constant, which ``stage`` alone reads, if there are such."""
    if stage.combiner != "sum" or "float" not in stage.dtype:
        return None
    match stage.body:
        case Call("mul", (Read() as first, Read() as second)):
            pass
        case _:
            return None
    for data, weights in ((first, second), (second, first)):
        source = dag.input_by_name.get(weights.tensor)
        if source is None or not source.constant or data.tensor == weights.tensor:
            continue
        if dag.consumers[weights.tensor] == (stage.name,):
            return data, weights
    return None
