"""The compute DAG: what a subgraph computes, independent of any schedule.

Stages read tensors and write one tensor each; a stage is a perfect loop nest over its axes.
The DAG is lossless (``from_tir`` and ``to_tir`` are inverse up to names) and its canonical text,
hashed, is the task key, the same on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from schedules.errors import UnsupportedProgram
from schedules.expr import Axis, Call, Const, Expr, Read, rebuild, walk

SPATIAL = "spatial"
REDUCE = "reduce"
COMBINERS = ("sum", "max", "min", "prod")


@dataclass(frozen=True, slots=True)
class IterAxis:
    """An iteration axis of a stage: ``0 <= name < extent``; ``kind`` is spatial or reduce."""

    name: str
    extent: int
    kind: str = SPATIAL


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input of the DAG. ``constant`` inputs are known at compile time (weights)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One loop nest: ``name[spatial axes] = combiner over reduce axes of body``.

    The written tensor is called like the stage; its dimensions are the spatial axes in order.
    ``combiner`` is ``None`` exactly when there are no reduce axes.
    """

    name: str
    axes: tuple[IterAxis, ...]
    body: Expr
    dtype: str
    combiner: str | None = None

    @property
    def spatial(self) -> tuple[IterAxis, ...]:
        return tuple(a for a in self.axes if a.kind == SPATIAL)

    @property
    def reduce(self) -> tuple[IterAxis, ...]:
        return tuple(a for a in self.axes if a.kind == REDUCE)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(a.extent for a in self.spatial)

    def axis(self, name: str) -> IterAxis:
        return next(a for a in self.axes if a.name == name)

    def reads(self) -> Iterator[Read]:
        """Every tensor read of the body, in text order, repeated reads repeated."""
        return (node for node in walk(self.body) if isinstance(node, Read))


@dataclass(frozen=True)
class ComputeDAG:
    """Inputs, stages in topological order, and the names of the stages that are outputs.

    Raises :class:`UnsupportedProgram` when a stage reads an unknown tensor or a later stage.
    """

    inputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        known = {t.name for t in self.inputs}
        for stage in self.stages:
            for read in stage.reads():
                if read.tensor not in known:
                    raise UnsupportedProgram(f"stage {stage.name!r} reads unknown {read.tensor!r}")
            if stage.name in known:
                raise UnsupportedProgram(f"two tensors are called {stage.name!r}")
            known.add(stage.name)
        missing = [name for name in self.outputs if name not in {s.name for s in self.stages}]
        if missing:
            raise UnsupportedProgram(f"outputs {missing} are no stages")

    @cached_property
    def by_name(self) -> dict[str, Stage]:
        return {s.name: s for s in self.stages}

    @cached_property
    def input_by_name(self) -> dict[str, Tensor]:
        return {t.name: t for t in self.inputs}

    def stage(self, name: str) -> Stage:
        return self.by_name[name]

    def shape_of(self, name: str) -> tuple[int, ...]:
        source = self.input_by_name.get(name)
        return source.shape if source is not None else self.by_name[name].shape

    def dtype_of(self, name: str) -> str:
        source = self.input_by_name.get(name)
        return source.dtype if source is not None else self.by_name[name].dtype

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Tensor name -> names of the stages that read it, in topological order."""
        found: dict[str, list[str]] = {t.name: [] for t in self.inputs}
        found |= {s.name: [] for s in self.stages}
        for stage in self.stages:
            for name in dict.fromkeys(r.tensor for r in stage.reads()):
                found[name].append(stage.name)
        return {name: tuple(stages) for name, stages in found.items()}

    @cached_property
    def key(self) -> str:
        """Task key: the digest of the canonical text; names of tensors and axes do not count."""
        return hashlib.sha256(canonical_text(self).encode()).hexdigest()[:32]


def without_unread(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` without stages that no output needs; its inputs stay."""
    needed = set(dag.outputs)
    kept: list[Stage] = []
    for stage in reversed(dag.stages):
        if stage.name in needed:
            kept.append(stage)
            needed |= {read.tensor for read in stage.reads()}
    return replace(dag, stages=tuple(reversed(kept)))


def canonical_text(dag: ComputeDAG) -> str:
    """The DAG with tensors and axes numbered in order; equal for equal computations."""
    tensors = {t.name: f"t{i}" for i, t in enumerate(dag.inputs)}
    lines = [
        f"t{i}: input {t.dtype}{list(t.shape)}{' constant' if t.constant else ''}"
        for i, t in enumerate(dag.inputs)
    ]
    for stage in dag.stages:
        tensors[stage.name] = f"t{len(tensors)}"
        axes = {a.name: f"a{i}" for i, a in enumerate(stage.axes)}
        loops = " ".join(
            f"{axes[a.name]}<{a.extent}{'r' if a.kind == REDUCE else ''}" for a in stage.axes
        )
        body = expr_text(stage.body, tensors, axes)
        lines.append(
            f"{tensors[stage.name]}: {stage.dtype} {loops} = {stage.combiner or ''} {body}"
        )
    lines.append("outputs " + " ".join(tensors[o] for o in dag.outputs))
    return "\n".join(lines)


def expr_text(expr: Expr, tensors: dict[str, str], axes: dict[str, str]) -> str:
    """One-line prefix form of an expression with names replaced by the given maps."""
    match expr:
        case Const(value, dtype):
            return f"{value!r}:{dtype}"
        case Axis(name):
            return axes.get(name, name)
        case Read(tensor, indices, _):
            inner = ", ".join(expr_text(i, tensors, axes) for i in indices)
            return f"{tensors.get(tensor, tensor)}[{inner}]"
        case Call(op, args, dtype):
            inner = ", ".join(expr_text(a, tensors, axes) for a in args)
            return f"{op}({inner})" if op != "cast" else f"cast({inner}, {dtype})"


def canonical(dag: ComputeDAG) -> ComputeDAG:
    """``dag`` with names given by position, so that equal keys mean equal names.

    Steps speak of names: a record of one network serves the same task of another only so. Inputs
    become ``x0 ...`` (``w`` if constant), stages ``s0 ...``, their axes ``i0 ...`` and ``k0 ...``.
    """
    tensors = {t.name: f"{'w' if t.constant else 'x'}{n}" for n, t in enumerate(dag.inputs)}
    tensors |= {s.name: f"s{n}" for n, s in enumerate(dag.stages)}
    return ComputeDAG(
        tuple(replace(t, name=tensors[t.name]) for t in dag.inputs),
        tuple(_renamed(stage, tensors) for stage in dag.stages),
        tuple(tensors[name] for name in dag.outputs),
    )


def _renamed(stage: Stage, tensors: dict[str, str]) -> Stage:
    axes = {a.name: f"i{n}" for n, a in enumerate(stage.spatial)}
    axes |= {a.name: f"k{n}" for n, a in enumerate(stage.reduce)}

    def change(node: Expr) -> Expr | None:
        if isinstance(node, Axis):
            return Axis(axes[node.name])
        return replace(node, tensor=tensors[node.tensor]) if isinstance(node, Read) else None

    return replace(
        stage,
        name=tensors[stage.name],
        axes=tuple(replace(a, name=axes[a.name]) for a in stage.axes),
        body=rebuild(stage.body, change),
    )
