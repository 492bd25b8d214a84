"""One followed statement as loop-major float32 arrays, with the places that matter on a CPU.

``extract.py`` derives every feature from these arrays. Separate because the layout (loops before
candidates, so that NumPy's inner loop runs over candidates) is the whole performance story.
Depth ``d`` always means "inside the first ``d`` loops of the chain".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedules.hardware import Hardware
from schedules.nest import StageNest

F32 = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Statement:
    """Arrays of one statement: N candidates, D loops, A accesses.

    ``outer [D + 1, N]``: executions of depth ``d``; ``inner [D + 1, N]``: iterations inside it.
    ``touched, lines [A, D + 1, N]``: distinct elements and lines inside depth ``d``.
    ``footprint [D + 1, N]``: distinct bytes of all accesses. ``tile [N]``: depth of the register
    tile; ``step [N]``: that of one reduction step in it; ``chain [N]``: that of the reduction chain
    around it; ``task``: that of a parallel task.
    ``vector [N]``: product of vectorised extents, ``vector_stride [A, N]`` elements between lanes.
    """

    nest: StageNest
    hardware: Hardware
    n: int
    column: Index  # [N], 0 to N - 1
    extents: F32
    long: Mask  # [D, N], extent > 1
    outer: F32
    inner: F32
    touched: F32
    lines: F32
    element_bytes: F32  # [A, 1]
    footprint: F32
    tile: Index
    step: Index
    chain: Index
    task: int
    vector: F32
    vector_stride: F32

    @property
    def depth(self) -> int:
        return len(self.nest.loops)

    @property
    def iterations(self) -> F32:
        """``[N]``."""
        whole: F32 = self.inner[0]
        return whole

    def annotated(self, annotation: str) -> list[int]:
        """Positions of the loops with ``annotation``."""
        return [d for d, loop in enumerate(self.nest.loops) if loop.annotation == annotation]

    def product(self, loops: list[int]) -> F32:
        """Product of the extents of ``loops``, ``[N]``."""
        result = np.ones(self.n, dtype=np.float32)
        for d in loops:
            result *= self.extents[d]
        return result

    def at(self, array: F32, depth: Index) -> F32:
        """``array[depth[..., n], n]`` for ``array [D + 1, N]``."""
        flat: F32 = array.reshape(-1).take(depth * self.n + self.column)
        return flat

    def at_each(self, array: F32, depth: Index) -> F32:
        """``array[a, depth[..., a, n], n]`` for ``array [A, levels, N]``."""
        accesses, levels = array.shape[:2]
        base = np.arange(accesses)[:, None] * (levels * self.n) + self.column
        picked: F32 = array.reshape(-1).take(depth * self.n + base)
        return picked


def last(mask: Mask, axis: int = 0) -> Index:
    """One more than the last position along ``axis`` at which ``mask`` holds, else 0.

    Bytes keep the reduction in SIMD registers; a chain has far fewer than 255 loops.
    """
    if mask.shape[axis] == 0:
        return np.zeros(mask.shape[:axis] + mask.shape[axis + 1 :], dtype=np.int64)
    shape = [1] * mask.ndim
    shape[axis] = -1
    position = np.arange(1, mask.shape[axis] + 1, dtype=np.uint8).reshape(shape)
    found: Index = (mask.view(np.uint8) * position).max(axis=axis).astype(np.int64)
    return found


def statement(nest: StageNest, n: int, hardware: Hardware) -> Statement:
    """The arrays of ``nest`` for ``n`` candidates."""
    loops = nest.loops
    depth = len(loops)
    extents = np.empty((depth, n), dtype=np.float32)
    for d, loop in enumerate(loops):
        extents[d] = loop.extent
    long = extents > 1
    outer, inner = _products(extents)
    touched = _levels([a.touched for a in nest.accesses])
    lines = _levels([a.lines for a in nest.accesses])
    element_bytes = np.array([[a.element_bytes] for a in nest.accesses], dtype=np.float32)
    stored = np.stack([a.tensor_bytes for a in nest.accesses]).astype(np.float32)
    line_bytes = np.float32(hardware.cache_line_bytes)
    np.minimum(lines, (stored / line_bytes + 1)[:, None], out=lines)
    footprint = np.minimum(touched * element_bytes[:, :, None], stored[:, None]).sum(axis=0)
    tiled = [loop.annotation in ("vectorize", "unroll") for loop in loops]
    tile = last(long & ~np.array(tiled, dtype=bool)[:, None])
    reduce = np.array([loop.kind == "reduce" for loop in loops], dtype=bool)[:, None]
    step = np.maximum(tile, last(long & reduce))
    outside = np.arange(depth)[:, None] < tile
    chain = last(long & ~reduce & outside)
    parallel = [d for d, loop in enumerate(loops) if loop.annotation == "parallel"]
    lanes = [d for d, loop in enumerate(loops) if loop.annotation == "vectorize"]
    return Statement(
        nest=nest,
        hardware=hardware,
        n=n,
        column=np.arange(n),
        extents=extents,
        long=long,
        outer=outer,
        inner=inner,
        touched=touched,
        lines=lines,
        element_bytes=element_bytes,
        footprint=footprint,
        tile=tile,
        step=step,
        chain=chain,
        task=parallel[-1] + 1 if parallel else 0,
        vector=np.multiply.reduce(extents[lanes], axis=0),
        vector_stride=_vector_stride(nest, lanes, n),
    )


def _products(extents: F32) -> tuple[F32, F32]:
    """Executions of and iterations inside every depth, ``[D + 1, N]`` each."""
    depth, n = extents.shape
    outer = np.ones((depth + 1, n), dtype=np.float32)
    inner = np.ones((depth + 1, n), dtype=np.float32)
    for d in range(depth):
        np.multiply(outer[d], extents[d], out=outer[d + 1])
        np.multiply(inner[depth - d], extents[depth - d - 1], out=inner[depth - d - 1])
    return outer, inner


def _levels(arrays: list[NDArray[np.int64]]) -> F32:
    """``[A, levels, N]`` from one ``[N, levels]`` per access."""
    n, levels = arrays[0].shape
    result = np.empty((len(arrays), levels, n), dtype=np.float32)
    for a, array in enumerate(arrays):
        result[a] = array.T
    return result


def _vector_stride(nest: StageNest, lanes: list[int], n: int) -> F32:
    """Elements between two lanes of the innermost vector loop, ``[A, N]``."""
    result = np.zeros((len(nest.accesses), n), dtype=np.float32)
    if lanes:
        for a, access in enumerate(nest.accesses):
            result[a] = access.stride[:, lanes[-1]]
    return np.abs(result, out=result)
