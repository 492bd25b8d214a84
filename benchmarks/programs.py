"""Programs that no list of operators mentions, as TE tensors: what a general compiler must tune.

Separate from ``unlisted_programs.py``, which tunes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansor_lite.tasks import Task


def capsule_convolution(size: int = 16, channels: int = 32, capsule: int = 4) -> Task:
    """A convolution whose elements are ``capsule x capsule`` matrices (Hinton et al., 2018)."""
    from tvm import te

    x = te.placeholder((1, size + 2, size + 2, capsule, capsule, channels), name="x")
    w = te.placeholder((3, 3, capsule, capsule, channels, channels), name="w")
    ky, kx = te.reduce_axis((0, 3), "ky"), te.reduce_axis((0, 3), "kx")
    k, c = te.reduce_axis((0, capsule), "k"), te.reduce_axis((0, channels), "c")
    out = te.compute(
        (1, size, size, capsule, capsule, channels),
        lambda n, y, z, i, j, o: te.sum(
            x[n, y + ky, z + kx, i, k, c] * w[ky, kx, k, j, c, o], axis=[ky, kx, k, c]
        ),
        name="capsule",
    )
    return _task("capsule convolution", [x, w, out], [1])


def einsum(a: int = 32, b: int = 48, c: int = 64, d: int = 24, e: int = 32) -> Task:
    """``adbe,ecd->abc``: two reductions, no operand in the order of a matrix product."""
    from tvm import te

    x = te.placeholder((a, d, b, e), name="x")
    y = te.placeholder((e, c, d), name="y")
    r, s = te.reduce_axis((0, d), "d"), te.reduce_axis((0, e), "e")
    out = te.compute(
        (a, b, c), lambda i, j, k: te.sum(x[i, r, j, s] * y[s, k, r], axis=[r, s]), name="einsum"
    )
    return _task("five-index einsum", [x, y, out], [])


def banded_matmul(size: int = 1024, columns: int = 512, half_width: int = 16) -> Task:
    """A band matrix, stored by diagonals ``[size, 2 * half_width + 1]``, times a dense one."""
    from tvm import te, tirx

    width = 2 * half_width + 1
    band = te.placeholder((size, width), name="band")
    x = te.placeholder((size, columns), name="x")

    def inside(i: Any, j: Any) -> Any:
        row = i - half_width
        return tirx.if_then_else(
            tirx.all(row >= 0, row < size), x[row, j], tirx.const(0.0, "float32")
        )

    padded = te.compute((size + width - 1, columns), inside, name="padded")
    k = te.reduce_axis((0, width), "k")
    out = te.compute(
        (size, columns), lambda i, j: te.sum(band[i, k] * padded[i + k, j], axis=k), name="banded"
    )
    return _task("banded matmul", [band, x, out], [])


def pooled_convolution(size: int = 56, channels: int = 64) -> Task:
    """A 3x3 convolution, ReLU and 2x2 maximum in one function: the pooling is not another layer."""
    from tvm import te

    x = te.placeholder((1, size + 2, size + 2, channels), name="x")
    w = te.placeholder((3, 3, channels, channels), name="w")
    ky, kx = te.reduce_axis((0, 3), "ky"), te.reduce_axis((0, 3), "kx")
    c = te.reduce_axis((0, channels), "c")
    convolved = te.compute(
        (1, size, size, channels),
        lambda n, y, z, o: te.sum(x[n, y + ky, z + kx, c] * w[ky, kx, c, o], axis=[ky, kx, c]),
        name="convolved",
    )
    rectified = te.compute(convolved.shape, lambda *i: _relu(convolved(*i)), name="relu")
    py, px = te.reduce_axis((0, 2), "py"), te.reduce_axis((0, 2), "px")
    out = te.compute(
        (1, size // 2, size // 2, channels),
        lambda n, y, z, o: te.max(rectified[n, 2 * y + py, 2 * z + px, o], axis=[py, px]),
        name="pooled",
    )
    return _task("convolution with fused pooling", [x, w, out], [1])


def _relu(value: Any) -> Any:
    from tvm import tirx

    return tirx.max(value, tirx.const(0.0, "float32"))


def _task(name: str, tensors: list[Any], constants: list[int]) -> Task:
    from ansor_lite.workloads import from_te

    return from_te(tensors, name=name, constants=constants)


# All of them do enough arithmetic per byte to be bound by the multiply-add units.
DENSE: Mapping[str, Callable[[], Task]] = {
    "capsule": capsule_convolution,
    "einsum": einsum,
    "banded": banded_matmul,
    "pooled": pooled_convolution,
}
