"""The feature table: name, scale and meaning of every column that the cost model sees.

Read ``extract.py`` next, which fills the columns in this order, all candidates at once. The table
is separate because it is the contract between extraction, saved models and saved datasets: a model
refuses features of another table (see ``digest``).

Superset of the 164 per-statement features of Ansor (Zheng et al., OSDI 2020, section 5.2 and
appendix B); the groups from ``register`` on are what decides speed on a CPU with caches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

ACCESSES = 5  # accesses described per statement, those with the most lines
CURVE = 10  # samples of a curve over the loop levels
CACHES = ("l1", "l2", "l3")

LOG1 = "log1"  # stored as log2(x + 1)
LOG = "log"  # a ratio, stored as log2(x)


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. ``scale`` is how the meaning's quantity is stored: :data:`LOG1` or :data:`LOG`.

    A flag (0 or 1) is unchanged by ``log1``.
    """

    group: str
    name: str
    meaning: str
    scale: str = LOG1


OPERATION_CLASSES = ("mad", "addsub", "mul", "divmod", "compare", "math", "other")
ANNOTATIONS = ("vectorize", "unroll", "parallel")
POSITIONS = (
    "none",
    "inner_spatial",
    "middle_spatial",
    "outer_spatial",
    "inner_reduce",
    "middle_reduce",
    "outer_reduce",
    "mixed",
)
MODES = ("read", "write", "update")
REUSES = ("loop", "serial", "none")

# Per access. "Distinct" is what the whole statement touches, "repeated" counts every execution.
ACCESS_FEATURES: tuple[tuple[str, str], ...] = (
    ("read", "the statement reads the tensor"),
    ("write", "the statement writes the tensor"),
    ("update", "the statement accumulates into the tensor"),
    ("bytes", "iterations x element bytes (repeated)"),
    ("unique_bytes", "distinct bytes"),
    ("lines", "cache lines asked for: iterations x min(1, innermost stride / elements of a line)"),
    ("unique_lines", "distinct cache lines"),
    ("reuse_loop", "some loop of extent > 1 leaves the accessed elements unchanged"),
    ("reuse_serial", "no such loop, but another statement of the program touches the tensor"),
    ("reuse_none", "neither"),
    ("reuse_distance_iterations", "iterations between two uses: one trip of the reusing loop"),
    ("reuse_distance_bytes", "bytes of all tensors touched between two uses"),
    ("reuse_count", "extent of the reusing loop; 1 for serial reuse, 0.5 for none (as Ansor)"),
    ("bytes_per_reuse", "bytes / reuse_count"),
    ("unique_bytes_per_reuse", "unique_bytes / reuse_count"),
    ("lines_per_reuse", "lines / reuse_count"),
    ("unique_lines_per_reuse", "unique_lines / reuse_count"),
    ("stride", "elements between iterations of the innermost loop that moves the access"),
    ("vector_contiguous", "consecutive lanes of the vector loop touch consecutive elements"),
    ("vector_broadcast", "all lanes of the vector loop touch one element"),
    ("vector_strided", "lanes are apart: a gather or a scatter"),
    ("vector_stride", "elements between two lanes"),
    ("register_elements", "elements touched by one execution of the register tile"),
    ("l1_traffic", "bytes brought into L1 (see group cache)"),
    ("l2_traffic", "bytes brought into L2"),
    ("l3_traffic", "bytes brought into L3"),
)

REGISTER_FEATURES: tuple[tuple[str, str], ...] = (
    (
        "tile_iterations",
        "iterations of the register tile: the innermost loops that are vectorised,"
        " unrolled or of extent 1",
    ),
    ("tile_executions", "executions of the register tile, in all threads"),
    ("accumulators", "vector registers for the written elements of a tile"),
    ("accumulator_share", "16 x accumulators / vector registers of the machine"),
    ("loads_vector", "vector loads per tile, all contiguous reads"),
    ("loads_broadcast", "scalars loaded and broadcast per tile"),
    ("loads_gather", "elements gathered or scattered per tile"),
    ("spilled", "accumulators and shared elements beyond the registers of the machine"),
    ("operations_per_load", "16 x vector operations of a tile / loads of a tile"),
    ("tile_reduction", "reduction steps unrolled in a tile"),
    ("shared_broadcasts", "broadcast scalars that several unrolled reduction steps of a tile use"),
    ("shared_vectors", "vectors that several unrolled reduction steps of a tile use"),
    ("pressure_share", "16 x (accumulators + shared) / vector registers of the machine"),
    (
        "reduction_chain",
        "iterations of the reduce loops directly outside the tile: how long"
        " accumulators stay in registers",
    ),
    ("latency_factor", "16 x slow-down from too few independent accumulators to hide FMA latency"),
    ("vector_length", "product of the vectorised extents"),
    ("vector_lanes", "vector_length / lanes of a vector register x 16"),
    ("vector_waste", "16 x share of idle lanes in the last register of a vector"),
    ("code_size", "operations of a tile: unrolled code"),
)

PARALLEL_FEATURES: tuple[tuple[str, str], ...] = (
    ("tasks", "product P of the parallel extents"),
    ("tasks_per_thread", "16 x P / T for T threads"),
    ("imbalance", "16 x ceil(P / T) T / P: time over that of a perfect division"),
    ("launches", "how often the parallel loop starts (0 when nothing is parallel)"),
    ("task_iterations", "iterations of one parallel task"),
    ("threads", "threads with work: min(P, T)"),
)

