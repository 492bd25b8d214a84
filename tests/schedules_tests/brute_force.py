"""What a lowered program does, found out by reading and enumerating it: the witness against `nest`.

``read`` walks a TensorIR function before any pass. ``enumerate_touched`` evaluates the index
expressions of a statement over its whole iteration space with NumPy and counts distinct elements.
``disagreements`` compares both with what ``follow`` predicts; no code is shared with ``nest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.hardware import Hardware
from schedules.lower import Lowered, lower
from schedules.lower.packing import Packing, unpacked_constant
from schedules.nest import AccessNest, ProgramNest, StageNest, effective_steps, follow
from schedules.sketch import Choices, Sketch

Array = NDArray[Any]
Compute = Callable[..., Array]

_KINDS = {0: "serial", 1: "parallel", 2: "vectorize", 3: "unroll"}

_BINARY: dict[str, Compute] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Min": np.minimum,
    "Max": np.maximum,
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
}

# Where the operands of an expression stand; every other one has ``a`` and maybe ``b``.
_CHILDREN: dict[str, tuple[str, ...]] = {
    "TensorLoad": ("indices",),
    "Call": ("args",),
    "Cast": ("value",),
    "Let": ("value", "body"),
    "Select": ("condition", "true_value", "false_value"),
    "NoneType": (),
}


@dataclass(frozen=True)
class TirLoop:
    """One ``For`` around a statement."""

    variable: Any
    extent: int
    kind: str


@dataclass(frozen=True)
class Statement:
    """One store and the loops around it, outermost first."""

    loops: tuple[TirLoop, ...]
    store: Any

    @property
    def target(self) -> str:
        return str(self.store.buffer.name)


@dataclass
class Program:
    """Allocated buffers (bytes) and statements in text order."""

    allocated: dict[str, int] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)


def read(func: Any) -> Program:
    """The loops, statements and allocations of ``func``; nothing is simplified."""
    program = Program()
    _walk(func.body, (), program)
    return program


def _most(extent: Any) -> int:
    """Iterations of a loop, or the most of one that a mask may end early."""
    return int(extent.a if type(extent).__name__ == "Min" else extent)


def _walk(stmt: Any, loops: tuple[TirLoop, ...], program: Program) -> None:
    match type(stmt).__name__:
        case "SBlockRealize":
            for buffer in stmt.block.alloc_buffers:
                elements = int(np.prod([int(s) for s in buffer.shape], dtype=np.int64))
                size = np.dtype(str(buffer.dtype)).itemsize
                program.allocated[buffer.name] = elements * size
            _walk(stmt.block.body, loops, program)
        case "SeqStmt":
            for inner in stmt.seq:
                _walk(inner, loops, program)
        case "AttrStmt":
            _walk(stmt.body, loops, program)
        case "For":
            loop = TirLoop(stmt.loop_var, _most(stmt.extent), _KINDS[int(stmt.kind)])
            _walk(stmt.body, (*loops, loop), program)
        case "IfThenElse":
            for inner in (stmt.then_case, stmt.else_case):
                if inner is not None:
                    _walk(inner, loops, program)
        case "Evaluate":
            pass  # a nest that adds nothing
        case "BufferStore":
            program.statements.append(Statement(loops, stmt))
        case other:
            raise AssertionError(f"unexpected statement {other}")


def loads(store: Any) -> list[Any]:
    """The distinct loads of a store's value."""
    found: dict[str, Any] = {}
    pending = [store.value]
    while pending:
        node = pending.pop()
        kind = type(node).__name__
        if kind == "TensorLoad":
            found.setdefault(f"{node.source.name}{list(node.indices)}", node)
        for child in _CHILDREN.get(kind, ("a", "b")):
            value = getattr(node, child, None)
            pending += list(value) if child in ("args", "indices") else [value]
    return list(found.values())


def evaluate(expr: Any, values: dict[Any, Array]) -> Array:
    """An index expression over arrays of loop values; loads inside an index are no numbers."""
    kind = type(expr).__name__
    if kind == "IntImm":
        return np.asarray(int(expr.value))
    if kind == "Var":
        return values[expr]
    if kind == "Cast":
        return evaluate(expr.value, values)
    if kind in _BINARY:
        return _BINARY[kind](evaluate(expr.a, values), evaluate(expr.b, values))
    raise TypeError(f"an index expression of kind {kind} is unknown to the witness")


