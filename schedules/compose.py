"""Several compute DAGs, one after the other, as one: the program of a chain of kernels.

Read ``dag.py`` first. Values are named by the caller, as in straight-line code: what one part
computes and a later one reads stays inside. Separate because it knows nothing of graphs, and the
graph nothing of stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from schedules.dag import ComputeDAG, Stage, Tensor, canonical
from schedules.errors import UnsupportedProgram
from schedules.expr import Expr, Read, rebuild


@dataclass(frozen=True, slots=True)
class Part:
    """``result = dag(arguments)``: a value per input of the DAG; the result is its output 0."""

    dag: ComputeDAG
    arguments: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class Composition:
    """``dag`` has canonical names; ``arguments`` names the value of each of its inputs."""

    dag: ComputeDAG
    arguments: tuple[str, ...]


def compose(parts: Sequence[Part]) -> Composition:
    """The parts one after the other as one DAG, whose outputs are those of the last part.

    A value that several parts read is one input. Raises :class:`UnsupportedProgram` when a part
    but the last has several outputs or a result that no later part reads, and when a value is read
    with another shape or dtype than it has.
    """
    known: dict[str, Tensor | Stage] = {}  # by value
    stages: list[Stage] = []
    for number, part in enumerate(parts):
        _check(part, [value for later in parts[number + 1 :] for value in later.arguments])
        names = {s.name: f"s{len(stages) + i}" for i, s in enumerate(part.dag.stages)}
        for tensor, value in zip(part.dag.inputs, part.arguments, strict=True):
            source = known.setdefault(value, replace(tensor, name=f"x{len(known)}"))
            if (source.shape, source.dtype) != (tensor.shape, tensor.dtype):
                raise UnsupportedProgram(f"{value!r} is read with two shapes or dtypes")
            names[tensor.name] = source.name
        stages += [_renamed(stage, names) for stage in part.dag.stages]
        outputs = tuple(names[name] for name in part.dag.outputs)
        known[part.result] = next(s for s in stages if s.name == outputs[0])
    inputs = {value: t for value, t in known.items() if isinstance(t, Tensor)}
    dag = ComputeDAG(tuple(inputs.values()), tuple(stages), outputs)
    return Composition(canonical(dag), tuple(inputs))


def _check(part: Part, read_later: Sequence[str]) -> None:
    if not read_later:
        return
    if len(part.dag.outputs) != 1:
        raise UnsupportedProgram(f"{part.result!r} is one of several results")
    if part.result not in read_later:
        raise UnsupportedProgram(f"nothing reads {part.result!r}")


def _renamed(stage: Stage, names: dict[str, str]) -> Stage:
    def change(node: Expr) -> Expr | None:
        return replace(node, tensor=names[node.tensor]) if isinstance(node, Read) else None

    return replace(stage, name=names[stage.name], body=rebuild(stage.body, change))
