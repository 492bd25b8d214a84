"""Names of tasks, for people: operators, large operands, result."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from schedules.dag import ComputeDAG, Stage
from search_space.analysis import has_data_reuse


def task_name(function: str, dag: ComputeDAG) -> str:
    """``conv2d_add_relu 56x56x64 * 3x3x64x64 -> 56x56x64``: operators, large operands, result."""
    words = [re.sub(r"\d+$", "", w) for w in function.removeprefix("fused_").split("_")]
    operators = "_".join(w for w in words if w not in ("", "tir"))
    operands = " * ".join(shape_text(dag, name) for name in _anchor_operands(dag))
    return f"{operators} {operands} -> {shape_text(dag, dag.outputs[0])}"


def unique(name: str, taken: Collection[str]) -> str:
    same = sum(other == name or other.startswith(f"{name} #") for other in taken)
    return f"{name} #{same + 1}" if same else name


def _anchor_operands(dag: ComputeDAG) -> list[str]:
    """The inputs that the first stage with a combiner reads, through elementwise stages.

    Of several accumulations, all that they read, through copies at most.
    """
    anchors = [stage for stage in dag.stages if has_data_reuse(stage)]
    if len(anchors) > 1:
        direct = {name for stage in anchors for name in _read_directly(dag, stage)}
        return [t.name for t in dag.inputs if t.name in direct]
    reducing = [s for s in dag.stages if s.combiner is not None]
    stages = [(reducing or list(dag.stages))[0].name]
    found: dict[str, None] = {}
    while stages:
        for read in dag.stage(stages.pop(0)).reads():
            if read.tensor in dag.input_by_name:
                found[read.tensor] = None
            else:
                stages.append(read.tensor)
    used = [t.name for t in dag.inputs if t.name in found]
    return used[:2] or [t.name for t in dag.inputs[:1]]


def _read_directly(dag: ComputeDAG, stage: Stage) -> list[str]:
    found = []
    for read in stage.reads():
        source = dag.by_name.get(read.tensor)
        if source is None:
            found.append(read.tensor)
        elif source.combiner is None and len(list(source.reads())) == 1:
            found += _read_directly(dag, source)
    return found


def shape_text(dag: ComputeDAG, name: str) -> str:
    """Extents joined by ``x``; leading ones are left out, except of constants."""
    extents = list(dag.shape_of(name))
    source = dag.input_by_name.get(name)
    while len(extents) > 1 and extents[0] == 1 and not (source and source.constant):
        extents = extents[1:]
    return "x".join(str(e) for e in extents) or "scalar"


def chain_name(parts: Sequence[ComputeDAG]) -> str:
    """``chain 14x14x96 -> 14x14x576 -> 14x14x96``: what is read and what every part leaves."""
    read = shape_text(parts[0], _anchor_operands(parts[0])[0])
    left = [shape_text(part, part.outputs[0]) for part in parts]
    return f"chain {' -> '.join([read, *left])}"