def loop_values(loops: tuple[TirLoop, ...], split: list[list[int]]) -> dict[Any, Array]:
    """Every loop variable over the iteration space; ``split`` takes fused loops apart again."""
    axes = [e for extents in split for e in extents]
    values: dict[Any, Array] = {}
    position = 0
    for loop, extents in zip(loops, split, strict=True):
        shape = [1] * len(axes)
        shape[position : position + len(extents)] = extents
        values[loop.variable] = np.arange(loop.extent).reshape(shape)
        position += len(extents)
    return values


def enumerate_touched(indices: list[Array], extents: list[int]) -> list[int]:
    """Most distinct index tuples inside the first ``d`` loops, for ``d = 0 ... len(extents)``."""
    key = np.zeros([1] * len(extents), dtype=np.int64)
    for index in indices:
        low, high = int(index.min()), int(index.max())
        key = key * (high - low + 1) + (index - low)
    shape = key.shape
    counts = []
    for depth in range(len(extents) + 1):
        rows = int(np.prod(shape[:depth], dtype=np.int64))
        ordered = np.sort(key.reshape(rows, -1), axis=1)
        steps = ordered[:, 1:] != ordered[:, :-1]
        counts.append(int(steps.sum(axis=1).max(initial=0)) + 1)
    return counts


# -- comparison with the nest ---------------------------------------------------------------------


def disagreements(
    sketch: Sketch, rows: Choices, hardware: Hardware, bound: bool = False
) -> list[str]:
    """Every difference between ``follow`` and the lowered programs of ``rows``, as text.

    ``bound``: touched elements may be fewer than predicted, as they are in regions with gaps.
    """
    nest = follow(sketch, rows)
    affine = {} if bound else _affine_tensors(sketch)
    found = []
    for n, row in enumerate(rows):
        lowered = lower(sketch.dag, effective_steps(sketch, row), hardware)
        found += [f"row {row.tolist()}: {text}" for text in _compare(nest, n, lowered, affine)]
    return found


def _affine_tensors(sketch: Sketch) -> dict[str, set[str]]:
    """Stage -> tensors whose touched elements are known exactly: all reads are affine.

    A guard before a tensor computed at a loop keeps its region inside, where it may lag behind.
    """
    result = {}
    inside = {plan.name for plan in sketch.plan.stages if plan.attached is not None}
    for plan in sketch.plan.stages:
        free = {
            a.tensor
            for a in plan.accesses
            if None in a.indices or (a.guarded and a.tensor in inside)
        }
        result[plan.name] = {a.tensor for a in plan.accesses} - free | {plan.name}
        result |= {f"{pack.tensor}.pack": {pack.tensor} for pack in plan.packs}
    return result


def _compare(
    nest: ProgramNest, n: int, lowered: Lowered, affine: dict[str, set[str]]
) -> Iterator[str]:
    program = read(lowered.func)
    by_target: dict[str, list[Statement]] = {}
    for statement in program.statements:
        by_target.setdefault(statement.target, []).append(statement)
    expected_bytes = {}
    for stage in nest.stages:
        name = stage.stage.replace(".", "_")
        size = int(stage.allocated_bytes[n])
        if size:
            expected_bytes[name] = size
        statements = by_target.pop(name, [])
        first = [s for s in statements if not loads(s.store)][:1] if _reduces(stage) else []
        yield from _compare_initialisation(stage, n, first)
        versions = statements[len(first) :]
        if not versions:
            yield f"{name}: no statement"
        for statement in versions:
            yield from _compare_stage(stage, n, statement, lowered, affine)
    if by_target:
        yield f"statements nobody predicted: {sorted(by_target)}"
    if expected_bytes != program.allocated:
        yield f"allocated {program.allocated}, predicted {expected_bytes}"


def _predicted_loops(stage: StageNest, n: int) -> list[tuple[str, int, str]]:
    """A loop that fetches ahead is a serial one with hints inside."""
    return [
        (
            f"{x.axis}.{x.level}".replace(".", "_"),
            int(x.extent[n]),
            "serial" if x.annotation == "prefetch" else x.annotation,
        )
        for x in stage.loops
        if int(x.extent[n]) > 1
    ]