FOOTPRINT_POINTS: tuple[tuple[str, str], ...] = (
    ("chain", "one execution of the register tile with its reduction chain"),
    ("task", "one parallel task"),
    ("program", "the whole statement"),
)

CYCLE_FEATURES: tuple[tuple[str, str], ...] = (
    (
        "compute_cycles",
        "vector operations x cycles each x latency factor, per thread, with imbalance",
    ),
    ("load_cycles", "loads, stores and spills of the register tiles, per thread, with imbalance"),
    ("overhead_cycles", "loop control outside the tiles, and starting threads"),
    ("l2_cycles", "bytes into L1 / bandwidth of L2"),
    ("l3_cycles", "bytes into L2 / bandwidth of L3"),
    ("memory_cycles", "bytes into L3 / bandwidth of memory"),
    ("cycles", "estimate: the largest of these + a fifth of the others"),
    ("ideal_cycles", "lower bound: the larger of full-rate arithmetic and one pass over the data"),
)


def _table() -> tuple[Feature, ...]:
    table: list[Feature] = []

    def add(group: str, name: str, meaning: str, scale: str = LOG1) -> None:
        table.append(Feature(group, name, meaning, scale))

    for kind in ("float", "int"):
        for op in OPERATION_CLASSES:
            add("operations", f"{kind}_{op}", f"{kind} operations of class {op}, all iterations")
    add("operations", "logic", "boolean operations, all iterations")
    add("operations", "select", "selections, all iterations")
    for annotation in ANNOTATIONS:
        add("loops", f"{annotation}_number", f"number of {annotation} loops of extent > 1")
        add("loops", f"{annotation}_product", f"product of the extents of {annotation} loops")
        add("loops", f"{annotation}_length", f"extent of the innermost {annotation} loop")
        for position in POSITIONS:
            meaning = f"where {annotation} loops stand in the chain: {position.replace('_', ' ')}"
            add("loops", f"{annotation}_{position}", meaning)
    for rank in range(ACCESSES):
        for name, meaning in ACCESS_FEATURES:
            add("access", f"access{rank}_{name}", f"access of rank {rank}: {meaning}")
    for i in range(CURVE):
        place = f"at {i}/{CURVE - 1} of log2(iterations), from the innermost iteration outwards"
        add("curves", f"intensity_{i}", f"operations per distinct byte, inside the loops {place}")
    for i in range(CURVE):
        place = f"at {i}/{CURVE - 1} of log2(iterations), from the innermost iteration outwards"
        add("curves", f"footprint_{i}", f"distinct bytes inside the loops {place}")
    add("allocation", "allocated_bytes", "bytes of the statement's own buffer")
    add("allocation", "allocated_product", "allocated_bytes x allocated_outer")
    add("allocation", "allocated_outer", "executions of the allocation")
    add("allocation", "allocated_inner", "iterations inside the allocation")
    add("chain", "iterations", "product of all extents")
    add("chain", "loops", "number of loops of extent > 1")
    add("chain", "redundancy", "16 x iterations / (distinct written elements x reduce iterations)")
    for name, meaning in REGISTER_FEATURES:
        add("register", name, meaning)
    for name, meaning in PARALLEL_FEATURES:
        add("parallel", name, meaning)
    for cache in CACHES:
        add(
            "cache",
            f"{cache}_traffic",
            f"bytes brought into {cache} by all accesses: lines at the"
            " outermost loop whose footprint fits, x its executions (updates count twice)",
        )
        add("cache", f"{cache}_fit", f"iterations inside the outermost loop that fits {cache}")
    for name, meaning in CYCLE_FEATURES:
        add("cycles", name, meaning)
    add("program", "program_cycles", "sum of cycles over the statements")
    add("program", "program_ideal_cycles", "sum of ideal_cycles over the statements")
    add("program", "program_statements", "number of statements")
    for point, meaning in FOOTPRINT_POINTS:
        for cache in CACHES:
            add("fit", f"{point}_over_{cache}", f"bytes of {meaning} / bytes of {cache}", LOG)
    for cache in CACHES:
        add("fit", f"{cache}_traffic_per_operation", f"{cache}_traffic / operations", LOG)
    add("fit", "efficiency", "ideal_cycles / cycles", LOG)
    add("fit", "program_efficiency", "program_ideal_cycles / program_cycles", LOG)
    add("fit", "program_share", "cycles / program_cycles", LOG)
    return tuple(table)


FEATURES: tuple[Feature, ...] = _table()
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)
COLUMN: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
GROUPS: dict[str, slice] = {
    group: slice(
        next(i for i, f in enumerate(FEATURES) if f.group == group),
        1 + max(i for i, f in enumerate(FEATURES) if f.group == group),
    )
    for group in dict.fromkeys(f.group for f in FEATURES)
}
LOGGED: int = sum(f.scale == LOG1 for f in FEATURES)  # these come first


def digest() -> str:
    """Identifies the table; saved models and datasets carry it."""
    text = "\n".join(f"{f.group} {f.name} {f.scale} {f.meaning}" for f in FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
