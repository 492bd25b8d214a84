"""A compute DAG as an unscheduled TensorIR function: the meaning every schedule must keep.

One block per stage, in the order of the DAG. ``from_tir`` reads it back to an equal DAG. Separate
from ``lower`` because nothing here follows a schedule, and functions call libm as the reference.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import tvm
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from schedules.dag import REDUCE, ComputeDAG, Stage
from schedules.expr import INDEX_DTYPE, Read, walk
from schedules.lower.combine import COMBINE, IDENTITY
from schedules.lower.emit_expr import LIBM, emit

Tir: TypeAlias = Any
Buffers: TypeAlias = dict[str, Tir]


def to_tir(dag: ComputeDAG) -> tirx.PrimFunc:
    """The function of ``dag``, called ``main``: parameters are its inputs, then its outputs."""
    buffers = {t.name: _buffer(t.shape, t.dtype, t.name) for t in dag.inputs}
    for stage in dag.stages:
        buffers[stage.name] = _buffer(stage.shape, stage.dtype, stage.name)
    nests = [_nest(stage, buffers) for stage in dag.stages]
    local = [buffers[s.name] for s in dag.stages if s.name not in dag.outputs]
    body = nests[0] if len(nests) == 1 else tirx.SeqStmt(nests)
    root = SBlock([], [], [], "root", body, alloc_buffers=local)
    params = [buffers[name] for name in (*(t.name for t in dag.inputs), *dag.outputs)]
    func = tirx.PrimFunc(params, SBlockRealize([], True, root))
    return func.with_attr({"global_symbol": "main", "tirx.noalias": True, "s_tir": True})


def _buffer(shape: tuple[int, ...], dtype: str, name: str) -> Tir:
    extents = [_int(extent) for extent in shape]
    return tirx.decl_buffer(extents, dtype, name, layout=None)


def _nest(stage: Stage, buffers: Buffers) -> Tir:
    """All loops of ``stage`` around its block."""
    iters = [_iter_var(axis.name, axis.extent, axis.kind == REDUCE) for axis in stage.axes]
    loops = [tirx.Var(axis.name, INDEX_DTYPE) for axis in stage.axes]
    nest: Tir = SBlockRealize(loops, True, _block(stage, iters, buffers))
    for axis, loop in zip(reversed(stage.axes), reversed(loops), strict=True):
        nest = tirx.For(loop, _int(0), _int(axis.extent), tirx.ForKind.SERIAL, nest)
    return nest


def _block(stage: Stage, iters: list[Tir], buffers: Buffers) -> Tir:
    value_of = {a.name: i.var for a, i in zip(stage.axes, iters, strict=True)}
    own = buffers[stage.name]
    element = [value_of[a.name] for a in stage.spatial]

    def index(read: Read) -> list[Tir]:
        return [emit(i, value_of.__getitem__, load, LIBM) for i in read.indices]

    def load(read: Read) -> Tir:
        return tirx.BufferLoad(buffers[read.tensor], index(read))

    def region(read: Read) -> Tir:
        buffer = buffers[read.tensor]
        starts = zip(read.indices, index(read), buffer.shape, strict=True)
        return tirx.BufferRegion(
            buffer, [_whole(n) if _has_read(i) else _point(start) for i, start, n in starts]
        )

    value = emit(stage.body, value_of.__getitem__, load, LIBM)
    if str(value.ty.dtype) != stage.dtype:
        value = value.astype(stage.dtype)
    init = None
    if stage.combiner is not None:
        init = tirx.BufferStore(own, IDENTITY[stage.combiner](stage.dtype), element)
        value = COMBINE[stage.combiner](tirx.BufferLoad(own, element), value)
    reads = [region(read) for read in dict.fromkeys(stage.reads())]
    writes = [tirx.BufferRegion(own, [_point(i) for i in element])]
    store = tirx.BufferStore(own, value, element)
    return SBlock(iters, reads, writes, stage.name, store, init)


def _iter_var(name: str, extent: int, reduces: bool) -> Tir:
    kind = tirx.IterVar.CommReduce if reduces else tirx.IterVar.DataPar
    return tirx.IterVar(_whole(extent), tirx.Var(f"v_{name}", INDEX_DTYPE), kind)


def _whole(extent: int) -> Tir:
    return tvm.ir.Range.from_min_extent(_int(0), _int(int(extent)))


def _point(index: Tir) -> Tir:
    return tvm.ir.Range.from_min_extent(index, _int(1))


def _has_read(expr: Any) -> bool:
    return any(isinstance(node, Read) for node in walk(expr))


def _int(value: int) -> Tir:
    return tirx.const(value, INDEX_DTYPE)
