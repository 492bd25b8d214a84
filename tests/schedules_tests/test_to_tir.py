"""The unscheduled program computes the DAG, and reads back as the same DAG."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import programs
import pytest

from ansor_lite import workloads
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.evaluate import evaluate
from schedules.expr import Axis, Call, Const, Read
from schedules.from_tir import from_tir
from schedules.to_tir import to_tir

TASKS: dict[str, Callable[[], Task]] = {
    "conv1d": lambda: workloads.conv1d(1, 9, 3, 4, 3, padding=1),
    "conv2d": lambda: workloads.conv2d(1, 7, 6, 4, 6, 3, 2, 1, residual=True),
    "pointwise": lambda: workloads.conv2d(2, 4, 4, 3, 5, 1, activation="gelu"),
    "grouped": lambda: workloads.conv2d(1, 6, 6, 4, 8, 3, padding=1, groups=2),
    "dilated": lambda: workloads.conv2d(1, 8, 8, 3, 4, 3, 1, 2, 2),
    "depthwise": lambda: workloads.depthwise_conv2d(2, 7, 7, 5, 3, 2, 1, activation="relu6"),
    "conv3d": lambda: workloads.conv3d(1, 4, 5, 6, 2, 3, 3, padding=1),
    "transposed": lambda: workloads.conv2d_transpose(1, 4, 5, 3, 2, 4, 2, 1),
    "matmul": lambda: workloads.matmul(5, 6, 7, bias=True, activation="tanh"),
    "batch_matmul": lambda: workloads.batch_matmul(2, 3, 4, 5, transpose_b=True),
    "attention": lambda: workloads.attention(2, 4, 6, 8, causal=True),
    "softmax": lambda: workloads.softmax(3, 7),
    "norm": lambda: workloads.norm(2, 3, 4),
    "layer_norm": lambda: workloads.layer_norm(3, 8),
    "max_pool": lambda: workloads.pool2d(1, 7, 7, 3, 3, 2, 1),
    "avg_pool": lambda: workloads.pool2d(1, 7, 7, 3, 3, 2, 1, kind="avg"),
} | {
    name: lambda name=name: workloads.from_te(programs.PROGRAMS[name](), name=name)
    for name in programs.PROGRAMS
}


@pytest.fixture(params=TASKS)
def dag(request: pytest.FixtureRequest) -> ComputeDAG:
    return TASKS[request.param]().dag


def test_reading_the_function_back_gives_the_same_key(dag: ComputeDAG) -> None:
    constants = [i for i, t in enumerate(dag.inputs) if t.constant]
    assert from_tir(to_tir(dag), constants).key == dag.key


def test_the_function_computes_what_the_reference_computes(dag: ComputeDAG) -> None:
    arrays = programs.random_inputs(dag)
    expected = evaluate(dag, arrays)
    found = programs.run(dag, arrays)
    for name in dag.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_guarded_read_outside_its_tensor_is_never_made() -> None:
    """A table of one element is read at 10**9 where the guard says no: evaluating that crashes."""
    far = Call("mul", (Axis("i"), Const(10**9, "int64")), "int64")
    inside = Call("lt", (Axis("i"), Const(1, "int64")), "bool")
    body = Call("select", (inside, Read("x", (far,), "float32"), Const(7.0, "float32")), "float32")
    stage = Stage("y", (IterAxis("i", 4),), body, "float32")
    dag = ComputeDAG((Tensor("x", (1,), "float32"),), (stage,), ("y",))
    found = programs.run(dag, {"x": np.array([3.0], "float32")})["y"]
    assert found.tolist() == [3.0, 7.0, 7.0, 7.0]
