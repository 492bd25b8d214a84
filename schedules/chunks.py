"""Exponentials relative to the greatest value of a chunk: a rewrite that needs no whole row first.

``sum_j exp(x[j] - max_j x) * v[j]`` wants all of ``x`` before the first exponential. By chunks of
``j``, each relative to its own greatest value, it wants a chunk; the few results of the chunks are
weighed and added up at the end (Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats, arXiv
2112.05682). Read ``late_division.py`` first; separate because of its algebra.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from schedules.dag import REDUCE, SPATIAL, ComputeDAG, IterAxis, Stage
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, Read, axes_in, rebuild
from schedules.steps import Chunk


@dataclass(frozen=True)
class Exponentials:
    """``powers = exp(values - greatest)``, where ``greatest`` is taken along ``axis`` of them.

    ``sums``: those who read ``powers``; all add products with it along that axis, of this name.
    """

    powers: Stage
    values: Read
    greatest: Read
    axis: str
    sums: dict[str, str]


def exponentials(dag: ComputeDAG, stage: Stage, axis: str) -> Exponentials | None:
    """What ``stage`` adds up along ``axis``, if these are such exponentials."""
    for read in stage.reads():
        found = _powers(dag, read)
        if found is not None and found.sums.get(stage.name) == axis:
            return found
    return None


def _powers(dag: ComputeDAG, read: Read) -> Exponentials | None:
    powers = dag.by_name.get(read.tensor)
    match powers:
        case Stage(body=Call("exp", (Call("sub", (Read() as values, Read() as most)),))):
            source, greatest = dag.by_name.get(values.tensor), dag.by_name.get(most.tensor)
        case _:
            return None
    if source is None or greatest is None or greatest.combiner != "max":
        return None
    if powers.name in dag.outputs or source.name in dag.outputs or len(greatest.reduce) != 1:
        return None
    if not isinstance(greatest.body, Read) or greatest.body.tensor != source.name:
        return None
    if set(dag.consumers[source.name]) != {powers.name, greatest.name}:
        return None
    along = greatest.body.indices.index(Axis(greatest.reduce[0].name))
    axis = values.indices[along]
    if not isinstance(axis, Axis) or axis.name in axes_in(most):
        return None
    others = (n for n, i in enumerate(values.indices) if n != along and axis.name in axes_in(i))
    readers = (dag.stage(name) for name in dag.consumers[powers.name])
    sums = {s.name: _added_along(s, powers, axis.name) for s in readers}
    if any(others) or not all(sums.values()):
        return None
    return Exponentials(powers, values, most, axis.name, sums)


def _added_along(stage: Stage, powers: Stage, axis: str) -> str:
    """The only axis of a sum of products, if it is ``axis`` of ``powers``; else nothing."""
    if stage.combiner != "sum" or len(stage.reduce) != 1:
        return ""
    reads = [read for read in stage.reads() if read.tensor == powers.name]
    if len(reads) != 1 or reads[0] not in _factors(stage.body):
        return ""
    added = Axis(stage.reduce[0].name)
    places = zip((a.name for a in powers.spatial), reads[0].indices, strict=True)
    along = [name for name, index in places if added.name in axes_in(index)]
    plain = reads[0].indices[[a.name for a in powers.spatial].index(axis)] == added
    return added.name if plain and along == [axis] else ""


def _factors(expr: Expr) -> list[Expr]:
    if isinstance(expr, Call) and expr.op == "mul":
        return [f for arg in expr.args for f in _factors(arg)]
    return [expr]


# ------------------------------------------------------------------ the rewrite


def chunk(dag: ComputeDAG, step: Chunk) -> ComputeDAG:
    """Chunks of ``axis`` first, then their weights and sums, all after the chunks."""
    stage = dag.by_name.get(step.stage)
    found = None if stage is None else exponentials(dag, stage, step.axis)
    what = f"chunk of {step.stage!r}"
    if found is None:
        raise ScheduleError(f"{what}: it adds no normalised exponentials along {step.axis!r}")
    extent = found.powers.axis(found.axis).extent
    if extent % step.length or not 1 < step.length < extent:
        raise ScheduleError(f"{what}: {extent} elements are no chunks of {step.length}")
    return _Chunks(dag, found, step.length).dag()


class _Chunks:
    """The stages of a DAG as they are with chunks of ``length``."""

    def __init__(self, dag: ComputeDAG, found: Exponentials, length: int) -> None:
        self.before = dag
        self.found = found
        self.length = length
        self.cut = _cut_in_place(dag, found)
        self.greatest = dag.stage(found.greatest.tensor)

    def dag(self) -> ComputeDAG:
        """Parts take the place of what they are parts of; sums of parts follow all of them."""
        stages = [self._with_chunks(stage) for stage in self.before.stages]
        sums = [self._sum(stage) for stage in self.before.stages if self._is_summed(stage)]
        stages += [sums[0], self._weight(), *sums[1:]]
        return replace(self.before, stages=_in_order(self.before, stages))

    def _is_summed(self, stage: Stage) -> bool:
        return stage.name == self.greatest.name or stage.name in self.found.sums

    def _with_chunks(self, stage: Stage) -> Stage:
        if stage.name in self.cut:
            new = self._cut(stage, self.cut[stage.name])
            name = f"{stage.name}.part" if stage.name == self.found.powers.name else stage.name
            return replace(new, name=name)
        if not self._is_summed(stage):
            return stage
        new = self._cut(stage, stage.reduce[0].name)
        outer, *others = sorted(new.axes, key=lambda a: a.name != _outer(stage.reduce[0].name))
        axes = (replace(outer, kind=SPATIAL), *others)
        return replace(new, name=f"{stage.name}.part", axes=axes)

    def _cut(self, stage: Stage, axis: str) -> Stage:
        """``stage`` with two axes in the place of one, and in what it reads of others like it."""
        position = Call("mul", (Axis(_outer(axis)), Const(self.length, INDEX_DTYPE)), INDEX_DTYPE)
        whole = Call("add", (position, Axis(axis)), INDEX_DTYPE)
        pair = (Axis(_outer(axis)), Axis(axis))

        def change(node: Expr) -> Expr | None:
            if node == Axis(axis):
                return whole
            if not isinstance(node, Read):
                return None
            if stage is self.found.powers and node.tensor == self.greatest.name:
                part = Read(f"{node.tensor}.part", (Axis(_outer(axis)), *node.indices), node.dtype)
                # Where all of a chunk is minus infinity, its exponentials are zero.
                lowest = float(np.finfo(node.dtype).min)
                return Call("max", (part, Const(lowest, node.dtype)), node.dtype)
            if node.tensor not in self.cut:
                return None
            indices = (pair if index == whole else (index,) for index in node.indices)
            name = f"{node.tensor}.part" if node.tensor == self.found.powers.name else node.tensor
            return replace(node, tensor=name, indices=tuple(i for each in indices for i in each))

        axes: list[IterAxis] = []
        for each in stage.axes:
            outer = IterAxis(_outer(axis), each.extent // self.length, each.kind)
            halves = (outer, replace(each, extent=self.length))
            axes += halves if each.name == axis else (each,)
        return replace(stage, axes=tuple(axes), body=rebuild(stage.body, change))

    def _weight(self) -> Stage:
        """``exp(greatest of a chunk - greatest of all)``."""
        stage = self.greatest
        reduced = stage.reduce[0]
        outer = IterAxis(_outer(reduced.name), reduced.extent // self.length)
        indices = tuple(Axis(a.name) for a in stage.spatial)
        part = Read(f"{stage.name}.part", (Axis(outer.name), *indices), stage.dtype)
        whole = Read(stage.name, indices, stage.dtype)
        body = Call("exp", (Call("sub", (part, whole), stage.dtype),), stage.dtype)
        return Stage(f"{stage.name}.weight", (outer, *stage.spatial), body, stage.dtype)

    def _sum(self, stage: Stage) -> Stage:
        """The parts of ``stage`` together; all but the greatest value with their weights."""
        reduced = stage.reduce[0]
        outer = IterAxis(_outer(reduced.name), reduced.extent // self.length, REDUCE)
        indices = tuple(Axis(a.name) for a in stage.spatial)
        body: Expr = Read(f"{stage.name}.part", (Axis(outer.name), *indices), stage.dtype)
        if stage is not self.greatest:
            at = self._greatest_of(stage)
            weight = Read(f"{self.greatest.name}.weight", (Axis(outer.name), *at), stage.dtype)
            body = Call("mul", (weight, body), stage.dtype)
        return Stage(stage.name, (*stage.spatial, outer), body, stage.dtype, stage.combiner)

    def _greatest_of(self, stage: Stage) -> tuple[Expr, ...]:
        """Indices of the greatest value that the summands of ``stage`` are relative to."""
        powers = self.found.powers
        read = next(r for r in stage.reads() if r.tensor == powers.name)
        values = dict(zip((a.name for a in powers.spatial), read.indices, strict=True))

        def change(node: Expr) -> Expr | None:
            return values.get(node.name) if isinstance(node, Axis) else None

        return tuple(rebuild(index, change) for index in self.found.greatest.indices)


def _outer(axis: str) -> str:
    return f"{axis}.chunk"


def _cut_in_place(dag: ComputeDAG, found: Exponentials) -> dict[str, str]:
    """The stages of the exponentials and of what leads to them, with the axis that is cut."""
    greatest = dag.stage(found.greatest.tensor)
    cut = {greatest.name: greatest.reduce[0].name, found.powers.name: found.axis}
    for stage in reversed(dag.stages):
        readers = dag.consumers[stage.name]
        if stage.name in cut or stage.name in dag.outputs or not readers:
            continue
        if set(readers) <= cut.keys():
            axis = _read_at(dag, stage, cut)
            cut |= {stage.name: axis} if axis else {}
    del cut[greatest.name]
    return cut


def _read_at(dag: ComputeDAG, stage: Stage, cut: dict[str, str]) -> str:
    """The axis of ``stage`` that every reader reads at the axis cut there, and at no other."""
    axes: set[str] = set()
    for reader in dag.consumers[stage.name]:
        for read in dag.stage(reader).reads():
            if read.tensor == stage.name:
                places = zip(stage.spatial, read.indices, strict=True)
                at = [(a.name, index) for a, index in places if cut[reader] in axes_in(index)]
                axes |= {name if index == Axis(cut[reader]) else "" for name, index in at}
                axes |= {""} if len(at) != 1 else set()
    return axes.pop() if len(axes) == 1 else ""


def _in_order(dag: ComputeDAG, stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """``stages`` so that all come after what they read, otherwise in this order."""
    known = set(dag.input_by_name)
    waiting, ordered = list(stages), list[Stage]()
    while waiting:
        ready = next(s for s in waiting if {r.tensor for r in s.reads()} <= known)
        waiting.remove(ready)
        ordered.append(ready)
        known.add(ready.name)
    return tuple(ordered)
