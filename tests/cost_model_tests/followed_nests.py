"""Followed programs made by hand: a tiled accumulation of ``M x N x K`` and its epilogue.

``chain(...)`` derives every array of a ``StageNest`` from loop tiles and the axes each access
reads, so the tests need no sketch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_model.dataset import Dataset
from schedules.nest import AccessNest, LoopNest, ProgramNest, StageNest

Ints = NDArray[np.int64]
LINE = 64


@dataclass(frozen=True)
class Tensor:
    """An access with one tensor dimension per axis, outermost first."""

    name: str
    mode: str
    axes: tuple[str, ...]


def loop(stage: str, axis: str, level: int, extent: Ints, annotation: str = "serial") -> LoopNest:
    kind = "reduce" if axis == "k" else "spatial"
    return LoopNest(stage, axis, level, kind, annotation, extent)


def chain(stage: str, loops: list[LoopNest], tensors: list[Tensor], **counts: int) -> StageNest:
    """A statement of float32 inside ``loops``."""
    accesses = tuple(access(loops, tensor) for tensor in tensors)
    allocated = accesses[0].tensor_bytes
    return StageNest(stage, tuple(loops), accesses, counts, True, allocated, 0)


def access(loops: list[LoopNest], tensor: Tensor) -> AccessNest:
    n, depth = len(loops[0].extent), len(loops)
    touched = np.ones((n, depth + 1), dtype=np.int64)
    rows = np.ones((n, depth + 1), dtype=np.int64)
    stride = np.zeros((n, depth), dtype=np.int64)
    inner = {axis: np.ones(n, dtype=np.int64) for axis in "mnk"}
    for d in range(depth - 1, -1, -1):
        stride[:, d] = inner[loops[d].axis]
        inner[loops[d].axis] = inner[loops[d].axis] * loops[d].extent
        for axis in tensor.axes:
            touched[:, d] *= inner[axis]
        for axis in tensor.axes[:-1]:
            rows[:, d] *= inner[axis]
    for d in range(depth):
        later = (
            tensor.axes[tensor.axes.index(loops[d].axis) + 1 :] if _reads(tensor, loops[d]) else ()
        )
        for axis in later:
            stride[:, d] *= inner[axis]
        stride[:, d] *= _reads(tensor, loops[d])
    lines = rows * -(-touched // rows * 4 // LINE)
    size = np.prod([inner[a] for a in tensor.axes], axis=0) * 4
    return AccessNest(tensor.name, tensor.mode, 4, size, touched, np.maximum(lines, 1), stride)


def _reads(tensor: Tensor, one: LoopNest) -> bool:
    return one.axis in tensor.axes


def tiles(rng: np.random.Generator, n: int, extent: int) -> tuple[Ints, Ints]:
    """``n`` random ways to cut ``extent`` (a power of two) in two: outer and inner."""
    inner = 2 ** rng.integers(0, extent.bit_length(), n)
    return extent // inner, inner


def program(rng: np.random.Generator, n: int, size: int = 64) -> ProgramNest:
    """``n`` candidates: parallel rows, a register tile of rows and vectorised columns."""
    (m0, m1), (n0, n1), (k0, k1) = (tiles(rng, n, size) for _ in range(3))
    sums = [
        loop("sum", "m", 0, m0, "parallel"),
        loop("sum", "n", 0, n0),
        loop("sum", "k", 0, k0),
        loop("sum", "k", 1, k1),
        loop("sum", "m", 1, m1, "unroll"),
        loop("sum", "n", 1, n1, "vectorize"),
    ]
    result, left, right = (("m", "n"), ("m", "k"), ("k", "n"))
    first = [Tensor("c", "update", result), Tensor("a", "read", left), Tensor("b", "read", right)]
    last = [loop("out", "m", 0, m0 * m1, "parallel"), loop("out", "n", 0, n0 * n1, "vectorize")]
    second = [Tensor("d", "write", result), Tensor("c", "read", result)]
    stages = (chain("sum", sums, first, mad=1), chain("out", last, second, compare=1))
    return ProgramNest(n, stages)


def rows(nest: ProgramNest, chosen: Ints) -> ProgramNest:
    """Only the candidates ``chosen``, in that order."""
    return ProgramNest(len(chosen), tuple(_stage_rows(s, chosen) for s in nest.stages))


def _stage_rows(stage: StageNest, chosen: Ints) -> StageNest:
    loops = tuple(replace(x, extent=x.extent[chosen]) for x in stage.loops)
    accesses = tuple(
        replace(
            a,
            tensor_bytes=a.tensor_bytes[chosen],
            touched=a.touched[chosen],
            lines=a.lines[chosen],
            stride=a.stride[chosen],
        )
        for a in stage.accesses
    )
    allocated = stage.allocated_bytes[chosen]
    return replace(stage, loops=loops, accesses=accesses, allocated_bytes=allocated)


def known_seconds(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """A made-up machine: the time of a program from three columns of its statements."""
    from cost_model.features import COLUMN

    names = ("accumulators", "vector_lanes", "reduction_chain")
    wanted = (4.0, 5.0, 3.0)
    off = [np.abs(features[:, 0, COLUMN[n]] - w) for n, w in zip(names, wanted, strict=True)]
    return 1e-3 * (1 + np.sum(off, axis=0).astype(np.float64))


def measured(rng: np.random.Generator, n: int, task: str = "t", size: int = 64) -> Dataset:
    from cost_model.extract import features
    from schedules.hardware import Hardware

    described = features(program(rng, n, size), Hardware(threads=2))
    return Dataset().extended(task, described, known_seconds(described))
