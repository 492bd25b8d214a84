"""ONNX rewrites: the graph gets simpler, its values stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ansor_lite.frontend.onnx_rewrites import simplify as simplify_graph

RNG = np.random.default_rng(7)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes, constants, shape=(1, 4, 6, 6), rank=4, opset=17):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def statistics(channels):
    return {
        "gamma": weight(channels),
        "beta": weight(channels),
        "mean": weight(channels),
        "var": np.abs(weight(channels)) + 0.5,
    }


def simplify(m: onnx.ModelProto) -> onnx.ModelProto:
    return simplify_graph(m).to_model()


def operators(m: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in m.graph.node]


def assert_same_values(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    shape = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim]
    x = RNG.standard_normal(shape).astype(np.float32)
    for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def outputs(m: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        m.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


BN = helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["y"])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_batch_norm_after_a_convolution_disappears(operator, group, bias):
    inner = (4, 6 // group) if operator == "ConvTranspose" else (6, 4 // group)
    constants = {"w": weight(*inner, 3, 3), **statistics(6)}
    inputs = ["x", "w"] + ["b"] * bias
    if bias:
        constants["b"] = weight(6)
    before = model([helper.make_node(operator, inputs, ["c"], group=group), BN], constants)
    after = simplify(before)
    assert operators(after) == [operator]
    assert_same_values(before, after)


@pytest.mark.parametrize("transposed", [0, 1])
def test_batch_norm_after_a_matrix_product_disappears(transposed):
    w = weight(5, 8) if transposed else weight(8, 5)
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["c"], transB=transposed, alpha=0.5)
    before = model([gemm, BN], {"w": w, "b": weight(5), **statistics(5)}, (3, 8), 2)
    after = simplify(before)
    assert operators(after) == ["Gemm"]
    assert_same_values(before, after)


def test_batch_norm_stays_a_product_and_a_sum_when_the_convolution_has_other_readers():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        BN,
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["y", "r"], ["z"]),
    ]
    before = model(nodes, {"w": weight(6, 4, 1, 1), **statistics(6)})
    before.graph.output[0].name = "z"
    after = simplify(before)
    assert sorted(operators(after)) == ["Add", "Add", "Conv", "Mul", "Relu"]
    assert_same_values(before, after)


def test_training_mode_batch_norm_is_left_alone():
    node = helper.make_node(
        "BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["y"], training_mode=1
    )
    node.output.extend(["running_mean", "running_var"])
    assert "BatchNormalization" in operators(simplify(model([node], statistics(4))))


def test_batch_norm_and_a_separate_scale_and_shift_merge_into_one():
    nodes = [
        helper.make_node("BatchNormalization", ["x", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Unsqueeze", ["scale", "axes"], ["s"]),
        helper.make_node("Mul", ["n", "s"], ["m"]),
        helper.make_node("Add", ["m", "shift"], ["y"]),
    ]
    constants = {"scale": weight(4), "shift": weight(4, 1, 1), **statistics(4)}
    before = model(nodes, constants | {"axes": np.array([1, 2])})
    after = simplify(before)
    assert operators(after) == ["Mul", "Add"]
    assert_same_values(before, after)


def test_per_pixel_constants_stay_out_of_weights():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "mask"], ["y"]),
    ]
    before = model(nodes, {"w": weight(4, 4, 1, 1), "mask": weight(6, 6)})
    after = simplify(before)
    assert operators(after) == ["Conv", "Mul"]
    assert_same_values(before, after)


def test_sum_becomes_additions_and_no_ops_disappear():
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("Sum", ["a", "r", "b"], ["y"]),
    ]
    before = model(nodes, {})
    after = simplify(before)
    assert operators(after) == ["Relu", "Add", "Add"]
    assert_same_values(before, after)


def test_shape_arithmetic_becomes_a_constant():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "first"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"first": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    before = model(nodes, constants, rank=2)
    after = simplify(before)
    assert operators(after) == ["Reshape"]
    assert_same_values(before, after)


@pytest.mark.parametrize(("operator", "value"), [("Add", 0.0), ("Sub", 0.0), ("Div", 1.0)])
def test_neutral_constants_disappear(operator, value):
    nodes = [
        helper.make_node(operator, ["x", "c"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    before = model(nodes, {"c": np.full((1, 1, 6, 6), value, np.float32)})
    after = simplify(before)
    assert operators(after) == ["Relu"]
    assert_same_values(before, after)


def test_a_neutral_constant_that_enlarges_its_operand_stays():
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    before = model(nodes, {"c": np.zeros((3, 1, 1, 1), np.float32)})
    after = simplify(before)
    assert operators(after) == ["Add", "Relu"]
    assert_same_values(before, after)


def test_initializers_are_no_inputs():
    before = model([helper.make_node("Add", ["x", "c"], ["y"])], {"c": weight(4, 6, 6)})
    before.graph.input.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, (4, 6, 6)))
    assert [i.name for i in simplify(before).graph.input] == ["x"]
