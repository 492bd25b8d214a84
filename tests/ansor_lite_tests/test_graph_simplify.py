"""Reshapes leave the way of fusion, powers become products; values stay."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native

NODE = helper.make_node


def kernels(nodes, constants, shape, outputs=("y",)):
    """Operators of the tasks, after comparing the compiled network with onnxruntime."""
    inputs = {"x": (TensorProto.FLOAT, shape)}
    model = small_models.build(nodes, inputs, list(outputs), constants)
    graph = plan_network(import_network(model))
    module = compile_graph(graph, lambda task: None, native(2))
    x = np.random.default_rng(9).uniform(0.5, 2.0, shape).astype(np.float32)
    expected = small_models.reference(model, {"x": x})
    for name, found in module.run({"x": x}).items():
        assert small_models.relative_error(found, expected[name]) < 1e-5
    return [t.name.split(" ")[0] for t in graph.tasks]


def test_an_epilogue_behind_a_reshape_joins_the_product_before_it():
    nodes = [
        NODE("Reshape", ["x", "flat"], ["f"]),
        NODE("Gemm", ["f", "w", "b"], ["g"]),
        NODE("Reshape", ["g", "deep"], ["d"]),
        NODE("Tanh", ["d"], ["t"]),
        NODE("Add", ["x", "t"], ["y"]),
    ]
    constants = {"flat": np.array([4, 8]), "deep": np.array([1, 4, 8])}
    constants |= {"w": small_models.weight(8, 8), "b": small_models.weight(8)}
    assert kernels(nodes, constants, (1, 4, 8))[0] == "matmul_add_tanh_add"


def test_operands_are_aligned_without_the_unit_dimensions():
    nodes = [
        NODE("MatMul", ["x", "w"], ["g"]),
        NODE("Reshape", ["g", "deep"], ["d"]),
        NODE("Mul", ["d", "column"], ["m"]),
        NODE("Sub", ["row", "m"], ["y"]),
    ]
    constants = {
        "w": small_models.weight(8, 8),
        "deep": np.array([4, 1, 8]),
        "column": small_models.weight(4, 1, 1),
        "row": small_models.weight(8),
    }
    assert kernels(nodes, constants, (4, 8))[0] == "matmul_multiply_subtract"


def test_a_reshape_that_regroups_elements_stays():
    nodes = [
        NODE("MatMul", ["x", "w"], ["g"]),
        NODE("Reshape", ["g", "other"], ["d"]),
        NODE("Mul", ["d", "row"], ["y"]),
    ]
    constants = {
        "w": small_models.weight(8, 8),
        "other": np.array([8, 4]),
        "row": small_models.weight(4),
    }
    assert "matmul_multiply" not in kernels(nodes, constants, (4, 8))


def test_an_operand_that_enlarges_the_result_keeps_the_reshape():
    nodes = [
        NODE("Reshape", ["x", "deep"], ["d"]),
        NODE("Add", ["d", "many"], ["y"]),
    ]
    constants = {"deep": np.array([1, 4, 8]), "many": small_models.weight(3, 1, 8)}
    assert kernels(nodes, constants, (4, 8)) == ["add"]


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 0.5, 0.75, -0.5, 1.7])
def test_powers_with_small_exponents_need_no_logarithm(exponent):
    found = kernels(
        [NODE("Pow", ["x", "e"], ["p"]), NODE("Neg", ["p"], ["y"])],
        {"e": np.float32(exponent).reshape(())},
        (4, 8),
    )
    assert any("power" in k for k in found) == (exponent == 1.7)
