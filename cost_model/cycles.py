"""What a statement costs a CPU core: register tiles, threads, and a roofline-like estimate.

``extract.py`` puts these rows into the feature table; ``baseline.AnalyticModel`` ranks programs by
them alone, before anything has been measured. Separate because every machine constant of the cost
model is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.statement import F32, Statement

# Cycles of one vector instruction by operation class: between CPUs with one full-width arithmetic
# port and those with two. Fitted, like all constants here, to the order of some 500 measured
# programs of five kinds; bandwidths are what prefetching leaves visible, not those of a data sheet.
FLOAT_CYCLES = {
    "mad": 0.75,
    "addsub": 0.75,
    "mul": 0.75,
    "divmod": 8.0,
    "compare": 0.75,
    "math": 12.0,
    "other": 1.0,
    "logic": 0.75,
    "select": 0.75,
}
INT_CYCLES = FLOAT_CYCLES | {"mad": 1.0, "mul": 1.0, "divmod": 40.0}
PORTS = 1.5
LOADS_PER_CYCLE = 2.0
SPILL_CYCLES = 8.0
VECTOR_PRESSURE = 0.3  # of a shared vector, which an instruction can also read from L1
STORE_CYCLES = 1.5
TILE_CYCLES = 0.5
LAUNCH_CYCLES = 5000.0
BYTES_PER_CYCLE = (128.0, 64.0, 16.0)  # one core, from L2, from L3, from memory
MEMORY_THREADS = 4.0  # threads that saturate the memory bus
OVERLAP = 0.8  # share of the smaller costs that hides behind the largest


@dataclass(frozen=True)
class Register:
    """The register tile of a statement: ``[N]`` each, ``elements [A, N]``.

    ``packing``: registers per element along the vector loop, ``ceil(V / lanes) / V``.
    """

    elements: F32
    packing: F32
    lanes: int
    tile_iterations: F32
    tile_executions: F32
    accumulators: F32
    loads_vector: F32
    loads_broadcast: F32
    loads_gather: F32
    spilled: F32
    reduction: F32
    shared: F32
    shared_vectors: F32
    pressure: F32
    chain: F32
    chain_executions: F32
    latency: F32
    redundancy: F32


def register(st: Statement) -> Register:
    """The register tile of ``st``; the first access that is no read is the result."""
    modes = [a.mode for a in st.nest.accesses]
    written = next(a for a, mode in enumerate(modes) if mode != "read")
    updates = modes[written] == "update"
    lanes = st.hardware.lanes(st.nest.accesses[written].element_bytes)
    elements = st.at_each(st.touched, st.tile)
    packing = np.ceil(st.vector / np.float32(lanes)) / st.vector
    step = st.vector_stride
    wide = st.vector > 1
    reads = np.array([[mode == "read"] for mode in modes])
    contiguous, strided = (step == 1) & wide, (step > 1) & wide
    accumulators = elements[written] * np.where(contiguous[written], packing, np.float32(1))
    tile_iterations, executions = st.at(st.inner, st.tile), st.at(st.outer, st.tile)
    chain_executions = st.at(st.outer, st.chain)
    chain = executions / chain_executions
    reduction, again = _shared(st, elements)
    shared = (elements * (again & reads & ~contiguous)).sum(axis=0)
    shared_vectors = (elements * (again & reads & contiguous)).sum(axis=0) * packing
    pressure = accumulators + shared + np.float32(VECTOR_PRESSURE) * shared_vectors
    need = pressure + 2 - np.float32(st.hardware.vector_registers)
    busy = np.float32(PORTS * st.hardware.fma_latency) / accumulators
    long = updates & (chain > 1)
    reduces = updates & (chain * reduction > 1)
    return Register(
        elements=elements,
        packing=packing,
        lanes=lanes,
        tile_iterations=tile_iterations,
        tile_executions=executions,
        accumulators=accumulators,
        loads_vector=(elements * (contiguous & reads)).sum(axis=0) * packing,
        loads_broadcast=(elements * (~(contiguous | strided) & reads)).sum(axis=0),
        loads_gather=(elements * strided).sum(axis=0),
        spilled=np.where(reduces, np.maximum(need, 0), np.float32(0)),
        reduction=reduction,
        shared=shared,
        shared_vectors=shared_vectors,
        pressure=pressure,
        chain=chain,
        chain_executions=chain_executions,
        latency=np.where(long, np.maximum(busy, 1), np.float32(1)),
        redundancy=_redundancy(st, written),
    )


def _shared(st: Statement, elements: F32) -> tuple[F32, NDArray[np.bool_]]:
    """Reduction steps in a tile, and which accesses ``[A, N]`` meet an element in several steps.

    LLVM keeps such elements in registers across the unrolled steps and spills when they are too
    many: then a tile is several times slower.
    """
    steps = st.at(st.inner, st.tile) / st.at(st.inner, st.step)
    separate = st.at_each(st.touched, st.step) * steps
    return steps, (separate > elements) & (elements > 1)


def _redundancy(st: Statement, written: int) -> F32:
    reduced = np.ones(st.n, dtype=np.float32)
    for d, loop in enumerate(st.nest.loops):
        if loop.kind == "reduce" and loop.stage == st.nest.stage:
            reduced = reduced * st.extents[d]
    result: F32 = st.iterations / (st.touched[written, 0] * reduced)
    return result


def register_rows(st: Statement, tile: Register, out: F32) -> None:
    """Group ``register`` of the table."""
    registers = np.float32(st.hardware.vector_registers)
    operations = sum(st.nest.operations.values()) * tile.tile_iterations * tile.packing
    loads = tile.loads_vector + tile.loads_broadcast + tile.loads_gather
    out[0] = tile.tile_iterations
    out[1] = tile.tile_executions
    out[2] = tile.accumulators
    out[3] = 16 * tile.accumulators / registers
    out[4] = tile.loads_vector
    out[5] = tile.loads_broadcast
    out[6] = tile.loads_gather
    out[7] = tile.spilled
    out[8] = 16 * operations / np.maximum(loads, 1)
    out[9] = tile.reduction
    out[10] = tile.shared
    out[11] = tile.shared_vectors
    out[12] = 16 * tile.pressure / registers
    out[13] = tile.chain
    out[14] = 16 * tile.latency
    out[15] = st.vector
    out[16] = 16 * st.vector / tile.lanes
    out[17] = 16 * (1 - 1 / (tile.packing * tile.lanes))
    out[18] = operations


def parallel_rows(st: Statement, out: F32) -> None:
    """Group ``parallel`` of the table."""
    threads = np.float32(st.hardware.threads)
    tasks = _tasks(st)
    out[0] = tasks
    out[1] = 16 * tasks / threads
    out[2] = 16 * np.ceil(tasks / threads) * threads / tasks
    out[3] = _launches(st)
    out[4] = st.iterations / tasks
    np.minimum(tasks, threads, out=out[5])


def _tasks(st: Statement) -> F32:
    return st.product(st.annotated("parallel"))


def _launches(st: Statement) -> F32 | float:
    found = st.annotated("parallel")
    return st.outer[found[0]] if found else 0.0


def cycle_rows(st: Statement, tile: Register, traffic: F32, out: F32) -> None:
    """Group ``cycles`` of the table; ``traffic [3, N]``: bytes into L1, L2 and L3."""
    costs = FLOAT_CYCLES if st.nest.is_float else INT_CYCLES
    each = _arithmetic(st.nest.operations, costs)
    threads = np.float32(st.hardware.threads)
    tasks = _tasks(st)
    share = np.ceil(tasks / threads) / tasks  # of all work, done by the busiest thread
    out[0] = each * st.iterations * tile.packing * tile.latency * share
    out[1] = _load_cycles(st, tile) * share
    out[2] = TILE_CYCLES * tile.tile_executions * share + LAUNCH_CYCLES * _launches(st)
    np.divide(traffic, np.array(BYTES_PER_CYCLE, dtype=np.float32)[:, None], out=out[3:6])
    out[3:5] *= share
    out[5] *= np.maximum(share, np.float32(1 / MEMORY_THREADS))
    largest = out[:6].max(axis=0)
    out[6] = largest + np.float32(1 - OVERLAP) * (out[:6].sum(axis=0) - largest)
    out[7] = _ideal(st, tile, each)


def _arithmetic(operations: Mapping[str, int], costs: Mapping[str, float]) -> np.float32:
    """Cycles of one iteration; adders work beside multipliers."""
    cycles = {op: costs[op] * count for op, count in operations.items()}
    hidden = min(cycles.get("addsub", 0.0), cycles.get("mad", 0.0) + cycles.get("mul", 0.0))
    total: np.float32 = np.float32(sum(cycles.values()) - hidden)
    return total


def _load_cycles(st: Statement, tile: Register) -> F32:
    loads = tile.loads_vector + tile.loads_broadcast + 2 * tile.loads_gather
    per_tile = loads / np.float32(LOADS_PER_CYCLE) + np.float32(SPILL_CYCLES) * tile.spilled
    stores = np.float32(STORE_CYCLES) * tile.accumulators
    result: F32 = per_tile * tile.tile_executions + stores * tile.chain_executions
    return result


def _ideal(st: Statement, tile: Register, each: np.float32) -> F32:
    threads = np.float32(st.hardware.threads)
    arithmetic = each * st.iterations / (tile.redundancy * np.float32(tile.lanes) * threads)
    speed = np.float32(BYTES_PER_CYCLE[2] * min(st.hardware.threads, MEMORY_THREADS))
    result: F32 = np.maximum(arithmetic, st.footprint[0] / speed)
    return result