def _fused(loops: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """Leading parallel loops as the single loop that runs them."""
    parallel = [x for x in loops if x[2] == "parallel"]
    if len(parallel) < 2:
        return loops
    name = "_".join(x[0] for x in parallel)
    total = int(np.prod([x[1] for x in parallel]))
    return [(name, total, "parallel"), *loops[len(parallel) :]]


def _actual_loops(statement: Statement) -> list[tuple[str, int, str]]:
    return [(str(x.variable.name), x.extent, x.kind) for x in statement.loops]


def _reduces(stage: StageNest) -> bool:
    return any(x.kind == "reduce" for x in stage.loops if x.stage == stage.stage)


def _compare_initialisation(stage: StageNest, n: int, statements: list[Statement]) -> Iterator[str]:
    if len(statements) != int(_reduces(stage)):
        yield f"{stage.stage}: {len(statements)} initialisations"
        return
    kept = [x for x in stage.loops if x.stage != stage.stage or x.kind != "reduce"]
    for statement in statements:
        wanted = [int(x.extent[n]) for x in kept if int(x.extent[n]) > 1]
        actual = int(np.prod([x.extent for x in statement.loops]))
        if actual != int(np.prod(wanted)):
            yield f"{stage.stage}: initialised in {_actual_loops(statement)}, expected {wanted}"


def _compare_stage(
    stage: StageNest,
    n: int,
    statement: Statement,
    lowered: Lowered,
    affine: dict[str, set[str]],
) -> Iterator[str]:
    predicted = _predicted_loops(stage, n)
    if _fused(predicted) != _actual_loops(statement):
        yield f"{stage.stage}: loops {_actual_loops(statement)}, predicted {_fused(predicted)}"
        return
    split = [[x.extent] for x in statement.loops]
    count = sum(x[2] == "parallel" for x in predicted)
    if count > 1:
        split[0] = [x[1] for x in predicted[:count]]
    values = loop_values(statement.loops, split)
    extents = [x[1] for x in predicted]
    depths = _depths(stage, n)
    exact = affine.get(stage.stage, set())
    for tensor, accesses in _accesses(statement, lowered).items():
        counted = [_count(indices, values, extents, ()) for indices in accesses]
        wanted = [a for a in stage.accesses if a.tensor.replace(".", "_") == tensor]
        predicted_counts = [a.touched[n][depths].tolist() for a in wanted]
        if None in counted:
            continue  # the index comes from memory
        if not _is_exact(wanted, exact):
            shape = _shape(statement, tensor)
            counted = [_count(indices, values, extents, shape) for indices in accesses]
            agree = bool(np.all(np.sum(predicted_counts, axis=0) >= np.sum(counted, axis=0)))
        else:
            # Reads that differ in loops of one iteration only are one read of the program.
            agree = {tuple(c) for c in predicted_counts} == {tuple(c) for c in counted}
        if not agree:
            yield f"{stage.stage}: touches {counted} of {tensor}, predicted {predicted_counts}"
    known = {a.tensor.replace(".", "_") for a in stage.accesses}
    if known != set(_accesses(statement, lowered)):
        actual = sorted(_accesses(statement, lowered))
        yield f"{stage.stage}: accesses {actual}, not {sorted(known)}"


def _is_exact(accesses: list[AccessNest], affine: set[str]) -> bool:
    return all(a.tensor in affine or a.tensor.endswith(".pack") for a in accesses)


def _depths(stage: StageNest, n: int) -> list[int]:
    """Columns of ``touched`` that remain without loops of one iteration."""
    return [0, *(d + 1 for d, x in enumerate(stage.loops) if int(x.extent[n]) > 1)]


def _accesses(statement: Statement, lowered: Lowered) -> dict[str, list[Any]]:
    found: dict[str, dict[str, Any]] = {}
    store = statement.store
    reached = [(store.buffer, store.indices), *((x.source, x.indices) for x in loads(store))]
    for buffer, places in reached:
        packing = lowered.packs.get(str(buffer.name))
        name = str(buffer.name) if packing is None or _is_plain(packing) else f"{buffer.name}_pack"
        indices = list(places)
        found.setdefault(name, {})[str(indices)] = indices
    return {name: list(accesses.values()) for name, accesses in found.items()}


def _is_plain(packing: Packing) -> bool:
    """The constant is computed, but stored in its own order."""
    if packing.program is None:
        return False
    plain = unpacked_constant(packing.shape).indices
    return len(packing.indices) == len(plain) and all(map(np.array_equal, packing.indices, plain))


def _shape(statement: Statement, tensor: str) -> tuple[int, ...]:
    buffers = [statement.store.buffer, *(x.source for x in loads(statement.store))]
    buffer = next(b for b in buffers if b.name == tensor)
    return tuple(int(s) for s in buffer.shape)


def _count(
    indices: list[Any], values: dict[Any, Array], extents: list[int], shape: tuple[int, ...]
) -> Any:
    """Elements touched; with ``shape`` only those inside the tensor. ``None``: not computable."""
    try:
        arrays = [evaluate(i, values) for i in indices]
    except NotImplementedError:
        return None
    for d, size in enumerate(shape):
        arrays[d] = np.clip(arrays[d], 0, size - 1)
    return enumerate_touched(arrays, extents)
