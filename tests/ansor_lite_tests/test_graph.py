"""From a network to tasks: layouts, fusion, deduplication, names, bounds."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
import tvm
from onnx import TensorProto, helper
from tvm import relax

from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.calls import kernel_calls
from ansor_lite.graph.fold import fold_constants
from ansor_lite.graph.plan import Graph, plan_network
from schedules.errors import UnsupportedProgram


@pytest.fixture(scope="module")
def cnn() -> Graph:
    return plan_network(import_network(small_models.small_cnn()))


def test_convolutions_become_channels_last_and_take_their_epilogue(cnn):
    names = [t.name for t in cnn.tasks]
    assert "transpose_conv2d_add_relu 3x16x16 * 3x3x3x8 -> 8x8x8" in names
    assert "conv2d_relu_minimum 8x8x8 * 3x3x1x8 -> 8x8x8" in names


def test_equal_subgraphs_are_one_task_and_count_their_uses(cnn):
    weights = {t.name: t.weight for t in cnn.tasks}
    assert weights["conv2d_add_add 8x8x8 * 3x3x8x8 -> 8x8x8"] == 2
    assert sum(weights.values()) == len(kernel_calls(cnn.module))
    assert len({t.key for t in cnn.tasks}) == len(cnn.tasks)


def test_weights_are_constants_and_data_is_not(cnn):
    task = next(t for t in cnn.tasks if t.name.startswith("transpose_conv2d_add_relu"))
    assert [t.constant for t in task.dag.inputs] == [False, True, True]


def test_only_subgraphs_with_data_reuse_are_tuned(cnn):
    tuned = {t.name.split(" ")[0] for t in cnn.tunable}
    assert {"conv2d_add_add", "matmul_add"} <= tuned
    assert "mean" not in tuned


def test_flop_and_bytes_of_a_convolution(cnn):
    task = next(t for t in cnn.tasks if t.name.startswith("transpose_conv2d_add_relu"))
    outputs = 8 * 8 * 8
    assert task.flop == outputs * (3 * 3 * 3 * 2 + 1 + 1)
    assert task.bytes == 4 * (16 * 16 * 3 + 3 * 3 * 3 * 8 + 8 + outputs)


def test_weight_layouts_cost_nothing_at_run_time(cnn):
    transposes = [c for c in kernel_calls(cnn.module) if "transpose" in c.args[0].name_hint]
    constant = [c for c in transposes if isinstance(c.args[1].fields[0], tvm.ir.GenericConst)]
    assert not constant


def test_the_same_function_with_and_without_constants_is_two_tasks():
    node = helper.make_node
    nodes = [node("MatMul", ["a", "w"], ["c"]), node("MatMul", ["c", "b"], ["y"])]
    model = small_models.build(
        nodes,
        {"a": (TensorProto.FLOAT, (4, 4)), "b": (TensorProto.FLOAT, (4, 4))},
        ["y"],
        {"w": small_models.weight(4, 4)},
    )
    graph = plan_network(import_network(model))
    assert [[t.constant for t in task.dag.inputs] for task in graph.tasks] == [
        [False, True],
        [False, False],
    ]
    assert len({t.name for t in graph.tasks}) == 2


def test_a_function_without_a_dag_is_opaque_and_says_why(monkeypatch):
    def refuse(function, constants):
        raise UnsupportedProgram("no perfect loop nest")

    monkeypatch.setattr("ansor_lite.graph.plan.from_tir", refuse)
    graph = plan_network(import_network(small_models.small_cnn()))
    assert not graph.tasks
    assert {o.reason for o in graph.opaque} == {"no perfect loop nest"}


def test_planning_twice_gives_the_same_tasks(cnn):
    again = plan_network(import_network(small_models.small_cnn()))
    assert [(t.name, t.key, t.weight) for t in again.tasks] == [
        (t.name, t.key, t.weight) for t in cnn.tasks
    ]


def test_relax_modules_are_networks_too():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(relax.op.exp(x)))
        builder.emit_func_output(y)
    network = import_network(builder.get())
    assert [(i.name, i.shape, i.dtype) for i in network.inputs] == [("x", (2, 3), "float32")]
    assert [t.name for t in plan_network(network).tasks] == ["exp 2x3 -> 2x3"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda c: relax.op.permute_dims(c, [1, 0]), np.arange(6.0).reshape(2, 3).T),
        (lambda c: relax.op.reshape(c, (3, 2)), np.arange(6.0).reshape(3, 2)),
        (lambda c: relax.op.add(c, c), 2 * np.arange(6.0).reshape(2, 3)),
        (lambda c: relax.op.astype(c, "int32"), np.arange(6, dtype=np.int32).reshape(2, 3)),
    ],
)
def test_constants_fold_in_numpy(make, expected):
    builder = relax.BlockBuilder()
    constant = relax.const(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    with builder.function("main", []):
        with builder.dataflow():
            y = builder.emit_output(builder.emit(make(constant)))
        builder.emit_func_output(y)
    body = fold_constants(builder.get())["main"].body
    found = [b.value for block in body.blocks for b in block.bindings]
    values = [v for v in [*found, body.body] if isinstance(v, tvm.ir.GenericConst)]
    np.testing.assert_array_equal(values[0].value.numpy(), expected)
