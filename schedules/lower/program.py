"""Writes the TensorIR function of one candidate: loops, initialisation, statements, buffers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.s_tir.stmt import SBlock, SBlockRealize

from schedules.common_factors import cancelling_maxima
from schedules.dag import REDUCE, ComputeDAG
from schedules.errors import ScheduleError
from schedules.expr import Read
from schedules.hardware import Hardware
from schedules.lower.combine import IDENTITY, combined
from schedules.lower.cpu import LOOP_KINDS
from schedules.lower.emit_expr import emit
from schedules.lower.in_place import stored_in_place
from schedules.lower.linear import Linear, Positions
from schedules.lower.output_places import joined
from schedules.lower.packing import Packing, constant_packing, unpacked_constant
from schedules.lower.prefetch import fetch_ahead
from schedules.lower.skewed_rows import Writer, skewed
from schedules.lower.uniform import FIRST_LANE, vector_loop
from schedules.lower.versions import Group, Version, VersionedBody, versioned_body, within
from schedules.nest import Follower, pack_annotation
from schedules.plan import Access, Loop, StagePlan
from schedules.rewrites import constant_programs
from schedules.sketch import closed
from schedules.skewed_rows import SKEW, skewed_rows
from schedules.steps import Pack, Step

# Limited loops end at multiples of this; all usual factors of unrolled reductions divide it.
LIMIT_STEP = 48


@dataclass(frozen=True)
class Lowered:
    """A scheduled function and how its constant operands are stored.

    Parameters of ``func`` are the inputs of the DAG in order (those in ``packs`` with their
    packed shape), then the outputs.
    """

    func: tirx.PrimFunc
    packs: dict[str, Packing]


def lower(dag: ComputeDAG, steps: tuple[Step, ...], hardware: Hardware) -> Lowered:
    """TensorIR of the closed ``steps`` over ``dag``; no steps give the plain nests.

    Raises :class:`schedules.errors.ScheduleError` when a step is illegal.
    """
    sketch = closed(dag, steps)
    follower = Follower(sketch, np.zeros((1, 0), dtype=np.int32))
    program = _Program(follower, dag, hardware)
    return program.lowered(constant_programs(dag, sketch.steps))


def identifier(name: str) -> str:
    """``name`` as it may stand in generated code."""
    return re.sub(r"\W", "_", name)


class _Program:
    def __init__(self, follower: Follower, dag: ComputeDAG, hardware: Hardware) -> None:
        self.follower = follower
        self.hardware = hardware
        self.plan = follower.plan
        self.positions = Positions(follower)
        self.maxima = cancelling_maxima(self.plan.dag)
        self.outputs = {name: dag.shape_of(name) for name in dag.outputs}
        self.in_place = stored_in_place(self.plan, self.positions, self.outputs, hardware)
        self.values: dict[Loop, Any] = {}
        self.bodies: dict[str, VersionedBody] = {}
        self.versions: dict[Group, Version] = {}
        self.packs: dict[str, Packing] = {}
        self.packed: dict[tuple[str, str], tuple[Any, list[Loop | None]]] = {}
        self.allocated: list[Any] = []
        self.buffers: dict[str, Any] = {}
        self._declare()

    # -- buffers --------------------------------------------------------------------------------

    def _declare(self) -> None:
        for stage in self.plan.stages:
            for pack in stage.packs:
                self._declare_pack(stage, pack)
        for tensor in self.plan.dag.inputs:
            packing = self.packs.get(tensor.name)
            shape = tensor.shape if packing is None else packing.shape
            self.buffers[tensor.name] = _buffer(shape, tensor.dtype, tensor.name, anywhere=True)
        for stage in self.plan.stages:
            stored = tuple(int(s[0]) for s in self.follower.stored_shape(stage.name))
            shape = self.outputs.get(stage.name, stored)
            buffer = _buffer(shape, stage.stage.dtype, stage.name, stage.scope)
            self.buffers[stage.name] = buffer
            if stage.name not in self.outputs and stage.name not in self.in_place:
                self.allocated.append(buffer)
        self.buffers |= {name: self.buffers[output] for name, output in self.in_place.items()}

    def _declare_pack(self, stage: StagePlan, pack: Pack) -> None:
        loops = [stage.chain[d] for d in self.follower.pack_loops(stage, pack)]
        if not self.follower.is_runtime_pack(pack):
            accesses = _accesses_of(stage, pack.tensor)
            order = _with_reads(loops, len(accesses))
            self.packs[pack.tensor] = constant_packing(self.positions, stage, accesses, order)
            self.packed[stage.name, pack.tensor] = (None, order)
            return
        shape = tuple(self.positions.extent(x) for x in loops)
        dtype = self.plan.dag.dtype_of(pack.tensor)
        buffer = _buffer(shape, dtype, f"{pack.tensor}.pack")
        self.allocated.append(buffer)
        self.packed[stage.name, pack.tensor] = (buffer, [*loops])

    def lowered(self, programs: dict[str, ComputeDAG]) -> Lowered:
        statements = []
        for stage in self.plan.stages:
            if stage.attached is None:
                statements += self._root_packs(stage)
                statements.append(self._stage(stage))
        outputs = [self.buffers[name] for name in self.plan.dag.outputs]
        params = [*(self.buffers[t.name] for t in self.plan.dag.inputs), *outputs]
        root = SBlock([], [], [], "root", _sequence(statements), alloc_buffers=self.allocated)
        func = tirx.PrimFunc(params, SBlockRealize([], True, root))
        attributes = {"global_symbol": "main", "tirx.noalias": True, "s_tir": True}
        for name, program in programs.items():
            unpacked = unpacked_constant(self.plan.dag.shape_of(name))
            self.packs[name] = replace(self.packs.get(name, unpacked), program=program)
        return Lowered(func.with_attr(attributes), self.packs)

    # -- loops ----------------------------------------------------------------------------------

    def _stage(self, stage: StagePlan) -> tirx.Stmt:
        leading = list(stage.loops[: stage.parallel])
        body = self._parallel(leading, lambda: self._nest(stage, stage.parallel))
        if not self._overlaps(stage):
            return body
        # Shifted tiles compute some elements twice. StorageRewrite would let the result take the
        # place of an operand that is not needed later, which is right only for one write each; it
        # leaves alone what stands in an "extern_scope".
        return tirx.AttrStmt(tirx.const(0), "extern_scope", 1, body)

    def _overlaps(self, stage: StagePlan) -> bool:
        """Some element of an intermediate is computed twice from another intermediate."""
        if stage.stage.combiner is not None or stage.name in self.plan.dag.outputs:
            return False
        operands = (self.plan.by_name.get(a.tensor) for a in stage.accesses)
        if not any(o is not None and o.scope == stage.scope for o in operands):
            return False
        kept = stage.stored < stage.depth
        return kept or any(self.positions.is_ragged(loop) for loop in stage.loops)

    def _parallel(self, loops: list[Loop], body: Callable[[], tirx.Stmt]) -> tirx.Stmt:
        """``loops`` fused into one parallel loop; the thread pool refuses nested ones."""
        self.values |= dict.fromkeys(loops, 0)
        moving = [x for x in loops if self.positions.extent(x) > 1]
        if not moving:
            return body()
        total = stride = int(np.prod([self.positions.extent(x) for x in moving]))
        variable = tirx.Var("_".join(identifier(x.name) for x in moving), "int32")
        for loop in moving:
            extent = self.positions.extent(loop)
            stride //= extent
            value = variable if stride == 1 else tirx.floordiv(variable, stride)
            self.values[loop] = value if loop is moving[0] else tirx.floormod(value, extent)
        return tirx.For(variable, 0, total, LOOP_KINDS["parallel"], body())

    def _nest(self, stage: StagePlan, position: int) -> tirx.Stmt:
        """The statement from own loop ``position`` inwards, with what is computed there first."""
        before = self._computed_here(stage, position)
        first_reduce = _first_reduce(stage)
        if position == first_reduce:
            before.append(self._initialise(stage, position))
        before += self._fetched_ahead(stage, position)
        groups = [g for g in self._body(stage).groups if g.position == position]
        return _sequence([*before, self._versions(groups, lambda: self._inside(stage, position))])

    def _fetched_ahead(self, stage: StagePlan, position: int) -> list[tirx.Stmt]:
        """Hints for the packed constants, if the loop before ``position`` is to give them."""
        if not position or stage.annotations.get(stage.loops[position - 1].name) != "prefetch":
            return []
        statements: list[tirx.Stmt] = []
        for pack in stage.packs:
            copied, loops = self.packed[stage.name, pack.tensor]
            if copied is not None:
                continue
            inner = [x for x in loops if x in stage.loops[position:]]
            reads = len(_accesses_of(stage, pack.tensor))
            block = reads * prod(self.positions.extent(x) for x in inner if x is not None)
            place = [0 if x is None or x in inner else self.values[x] for x in loops]
            line = self.hardware.cache_line_bytes
            statements += fetch_ahead(self.buffers[pack.tensor], place, block, line)
        for access in stage.accesses if stage.loops[position - 1].kind != REDUCE else ():
            statements += self._next_block(stage, access, stage.loops[position:])
        return statements

    def _next_block(
        self, stage: StagePlan, access: Access, inner: tuple[Loop, ...]
    ) -> list[tirx.Stmt]:
        """Hints for what the next iteration of the loop around ``stage`` reads of an input."""
        source = self.plan.dag.input_by_name.get(access.tensor)
        if source is None or access.guarded or (stage.name, access.tensor) in self.packed:
            return []
        moved = self._moved(stage, access, source.shape)
        if not moved.get(stage.chain[stage.depth - 1]):
            return []
        moving = [x for x in inner if moved.get(x)]
        block = int(np.prod([self.positions.extent(x) for x in moving]))
        self.values |= dict.fromkeys(moving, 0)
        place, line = self._indices(stage, access), self.hardware.cache_line_bytes
        ahead = moved[stage.chain[stage.depth - 1]]
        return fetch_ahead(self.buffers[access.tensor], place, block, line, ahead)

    def _moved(self, stage: StagePlan, access: Access, shape: tuple[int, ...]) -> dict[Loop, int]:
        """Elements of memory that a read moves by with each loop; none if that is not affine."""
        moved = dict.fromkeys(stage.chain, 0)
        for d, index in enumerate(access.indices):
            if index is None:
                return {}
            for axis, coefficient in index.terms:
                steps = self.follower.influence[stage.name][axis][0]
                for loop, step in zip(stage.chain, steps, strict=True):
                    moved[loop] += coefficient * int(step) * prod(shape[d + 1 :])
        return moved

    def _inside(self, stage: StagePlan, position: int) -> tirx.Stmt:
        if position == len(stage.loops):
            return self._statement(stage)
        if stage.annotations.get(stage.loops[position].name) == SKEW:
            return self._skewed(stage, position)
        return self._loop(stage, position, lambda: self._nest(stage, position + 1))

    def _skewed(self, stage: StagePlan, position: int) -> tirx.Stmt:
        rows = skewed_rows(self.follower, stage, position)
        writer = Writer(self.values, self._stage, self._initialise, self._nest)
        return _sequence(skewed(writer, rows, stage.loops[position], self.positions))

    def _versions(self, groups: list[Group], build: Callable[[], tirx.Stmt]) -> tirx.Stmt:
        """What ``build`` makes, once for every version of the groups, each behind its condition."""
        if not groups:
            return build()
        group, rest = groups[0], groups[1:]
        start, chosen = self._tir(group.start), None
        for version in reversed(group.versions):
            self.versions[group] = version
            body = self._versions(rest, build)
            bounds = within(group, version, start)
            if not bounds or (chosen is None and group.covered):
                chosen = body
            else:
                chosen = tirx.IfThenElse(tirx.all(*bounds), body, chosen)
        return tirx.Evaluate(0) if chosen is None else chosen

    def _loop(self, stage: StagePlan, position: int, body: Callable[[], tirx.Stmt]) -> tirx.Stmt:
        loop = stage.loops[position]
        kind = stage.annotations.get(loop.name, "serial")
        with self._bound(loop) as variable:
            return _for(variable, self._iterations(stage, loop), kind, body())

    def _iterations(self, stage: StagePlan, loop: Loop) -> Any:
        """The extent of a loop, or less where a mask ends it for the rows of this place."""
        extent = self.positions.extent(loop)
        limit = next((x for x in stage.limits if x.axis == loop.axis), None)
        if limit is None or loop.level > 0 or extent == 1:
            return extent
        row = [a.name for a in stage.stage.spatial].index(limit.row)
        rows = int(self.follower.regions[stage.name][row].extent[0, -1])
        start = self._tir(self.positions.region_start(stage, row))
        # Readers and writers must agree in spite of their different tiles.
        last = start + (rows - 1 + limit.beyond + LIMIT_STEP - 1)
        needed = tirx.floordiv(last, LIMIT_STEP) * LIMIT_STEP
        _, inner = self.positions.sizes(loop)
        if loop.kind == REDUCE and LIMIT_STEP % inner:
            raise ScheduleError(f"limit of {stage.name!r}: tiles of {inner} do not end together")
        return tirx.min(extent, tirx.floordiv(needed + (inner - 1), inner))

    @contextmanager
    def _bound(self, loop: Loop) -> Iterator[Any]:
        previous = self.values.get(loop)
        unit = self.positions.extent(loop) == 1
        variable = 0 if unit else tirx.Var(identifier(loop.name), "int32")
        self.values[loop] = variable
        yield variable
        if previous is not None:
            self.values[loop] = previous

    def _computed_here(self, stage: StagePlan, position: int) -> list[tirx.Stmt]:
        if position < max(stage.parallel, 1):
            return []
        statements: list[tirx.Stmt] = []
        names = self.plan.inside.get((stage.name, position), ())
        point = (stage.name, stage.loops[position - 1].name)
        users: dict[str, list[StagePlan]] = {name: [] for name in (*names, "")}
        for user in self.plan.stages:
            users[self._around(user, names)].append(user)
        for name, inside in users.items():
            statements += [self._pack(u, p) for u in inside for p in u.packs if p.at == point]
            if name:
                statements.append(self._stage(self.plan.by_name[name]))
        return statements

    def _around(self, stage: StagePlan, names: Collection[str]) -> str:
        """The stage among ``names`` that ``stage`` is, or is computed inside; else none."""
        name = stage.name
        while name not in names:
            attached = self.plan.by_name[name].attached
            if attached is None:
                return ""
            name = attached[0]
        return name

    def _initialise(self, stage: StagePlan, position: int) -> tirx.Stmt:
        inner = [p for p in range(position, len(stage.loops)) if stage.loops[p].kind != REDUCE]
        assert stage.stage.combiner is not None
        value = IDENTITY[stage.stage.combiner](stage.stage.dtype)

        def build(rest: list[int]) -> tirx.Stmt:
            if not rest:
                return tirx.BufferStore(self.buffers[stage.name], value, self._target(stage))
            return self._loop(stage, rest[0], lambda: build(rest[1:]))

        return build(inner)

    # -- statements -----------------------------------------------------------------------------

    def _statement(self, stage: StagePlan) -> tirx.Stmt:
        buffer, indices = self.buffers[stage.name], self._target(stage)
        body = self._body(stage)
        value = emit(
            body.body,
            axis=lambda name: self._axis(stage, name),
            read=lambda read: self._read(stage, read),
            inside=frozenset(a.read for a in stage.accesses if not a.guarded),
            maxima=self.maxima,
        )
        if stage.stage.combiner is not None:
            old = tirx.BufferLoad(buffer, indices)
            value = combined(stage.stage.combiner, old, value)
        store = tirx.BufferStore(buffer, value, indices)
        tests = [test >= 0 for group in body.groups for test in self._tests(group)]
        return tirx.IfThenElse(tirx.all(*tests), store, None) if tests else store

    def _body(self, stage: StagePlan) -> VersionedBody:
        if stage.name not in self.bodies:
            memory = self.outputs.get(stage.name)
            self.bodies[stage.name] = versioned_body(stage, self.positions, memory)
        return self.bodies[stage.name]

    def _tests(self, group: Group) -> list[Any]:
        """What must not be negative where the statement stands, in the version being written."""
        version = self.versions[group]
        start = self._tir(group.start) if version.start is None else version.start
        return [self._tir(test.inner) + test.sign * start for test in version.tests]

    def _axis(self, stage: StagePlan, name: str) -> Any:
        linear = self.positions.axis(stage, name.removeprefix(FIRST_LANE))
        if name.startswith(FIRST_LANE):
            lane = vector_loop(stage, self.positions)
            linear = Linear(tuple(t for t in linear.terms if t[0] != lane), linear.constant)
        return self._tir(linear)

    def _target(self, stage: StagePlan) -> list[Any]:
        places = [
            self._local(stage.name, d, self.positions.axis(stage, a.name))
            for d, a in enumerate(stage.stage.spatial)
        ]
        if stage.name in self.outputs:
            places = joined(places, stage.stage.shape, self.outputs[stage.name])
        return [self._tir(place) for place in places]

    def _local(self, tensor: str, dimension: int, index: Linear) -> Linear:
        """``index`` relative to where the stored region of ``tensor`` starts."""
        owner = self.plan.by_name.get(tensor)
        if owner is None or owner.attached is None or tensor in self.in_place:
            return index
        return index.plus(self.positions.stored_start(owner, dimension), -1)

    def _read(self, stage: StagePlan, read: Read) -> Any:
        packed = self.packed.get((stage.name, read.tensor))
        if packed is not None:
            buffer, loops = packed
            buffer = self.buffers[read.tensor] if buffer is None else buffer
            reads = [a.read for a in _accesses_of(stage, read.tensor)]
            number = reads.index(read)
            return tirx.BufferLoad(buffer, [number if x is None else self.values[x] for x in loops])
        access = next(a for a in stage.accesses if a.read == read)
        if read.tensor in self.packs:
            element = tuple(i.constant for i in access.indices if i is not None)
            place = self.packs[read.tensor].place(element)
            return tirx.BufferLoad(self.buffers[read.tensor], place)
        return tirx.BufferLoad(self.buffers[read.tensor], self._indices(stage, access))

    def _indices(self, stage: StagePlan, access: Access) -> list[Any]:
        result = []
        for d, index in enumerate(access.indices):
            if index is None:
                result.append(self._any_index(stage, access, d))
            else:
                linear = self.positions.index(stage, index)
                result.append(self._tir(self._local(access.tensor, d, linear)))
        return result

    def _any_index(self, stage: StagePlan, access: Access, dimension: int) -> Any:
        value = emit(
            access.read.indices[dimension],
            axis=lambda name: self._tir(self.positions.axis(stage, name)),
            read=lambda read: self._read(stage, read),
        )
        value = value if str(value.ty) == "int32" else tirx.Cast("int32", value)
        owner = self.plan.by_name.get(access.tensor)
        if owner is None or owner.attached is None or access.tensor in self.in_place:
            return value
        return value - self._tir(self.positions.stored_start(owner, dimension))

    def _tir(self, linear: Linear) -> Any:
        value = self.positions.evaluate(linear, self.values.__getitem__, tirx.min, tirx.max)
        return tirx.const(value, "int32") if isinstance(value, int) else value

    # -- packing at run time --------------------------------------------------------------------

    def _root_packs(self, root: StagePlan) -> list[tirx.Stmt]:
        return [
            self._pack(user, pack)
            for user in self.plan.stages
            for pack in user.packs
            if user.chain[0].stage == root.name
            and pack.at is None
            and self.follower.is_runtime_pack(pack)
        ]

    def _pack(self, stage: StagePlan, pack: Pack) -> tirx.Stmt:
        buffer, order = self.packed[stage.name, pack.tensor]
        loops = [loop for loop in order if loop is not None]
        (access,) = _accesses_of(stage, pack.tensor)
        depth = self.follower.pack_depth(stage, pack)
        chain = self.follower._loop_nests(stage)
        kinds = [
            pack_annotation(i, len(loops), depth, chain[stage.chain.index(loop)])
            for i, loop in enumerate(loops)
        ]

        def build(position: int) -> tirx.Stmt:
            if position == len(loops):
                value = tirx.BufferLoad(self.buffers[pack.tensor], self._indices(stage, access))
                return tirx.BufferStore(buffer, value, [self.values[x] for x in loops])
            loop = loops[position]
            with self._bound(loop) as variable:
                extent = self.positions.extent(loop)
                return _for(variable, extent, kinds[position], build(position + 1))

        leading = kinds.count("parallel")
        return self._parallel(loops[:leading], lambda: build(leading))


def _accesses_of(stage: StagePlan, tensor: str) -> list[Access]:
    return [a for a in stage.accesses if a.tensor == tensor]


def _with_reads(loops: list[Loop], reads: int) -> list[Loop | None]:
    """Where one step of a reduction reads several elements, they are next to each other."""
    inside = max((n for n, x in enumerate(loops, 1) if x.kind == REDUCE), default=0)
    return [*loops[:inside], *[None] * (reads > 1), *loops[inside:]]


def _first_reduce(stage: StagePlan) -> int:
    kinds = [loop.kind for loop in stage.loops]
    return kinds.index(REDUCE) if REDUCE in kinds else -1


def _for(variable: Any, extent: Any, kind: str, body: tirx.Stmt) -> tirx.Stmt:
    alone = isinstance(extent, int) and extent == 1
    return body if alone else tirx.For(variable, 0, extent, LOOP_KINDS[kind], body)


def _buffer(
    shape: tuple[int, ...], dtype: str, name: str, scope: str = "global", anywhere: bool = False
) -> Any:
    """``anywhere``: wherever its elements may start. What a caller brings is read in place, and
    vector loads that assume no alignment are as fast where there is one."""
    alignment = np.dtype(dtype).itemsize if anywhere else -1
    name = identifier(name)
    return tirx.decl_buffer(shape, dtype, name=name, scope=scope, data_alignment=alignment)


def _sequence(statements: list[tirx.Stmt]) -> tirx.Stmt:
    flat = [s for s in statements if s is not None]
    return flat[0] if len(flat) == 1 else tirx.SeqStmt(flat)


__all__ = ["Lowered", "lower", "tvm"]
