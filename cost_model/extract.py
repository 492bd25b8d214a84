"""Features of followed programs, all candidates of a sketch at once.

Read ``features.py`` (the table) and ``statement.py`` (the arrays) first. Every function here
returns rows ``[features of its group, N]`` in the order of the table; nothing depends on the other
candidates of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cost_model.cycles import cycle_rows, parallel_rows, register, register_rows
from cost_model.features import (
    ACCESS_FEATURES,
    ACCESSES,
    ANNOTATIONS,
    CURVE,
    FEATURES,
    GROUPS,
    MODES,
    OPERATION_CLASSES,
    POSITIONS,
)
from cost_model.statement import F32, Index, Statement, last, statement
from schedules.hardware import Hardware
from schedules.nest import ProgramNest, StageNest

# How many loops every access of a statement shares with another statement.
Serial: TypeAlias = list[int | None]
# Last columns of the table that other statements have a part in.
RELATED = 3
TINY = np.float32(1e-6)
NEAR = np.float32(1e-4)
CURVE_AT = np.linspace(0, 1, CURVE, dtype=np.float32)[:, None]


@dataclass(frozen=True, slots=True)
class Described:
    """The columns of a statement that need no other statement, in the scales of the table.

    ``block [F, N]``; ``cycles [2, N]``: its estimate and lower bound, not in logarithms.
    """

    block: F32
    cycles: F32


def features(nest: ProgramNest, hardware: Hardware) -> NDArray[np.float32]:
    """``[N, S, F]`` for the ``S`` statements of ``nest``; columns as in ``features.FEATURES``.

    Estimated quantities (cycles) rank programs; they are no predictions of time.
    """
    blocks, cycles = empty_table(len(nest.stages), nest.n)
    for s, (stage, serial) in enumerate(zip(nest.stages, serial_depths(nest), strict=True)):
        cycles[s] = describe_into(stage, hardware, serial, blocks[s])
    return related(blocks, cycles)


def empty_table(statements: int, n: int) -> tuple[F32, F32]:
    """To be filled: ``blocks [S, F, N]`` and ``cycles [S, 2, N]``."""
    blocks = np.empty((statements, len(FEATURES), n), dtype=np.float32)
    return blocks, np.empty((statements, 2, n), dtype=np.float32)


def describe(stage: StageNest, n: int, hardware: Hardware, serial: Serial) -> Described:
    """A statement of ``n`` candidates by itself; ``serial`` is its row of ``serial_depths``."""
    block = np.empty((len(FEATURES), n), dtype=np.float32)
    return Described(block, describe_into(stage, hardware, serial, block))


def describe_into(stage: StageNest, hardware: Hardware, serial: Serial, block: F32) -> F32:
    """Fill ``block [F, N]`` but for what :func:`related` does; returns the cycles ``[2, N]``."""
    _describe(statement(stage, block.shape[1], hardware), serial, block)
    cycles: F32 = block[GROUPS["cycles"]][-2:].copy()
    _to_log1(block[: GROUPS["program"].start])
    _to_log(block[GROUPS["fit"]][:-RELATED])
    return cycles


def _to_log1(rows: F32) -> None:
    rows += 1
    np.log2(rows, out=rows)


def _to_log(rows: F32) -> None:
    np.log2(np.maximum(rows, TINY, out=rows), out=rows)


def _describe(st: Statement, serial: Serial, block: F32) -> None:
    """Fill ``block [F, N]`` of one statement, all but what needs the other statements."""
    tile = register(st)
    fit, traffic = _traffic(st)
    total = traffic.sum(axis=1)
    _operation_rows(st, block[GROUPS["operations"]])
    _loop_rows(st, block[GROUPS["loops"]])
    _access_rows(st, serial, traffic, tile.elements, block[GROUPS["access"]])
    _curve_rows(st, block[GROUPS["curves"]])
    _allocation_rows(st, block[GROUPS["allocation"]])
    _chain_rows(st, tile.redundancy, block[GROUPS["chain"]])
    register_rows(st, tile, block[GROUPS["register"]])
    parallel_rows(st, block[GROUPS["parallel"]])
    _cache_rows(st, total, fit, block[GROUPS["cache"]])
    cycle_rows(st, tile, total, block[GROUPS["cycles"]])
    _fit_rows(st, total, block[GROUPS["fit"]])


def related(blocks: F32, cycles: F32) -> F32:
    """``blocks [S, F, N]`` as ``[N, S, F]``, with what compares a statement with its program."""
    total = cycles.sum(axis=0)
    program = blocks[:, GROUPS["program"]]
    program[:, :2] = total
    program[:, 2] = len(blocks)
    _to_log1(program)
    fit = blocks[:, GROUPS["fit"]][:, -RELATED:]
    np.divide(cycles[:, 1], cycles[:, 0], out=fit[:, 0])
    np.divide(total[1], total[0], out=fit[:, 1])
    np.divide(cycles[:, 0], total[0], out=fit[:, 2])
    _to_log(fit)
    return np.ascontiguousarray(blocks.transpose(2, 0, 1))


def serial_depths(nest: ProgramNest) -> list[Serial]:
    """Per statement and access: how many loops it shares with the nearest other statement that
    touches the tensor, or ``None`` when no other does. The same for all candidates of a sketch."""
    chains = [[(x.stage, x.axis, x.level) for x in stage.loops] for stage in nest.stages]
    touched = [{a.tensor for a in stage.accesses} for stage in nest.stages]
    result: list[Serial] = []
    for s, stage in enumerate(nest.stages):
        row: Serial = []
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


def _operation_rows(st: Statement, out: F32) -> None:
    counts = st.nest.operations
    typed = [float(counts.get(op, 0)) for op in OPERATION_CLASSES]
    zero = [0.0] * len(typed)
    both = [*typed, *zero] if st.nest.is_float else [*zero, *typed]
    both += [float(counts.get("logic", 0)), float(counts.get("select", 0))]
    np.multiply(np.array(both, dtype=np.float32)[:, None], st.iterations, out=out)


def _loop_rows(st: Statement, out: F32) -> None:
    positions = _positions(st.nest)
    out[:] = 0
    rows = out.reshape(len(ANNOTATIONS), 3 + len(POSITIONS), st.n)
    for annotation, row in zip(ANNOTATIONS, rows, strict=True):
        found = st.annotated(annotation)
        for d in found:
            row[0] += st.long[d]
        row[1] = st.product(found)
        row[2] = st.extents[found[-1]] if found else 0
        kinds = {positions[d] for d in found}
        name = kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "none"
        present = row[1] > 1
        row[3 + POSITIONS.index(name)] = present
        row[3] += ~present


def _positions(nest: StageNest) -> list[str]:
    """Where every loop stands among the loops of its kind: ``inner_spatial``..."""
    kinds = [loop.kind for loop in nest.loops]
    first = {kind: kinds.index(kind) for kind in kinds}
    last_of = {kind: d for d, kind in enumerate(kinds)}
    return [
        f"{'inner' if d == last_of[kind] else 'outer' if d == first[kind] else 'middle'}_{kind}"
        for d, kind in enumerate(kinds)
    ]


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
    executions = st.at(st.outer, place)
    weight = [[1.0 if a.mode == "read" else 2.0] for a in st.nest.accesses]
    scale = np.array(weight, dtype=np.float32) * np.float32(hw.cache_line_bytes)
    return fit, lines * executions * scale


def _access_rows(
    st: Statement, serial: Serial, traffic: F32, register_elements: F32, out: F32
) -> None:
    """The best-ranked accesses; missing ones are zero."""
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
    _rank(st, block, out.reshape(ACCESSES, width, st.n))


def _fill_reuse(st: Statement, serial: Serial, block: F32) -> Index:
    """Columns 7-12 of ``block``; returns the depth of the innermost loop that moves each access."""
    changed = st.touched[:, :-1] != st.touched[:, 1:]
    still = last(~changed & st.long, axis=1)
    loop = still > 0
    shared = np.array([[s if s is not None else 0] for s in serial])
    has_other = np.array([[s is not None] for s in serial])
    depth = np.where(loop, still, shared)
    block[:, 7] = loop
    block[:, 8] = ~loop & has_other
    block[:, 9] = ~loop & ~has_other
    used = block[:, 7] + block[:, 8]
    block[:, 10] = st.at(st.inner, depth) * used
    block[:, 11] = st.at(st.footprint, depth) * used
    extent = st.at(st.outer, depth) / st.at(st.outer, np.maximum(depth - 1, 0))
    block[:, 12] = np.where(loop, extent, np.where(has_other, np.float32(1), np.float32(0.5)))
    return last(changed, axis=1)


def _stride(st: Statement, moving: Index) -> F32:
    """Stride in the innermost loop that moves each access, ``[A, N]``; 0 when none does."""
    result = np.zeros((len(st.nest.accesses), st.n), dtype=np.float32)
    if st.depth:
        base = st.column * st.depth
        for a, access in enumerate(st.nest.accesses):
            place = np.maximum(moving[a] - 1, 0)
            result[a] = access.stride.reshape(-1).take(base + place)
    return np.abs(result, out=result) * (moving > 0)


def _rank(st: Statement, block: F32, out: F32) -> None:
    """``block [A, W, N]`` in order of lines, then bytes, into ``out [ACCESSES, W, N]``."""
    width, n = block.shape[1:]
    by_bytes = np.argsort([-a.element_bytes for a in st.nest.accesses], kind="stable")
    order = by_bytes[np.argsort(-block[by_bytes, 5], axis=0, kind="stable")][:ACCESSES]
    kept = len(order)
    out[kept:] = 0
    if (order == order[:, :1]).all():
        for rank, access in enumerate(order[:, 0]):
            out[rank] = block[access]
    else:
        within = np.arange(width * n).reshape(width, n)
        block.reshape(-1).take(order[:, None] * (width * n) + within, out=out[:kept], mode="clip")


def _curve_rows(st: Statement, out: F32) -> None:
    """Intensity and footprint, interpolated on logarithmic scales."""
    position = np.log2(st.inner)  # [D + 1, N], falls with depth
    value = np.log2(st.footprint)
    at = CURVE_AT * position[0]
    above = position[None] > (at + NEAR)[:, None]
    low = above.view(np.uint8).sum(axis=1, dtype=np.uint8).astype(np.int64)
    np.minimum(low, st.depth, out=low)
    before = np.maximum(low - 1, 0)
    x0, x1 = st.at(position, low), st.at(position, before)
    y0, y1 = st.at(value, low), st.at(value, before)
    share = (at - x0) / np.maximum(x1 - x0, TINY)
    footprint = out[CURVE:]
    np.add(y0, np.clip(share, 0, 1, out=share) * (y1 - y0), out=footprint)
    operations = np.float32(np.log2(max(1, sum(st.nest.operations.values()))))
    np.subtract(at + operations, footprint, out=out[:CURVE])
    np.exp2(out, out=out)


def _allocation_rows(st: Statement, out: F32) -> None:
    place = min(st.nest.allocated_at, st.depth)
    out[0] = st.nest.allocated_bytes
    out[2] = st.outer[place]
    out[3] = st.inner[place]
    np.multiply(out[0], out[2], out=out[1])


def _chain_rows(st: Statement, redundancy: F32, out: F32) -> None:
    out[0] = st.iterations
    out[1] = st.long.sum(axis=0, dtype=np.uint8)
    out[2] = 16 * redundancy


def _cache_rows(st: Statement, traffic: F32, fit: Index, out: F32) -> None:
    """``traffic [3, N]``, ``fit [3, N]``: bytes and iterations, cache by cache."""
    out[0::2] = traffic
    out[1::2] = st.at(st.inner, fit)


def _fit_rows(st: Statement, traffic: F32, out: F32) -> None:
    """Footprints over cache sizes, and traffic per operation."""
    hw = st.hardware
    sizes = np.array([[hw.l1_bytes], [hw.l2_bytes], [hw.l3_bytes]], dtype=np.float32)
    np.divide(st.at(st.footprint, st.chain), sizes, out=out[0:3])
    np.divide(st.footprint[st.task], sizes, out=out[3:6])
    np.divide(st.footprint[0], sizes, out=out[6:9])
    operations = np.float32(max(1, sum(st.nest.operations.values())))
    np.divide(traffic, operations * st.iterations, out=out[9:12])
