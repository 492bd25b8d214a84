"""Programs that no list of operators mentions: whatever must not know operators is tested on them.

Each returns TE tensors, inputs first; ``run`` executes the unscheduled program of a DAG.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te, tirx

from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.lower import PIPELINE
from schedules.rewrites import apply_rewrites, constant_programs
from schedules.steps import Step
from schedules.to_tir import to_tir


def capsule_convolution(
    n: int = 1, size: int = 5, ci: int = 3, co: int = 4, kernel: int = 3, capsule: int = 4
) -> list[Any]:
    """Every pixel holds a matrix; taps are multiplied as matrices."""
    data = te.placeholder((n, size, size, capsule, capsule, ci), name="data")
    weight = te.placeholder((kernel, kernel, capsule, capsule, ci, co), name="weight")
    ky, kx = (te.reduce_axis((0, kernel), name=f"k{x}") for x in "yx")
    p, c = te.reduce_axis((0, capsule), name="p"), te.reduce_axis((0, ci), name="c")
    out = te.compute(
        (n, size - kernel + 1, size - kernel + 1, capsule, capsule, co),
        lambda b, y, x, i, j, o: te.sum(
            data[b, y + ky, x + kx, i, p, c] * weight[ky, kx, p, j, c, o], axis=[ky, kx, p, c]
        ),
        name="capsules",
    )
    return [data, weight, out]


def five_index_einsum(a: int = 6, b: int = 5, c: int = 7, d: int = 4, e: int = 3) -> list[Any]:
    """``adbe, ecd -> abc``."""
    left, right = te.placeholder((a, d, b, e), name="left"), te.placeholder((e, c, d), name="right")
    rd, re = te.reduce_axis((0, d), name="d"), te.reduce_axis((0, e), name="e")
    out = te.compute(
        (a, b, c),
        lambda i, j, k: te.sum(left[i, rd, j, re] * right[re, k, rd], axis=[rd, re]),
        name="einsum",
    )
    return [left, right, out]


def banded_matmul(rows: int = 9, columns: int = 8, band: int = 2) -> list[Any]:
    """A band matrix stored by diagonals, ``[rows, 2 * band + 1]``, times a dense one."""
    diagonals = te.placeholder((rows, 2 * band + 1), name="diagonals")
    dense = te.placeholder((rows, columns), name="dense")
    t = te.reduce_axis((0, 2 * band + 1), name="t")

    def product(i: Any, j: Any) -> Any:
        row = i + t - band
        inside = tirx.all(row >= 0, row < rows)
        value = tirx.if_then_else(inside, diagonals[i, t] * dense[row, j], 0.0)
        return te.sum(value, axis=t)

    return [diagonals, dense, te.compute((rows, columns), product, name="banded")]


def convolution_with_pooling(size: int = 8, ci: int = 4, co: int = 5) -> list[Any]:
    """3x3 convolution, ReLU, and the maximum of every 2x2 window, channels last."""
    data = te.placeholder((1, size + 2, size + 2, ci), name="data")
    weight = te.placeholder((3, 3, ci, co), name="weight")
    ky, kx = (te.reduce_axis((0, 3), name=f"k{x}") for x in "yx")
    c = te.reduce_axis((0, ci), name="c")
    conv = te.compute(
        (1, size, size, co),
        lambda n, y, x, o: te.sum(
            data[n, y + ky, x + kx, c] * weight[ky, kx, c, o], axis=[ky, kx, c]
        ),
        name="conv",
    )
    relu = te.compute(conv.shape, lambda *i: tirx.max(conv(*i), tirx.const(0.0)), name="relu")
    py, px = te.reduce_axis((0, 2), name="py"), te.reduce_axis((0, 2), name="px")
    pooled = te.compute(
        (1, size // 2, size // 2, co),
        lambda n, y, x, o: te.max(relu[n, y * 2 + py, x * 2 + px, o], axis=[py, px]),
        name="pooled",
    )
    return [data, weight, pooled]


PROGRAMS = {
    "capsule_convolution": capsule_convolution,
    "five_index_einsum": five_index_einsum,
    "banded_matmul": banded_matmul,
    "convolution_with_pooling": convolution_with_pooling,
}


def random_inputs(dag: ComputeDAG, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Standard normal floats, small non-negative integers."""
    rng = np.random.default_rng(seed)
    return {
        t.name: rng.standard_normal(t.shape).astype(t.dtype)
        if "float" in t.dtype
        else rng.integers(0, 2, t.shape).astype(t.dtype)
        for t in dag.inputs
    }


def rewritten(
    dag: ComputeDAG, steps: tuple[Step, ...], arrays: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Outputs of what ``steps`` make of ``dag``, its constants in the form that they want."""
    changed = {
        name: evaluate(program, arrays)[program.outputs[0]]
        for name, program in constant_programs(dag, steps).items()
    }
    return evaluate(apply_rewrites(dag, steps), {**arrays, **changed})


def run_function(
    func: tirx.PrimFunc,
    dag: ComputeDAG,
    arrays: dict[str, NDArray[Any]],
    target: tvm.target.Target | None = None,
) -> dict[str, NDArray[Any]]:
    """Outputs of ``func``, whose parameters are those of ``dag``; any CPU's code by default."""
    target = target or tvm.target.Target({"kind": "llvm"})
    module = tvm.tirx.build(func, target=target, pipeline=PIPELINE)
    outputs = [tvm.runtime.tensor(np.zeros(dag.shape_of(o), dag.dtype_of(o))) for o in dag.outputs]
    module["main"](*(tvm.runtime.tensor(arrays[t.name]) for t in dag.inputs), *outputs)
    return {name: o.numpy() for name, o in zip(dag.outputs, outputs, strict=True)}


def run(dag: ComputeDAG, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs of the unscheduled program of ``dag``."""
    return run_function(to_tir(dag), dag, arrays)
