"""Two products of one tensor that meet element by element are one kernel; others stay apart."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import Graph, plan_network
from ansor_lite.target import native
from search_space.analysis import has_data_reuse

ROWS, WIDE, NARROW = 13, 150, 60
CONSTANTS = {
    "gate": small_models.weight(NARROW, WIDE),
    "value": small_models.weight(NARROW, WIDE, seed=1),
    "bias": small_models.weight(WIDE),
    "down": small_models.weight(WIDE, NARROW),
}
node = helper.make_node
GATE = [
    node("MatMul", ["x", "gate"], ["a"]),
    node("Sigmoid", ["a"], ["s"]),
    node("Mul", ["a", "s"], ["silu"]),
]
VALUE = node("MatMul", ["x", "value"], ["b"])
BIASED = [node("MatMul", ["x", "value"], ["unbiased"]), node("Add", ["unbiased", "bias"], ["b"])]
MEET = node("Mul", ["silu", "b"], ["y"])


def model(nodes: list[onnx.NodeProto], *outputs: str) -> onnx.ModelProto:
    used = {name for each in nodes for name in each.input}
    shapes = {"x": (1, ROWS, NARROW), "z": (1, ROWS, NARROW), "r": (1, ROWS, WIDE)}
    inputs = {n: (TensorProto.FLOAT, shape) for n, shape in shapes.items() if n in used}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return small_models.build(nodes, inputs, list(outputs), constants)


def planned(network: onnx.ModelProto) -> Graph:
    return plan_network(import_network(network))


def products(graph: Graph) -> list[int]:
    """How many accumulations the kernels have."""
    counts = (sum(has_data_reuse(stage) for stage in t.dag.stages) for t in graph.tunable)
    return sorted(counts)


@pytest.mark.parametrize("value", [[VALUE], BIASED], ids=["plain", "biased"])
def test_a_gate_is_one_kernel_and_computes_the_same(value: list[onnx.NodeProto]) -> None:
    network = model([*GATE, *value, MEET, node("MatMul", ["y", "down"], ["d"])], "d")
    graph = planned(network)
    assert products(graph) == [1, 2]
    x = np.random.default_rng(0).standard_normal((1, ROWS, NARROW)).astype(np.float32)
    found = compile_graph(graph, lambda task: None, native(2)).run({"x": x})["d"]
    expected = small_models.reference(network, {"x": x})["d"]
    assert small_models.relative_error(found, expected) < 1e-4


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([*GATE, node("MatMul", ["z", "value"], ["b"]), MEET], ["y"]),
        ([*GATE, VALUE, MEET], ["y", "b"]),
        ([*GATE, VALUE, MEET, node("Exp", ["b"], ["e"])], ["y", "e"]),
        ([*GATE, VALUE, node("Softmax", ["b"], ["p"]), node("Mul", ["silu", "p"], ["y"])], ["y"]),
    ],
    ids=["of another tensor", "an output", "read twice", "reduced on the way"],
)
def test_refuses_because_products_are_apart(
    nodes: list[onnx.NodeProto], outputs: list[str]
) -> None:
    assert products(planned(model(nodes, *outputs))) == [1, 1]


def test_a_residual_tensor_is_no_second_product() -> None:
    nodes = [VALUE, node("Add", ["b", "r"], ["y"])]
    assert products(planned(model(nodes, "y"))) == [1]
