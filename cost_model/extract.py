"""Features of followed programs, all candidates of a sketch at once.

Read ``features.py`` (the table) and ``statement.py`` (the arrays) first. Every function here
returns rows ``[features of its group, N]`` in the order of the table; nothing depends on the other
candidates of the batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_model.cycles import Register, cycle_rows, parallel_rows, register, register_rows
from cost_model.features import (
    ACCESS_FEATURES,
    ACCESSES,
    ANNOTATIONS,
    CURVE,
    FEATURES,
    LOGGED,
    MODES,
    OPERATION_CLASSES,
    POSITIONS,
)
from cost_model.statement import F32, Index, Statement, last, statement
from schedules.hardware import Hardware
from schedules.nest import ProgramNest, StageNest

TINY = np.float32(1e-6)


def features(nest: ProgramNest, hardware: Hardware) -> NDArray[np.float32]:
    """``[N, S, F]`` for the ``S`` statements of ``nest``; columns as in ``features.FEATURES``.

    Estimated quantities (cycles) rank programs; they are no predictions of time.
    """
    serial = _serial_depths(nest)
    described = [
        _Description(statement(stage, nest.n, hardware), depths)
        for stage, depths in zip(nest.stages, serial, strict=True)
    ]
    cycles = np.stack([d.cycles[-2:] for d in described])  # [S, 2, N]
    program = cycles.sum(axis=0)
    result = np.empty((nest.n, len(described), len(FEATURES)), dtype=np.float32)
    block = np.empty((len(FEATURES), nest.n), dtype=np.float32)
    for s, description in enumerate(described):
        description.fill(block, program, len(described))
        result[:, s] = block.T
    return result


class _Description:
    """The rows of one statement, and of them the estimated cycles, which the program sums."""

    def __init__(self, st: Statement, serial: list[int | None]) -> None:
        self.st = st
        self.register: Register = register(st)
        self.fit, self.traffic = _traffic(st)
        total = self.traffic.sum(axis=1)
        self.cycles: F32 = cycle_rows(st, self.register, total)
        self.rows = [
            _operation_rows(st),
            _loop_rows(st),
            _access_rows(st, serial, self.traffic, self.register.elements),
            _curve_rows(st),
            _allocation_rows(st),
            _chain_rows(st, self.register.redundancy),
            register_rows(st, self.register),
            parallel_rows(st),
            _cache_rows(st, total, self.fit),
            self.cycles,
        ]
        self.ratios = _fit_rows(st, total)

    def fill(self, block: F32, program: F32, statements: int) -> None:
        """Write all rows into ``block [F, N]``; ``program [2, N]``: cycles and ideal cycles."""
        estimate, ideal = self.cycles[-2:]
        logged = block[:LOGGED]
        np.concatenate(self.rows, axis=0, out=logged[:-3])
        logged[-3:-1] = program
        logged[-1] = statements
        ratios = block[LOGGED:]
        ratios[:-3] = self.ratios
        np.divide(ideal, estimate, out=ratios[-3])
        np.divide(program[1], program[0], out=ratios[-2])
        np.divide(estimate, program[0], out=ratios[-1])
        logged += 1
        np.log2(logged, out=logged)
        np.log2(np.maximum(ratios, TINY, out=ratios), out=ratios)


def _serial_depths(nest: ProgramNest) -> list[list[int | None]]:
    """Per statement and access: how many loops it shares with the nearest other statement that
    touches the tensor, or ``None`` when no other does."""
    chains = [[(x.stage, x.axis, x.level) for x in stage.loops] for stage in nest.stages]
    touched = [{a.tensor for a in stage.accesses} for stage in nest.stages]
    result: list[list[int | None]] = []
    for s, stage in enumerate(nest.stages):
        row: list[int | None] = []
        for access in stage.accesses:
            others = [o for o in range(len(chains)) if o != s and access.tensor in touched[o]]
            row.append(max((_shared(chains[s], chains[o]) for o in others), default=None))
        result.append(row)
    return result


def _shared(a: list[tuple[str, str, int]], b: list[tuple[str, str, int]]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[count] == b[count]:
        count += 1
    return count


def _operation_rows(st: Statement) -> F32:
    counts = st.nest.operations
    typed = [float(counts.get(op, 0)) for op in OPERATION_CLASSES]
    zero = [0.0] * len(typed)
    both = [*typed, *zero] if st.nest.is_float else [*zero, *typed]
    both += [float(counts.get("logic", 0)), float(counts.get("select", 0))]
    return np.array(both, dtype=np.float32)[:, None] * st.iterations


def _loop_rows(st: Statement) -> F32:
    positions = _positions(st.nest)
    rows = np.zeros((len(ANNOTATIONS), 3 + len(POSITIONS), st.n), dtype=np.float32)
    for i, annotation in enumerate(ANNOTATIONS):
        found = [d for d, loop in enumerate(st.nest.loops) if loop.annotation == annotation]
        if found:
            rows[i, 0] = st.long[found].sum(axis=0, dtype=np.uint8)
            rows[i, 1] = st.extents[found].prod(axis=0)
            rows[i, 2] = st.extents[found[-1]]
        kinds = {positions[d] for d in found}
        name = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "none"
        present = rows[i, 1] > 1
        rows[i, 3 + POSITIONS.index(name)] = present
        rows[i, 3] += ~present
    return rows.reshape(-1, st.n)


def _positions(nest: StageNest) -> list[str]:
    """Where every loop stands among the loops of its kind: ``inner_spatial``..."""
    result = []
    for d, loop in enumerate(nest.loops):
        same = [i for i, other in enumerate(nest.loops) if other.kind == loop.kind]
        place = "inner" if d == same[-1] else "outer" if d == same[0] else "middle"
        result.append(f"{place}_{loop.kind}")
    return result


def _traffic(st: Statement) -> tuple[Index, F32]:
    """Depth at which the footprint fits each cache, ``[3, N]``, and bytes into it, ``[3, A, N]``.

    A tensor that the next loop outwards leaves unchanged stays in the cache across that loop.
    """
    hw = st.hardware
    sizes = np.array([hw.l1_bytes, hw.l2_bytes, hw.l3_bytes / hw.threads], dtype=np.float32)
    above = st.footprint[None] > sizes[:, None, None]
    depth = above.view(np.uint8).sum(axis=1, dtype=np.uint8).astype(np.int64)
    fit: Index = np.minimum(depth, st.depth)
    inside, outside = fit[:, None], np.maximum(fit - 1, 0)[:, None]
    kept = st.at_each(st.touched, inside) == st.at_each(st.touched, outside)
    place = np.where(kept, outside, inside)  # [3, A, N]
    lines = st.at_each(st.lines, place)
    executions = st.outer.reshape(-1).take(place * st.n + np.arange(st.n))
    weight = [[1.0 if a.mode == "read" else 2.0] for a in st.nest.accesses]
    scale = np.array(weight, dtype=np.float32) * np.float32(hw.cache_line_bytes)
    return fit, lines * executions * scale


def _access_rows(
    st: Statement, serial: list[int | None], traffic: F32, register_elements: F32
) -> F32:
    """The best-ranked accesses, ``[ACCESSES * features, N]``; missing ones are zero."""
    width = len(ACCESS_FEATURES)
    count = len(st.nest.accesses)
    block = np.empty((count, width, st.n), dtype=np.float32)
    for a, access in enumerate(st.nest.accesses):
        for m, mode in enumerate(MODES):
            block[a, m] = access.mode == mode
    moving = _fill_reuse(st, serial, block)
    block[:, 17] = _stride(st, moving)
    line_elements = np.float32(st.hardware.cache_line_bytes) / st.element_bytes
    block[:, 3] = st.iterations * st.element_bytes
    block[:, 4] = np.minimum(st.touched[:, 0] * st.element_bytes, block[:, 3])
    block[:, 5] = st.iterations * np.clip(block[:, 17] / line_elements, TINY, 1)
    block[:, 6] = st.lines[:, 0]
    np.divide(block[:, 3:7], block[:, 12:13], out=block[:, 13:17])
    step = st.vector_stride
    wide = st.vector > 1
    block[:, 18] = (step == 1) & wide
    block[:, 19] = (step == 0) & wide
    block[:, 20] = (step > 1) & wide
    block[:, 21] = step
    block[:, 22] = register_elements
    block[:, 23:26] = traffic.transpose(1, 0, 2)
    return _ranked(st, block)


def _fill_reuse(st: Statement, serial: list[int | None], block: F32) -> Index:
    """Columns 7-12 of ``block``; returns the depth of the innermost loop that moves each access."""
    changed = st.touched[:, :-1] != st.touched[:, 1:]
    still = last(~changed & st.long, axis=1)
    loop = still > 0
    shared = np.array([[s if s is not None else 0] for s in serial])
    has_other = np.array([[s is not None] for s in serial])
    depth = np.where(loop, still, shared)
    index = depth * st.n + np.arange(st.n)
    block[:, 7] = loop
    block[:, 8] = ~loop & has_other
    block[:, 9] = ~loop & ~has_other
    used = block[:, 7] + block[:, 8]
    block[:, 10] = st.inner.reshape(-1).take(index) * used
    block[:, 11] = st.footprint.reshape(-1).take(index) * used
    before = np.maximum(depth - 1, 0) * st.n + np.arange(st.n)
    extent = st.outer.reshape(-1).take(index) / st.outer.reshape(-1).take(before)
    block[:, 12] = np.where(loop, extent, np.where(has_other, np.float32(1), np.float32(0.5)))
    return last(changed, axis=1)


def _stride(st: Statement, moving: Index) -> F32:
    """Stride in the innermost loop that moves each access, ``[A, N]``; 0 when none does."""
    result = np.zeros((len(st.nest.accesses), st.n), dtype=np.float32)
    if st.depth:
        base = np.arange(st.n) * st.depth
        for a, access in enumerate(st.nest.accesses):
            place = np.maximum(moving[a] - 1, 0)
            result[a] = access.stride.reshape(-1).take(base + place)
    return np.abs(result, out=result) * (moving > 0)


def _ranked(st: Statement, block: F32) -> F32:
    """``block [A, W, N]`` with accesses in order of lines, then bytes, cut to ``ACCESSES``."""
    width, n = block.shape[1:]
    by_bytes = np.argsort([-a.element_bytes for a in st.nest.accesses], kind="stable")
    order = by_bytes[np.argsort(-block[by_bytes, 5], axis=0, kind="stable")][:ACCESSES]
    kept = len(order)
    result = np.zeros((ACCESSES, width, n), dtype=np.float32)
    if (order == order[:, :1]).all():
        result[:kept] = block[order[:, 0]]
    else:
        within = np.arange(width * n).reshape(width, n)
        np.take(block.reshape(-1), order[:, None] * (width * n) + within, out=result[:kept])
    return result.reshape(-1, n)


def _curve_rows(st: Statement) -> F32:
    """Intensity and footprint, interpolated on logarithmic scales."""
    position = np.log2(st.inner)  # [D + 1, N], falls with depth
    value = np.log2(st.footprint)
    at = np.linspace(0, 1, CURVE, dtype=np.float32)[:, None] * position[0]
    above = position[None] > (at + TINY * 100)[:, None]
    low = above.view(np.uint8).sum(axis=1, dtype=np.uint8).astype(np.int64)
    index = np.minimum(low, st.depth) * st.n + np.arange(st.n)
    before = np.maximum(index - st.n, np.arange(st.n))
    x0, x1 = position.reshape(-1).take(index), position.reshape(-1).take(before)
    y0, y1 = value.reshape(-1).take(index), value.reshape(-1).take(before)
    share = (at - x0) / np.maximum(x1 - x0, TINY)
    footprint = y0 + np.clip(share, 0, 1) * (y1 - y0)
    operations = np.float32(np.log2(max(1, sum(st.nest.operations.values()))))
    result: F32 = np.exp2(np.concatenate([operations + at - footprint, footprint]))
    return result


def _allocation_rows(st: Statement) -> F32:
    place = min(st.nest.allocated_at, st.depth)
    size = st.nest.allocated_bytes.astype(np.float32)
    outer, inner = st.outer[place], st.inner[place]
    return np.stack([size, size * outer, outer, inner])


def _chain_rows(st: Statement, redundancy: F32) -> F32:
    loops = st.long.sum(axis=0, dtype=np.uint8)
    return np.stack([st.iterations, loops, 16 * redundancy])


def _cache_rows(st: Statement, traffic: F32, fit: Index) -> F32:
    """``traffic [3, N]``, ``fit [3, N]``: bytes and iterations, cache by cache."""
    inside = st.inner.reshape(-1).take(fit * st.n + np.arange(st.n))
    return np.stack([traffic, inside], axis=1).reshape(-1, st.n)


def _fit_rows(st: Statement, traffic: F32) -> F32:
    """Footprints over cache sizes, and traffic per operation."""
    hw = st.hardware
    sizes = np.array([hw.l1_bytes, hw.l2_bytes, hw.l3_bytes], dtype=np.float32)
    points = np.stack([st.at(st.footprint, st.chain), st.footprint[st.task], st.footprint[0]])
    shares = (points[:, None] / sizes[:, None]).reshape(-1, st.n)
    operations = np.float32(max(1, sum(st.nest.operations.values())))
    return np.concatenate([shares, traffic / (operations * st.iterations)])
