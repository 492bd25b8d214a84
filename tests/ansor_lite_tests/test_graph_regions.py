"""Two products with rows normalised between them are one task, copies and views around included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import Graph, plan_network
from ansor_lite.target import native
from schedules.expr import Call, walk
from search_space.analysis import has_data_reuse

node = helper.make_node
Array = small_models.Array
ROWS, HEADS, DEPTH = 10, 3, 8
X = {name: (TensorProto.FLOAT, (1, ROWS, HEADS * DEPTH)) for name in "qkv"}
SHAPES = {
    "heads": np.array([1, ROWS, HEADS, DEPTH], np.int64),
    "whole": np.array([1, ROWS, HEADS * DEPTH], np.int64),
    "scale": np.float32(0.5),
    "weight": small_models.weight(HEADS * DEPTH, HEADS * DEPTH),
}


def heads(name: str, *order: int) -> list[onnx.NodeProto]:
    return [
        node("Reshape", [name, "heads"], [f"{name} apart"]),
        node("Transpose", [f"{name} apart"], [f"{name} heads"], perm=order),
    ]


SCORES = [
    *heads("q", 0, 2, 1, 3),
    *heads("k", 0, 2, 3, 1),
    node("MatMul", ["q heads", "k heads"], ["products"]),
    node("Mul", ["products", "scale"], ["scores"]),
]
SOFTMAX = [node("Softmax", ["scores"], ["shares"], axis=-1)]
MEAN = [
    *heads("v", 0, 2, 1, 3),
    node("MatMul", ["shares", "v heads"], ["means"]),
    node("Transpose", ["means"], ["rows"], perm=[0, 2, 1, 3]),
    node("Reshape", ["rows", "whole"], ["y"]),
]


def model(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    constants: Mapping[str, Array] = SHAPES,
    inputs: Mapping[str, tuple[int, tuple[int, ...]]] = X,
) -> onnx.ModelProto:
    used = {name for n in nodes for name in n.input}
    return small_models.build(
        nodes,
        {n: v for n, v in inputs.items() if n in used},
        outputs,
        {n: v for n, v in constants.items() if n in used},
    )


def planned(network: onnx.ModelProto) -> Graph:
    return plan_network(import_network(network))


def products(graph: Graph) -> list[int]:
    """How many accumulations each task has."""
    counts = [sum(map(has_data_reuse, t.dag.stages)) for t in graph.tasks for _ in range(t.weight)]
    return [count for count in counts if count]


def check_values(network: onnx.ModelProto) -> Graph:
    graph = planned(network)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in network.graph.input:
        kind = value.type.tensor_type
        numbers = rng.standard_normal([d.dim_value for d in kind.shape.dim])
        seen = kind.elem_type == TensorProto.BOOL
        feeds[value.name] = numbers > 0 if seen else numbers.astype(np.float32)
    found = compile_graph(graph, lambda task: None, native(2)).run(feeds)
    for name, value in small_models.reference(network, feeds).items():
        assert small_models.relative_error(found[name], value) < 1e-5
    return graph


def test_heads_softmax_and_mean_are_one_task() -> None:
    [task] = check_values(model([*SCORES, *SOFTMAX, *MEAN], ["y"])).tasks
    heads = f"{ROWS}x{HEADS}x{DEPTH}"
    assert task.name == f"matmul_multiply_softmax_matmul {' * '.join([heads] * 3)} -> {heads}"
    scores = HEADS * ROWS * ROWS
    assert task.flop == scores * (2 * DEPTH * 2 + 1 + 1 + 2 + 1 + 1)


def test_a_softmax_in_pieces_is_one_task_too() -> None:
    pieces = [
        node("ReduceMax", ["scores"], ["greatest"], axes=[-1], keepdims=1),
        node("Sub", ["scores", "greatest"], ["below"]),
        node("Exp", ["below"], ["raised"]),
        node("ReduceSum", ["raised", "last"], ["total"], keepdims=1),
        node("Div", ["raised", "total"], ["shares"]),
    ]
    constants = {**SHAPES, "last": np.array([-1], np.int64)}
    graph = check_values(model([*SCORES, *pieces, *MEAN], ["y"], constants))
    assert len(graph.tasks) == 1


@pytest.mark.parametrize("escaping", ["shares", "products"])
def test_refuses_because_something_else_needs_what_is_between(escaping: str) -> None:
    graph = check_values(model([*SCORES, *SOFTMAX, *MEAN], ["y", escaping]))
    assert products(graph) == [1, 1]


def test_refuses_because_no_row_is_reduced_between() -> None:
    plain = [node("Tanh", ["scores"], ["shares"])]
    assert products(check_values(model([*SCORES, *plain, *MEAN], ["y"]))) == [1, 1]


def test_refuses_because_the_products_are_with_weights() -> None:
    nodes = [
        node("MatMul", ["q", "weight"], ["a"]),
        node("Softmax", ["a"], ["b"], axis=-1),
        node("MatMul", ["b", "weight"], ["y"]),
    ]
    assert products(check_values(model(nodes, ["y"]))) == [1, 1]


def test_heads_of_keys_that_are_repeated_are_read_once() -> None:
    """One head of keys for every two of queries: heads become two axes, and no copy is left."""
    heads, few = 4, 2
    shapes = {"q": (heads, ROWS, DEPTH), "k": (few, DEPTH, ROWS), "v": (few, ROWS, DEPTH)}
    repeat = (
        [node("Unsqueeze", [name, "two"], [f"{name} apart"]) for name in "kv"]
        + [node("Expand", [f"{name} apart", f"{name} repeated"], [f"{name} wide"]) for name in "kv"]
        + [node("Reshape", [f"{name} wide", f"{name} shape"], [f"{name} heads"]) for name in "kv"]
    )
    constants = {"two": np.array([2], np.int64)}
    for name in "kv":
        one = shapes[name]
        constants[f"{name} repeated"] = np.array([1, few, heads // few, *one[1:]], np.int64)
        constants[f"{name} shape"] = np.array([1, heads, *one[1:]], np.int64)
    nodes = [
        *repeat,
        node("MatMul", ["q", "k heads"], ["scores"]),
        *SOFTMAX,
        node("MatMul", ["shares", "v heads"], ["y"]),
    ]
    inputs = {name: (TensorProto.FLOAT, (1, *shape)) for name, shape in shapes.items()}
    [task] = check_values(model(nodes, ["y"], constants, inputs)).tasks
    assert [t.shape for t in task.dag.inputs] == [
        (few, heads // few, ROWS, DEPTH),
        *(shapes[n] for n in "kv"),
    ]


def test_one_tensor_of_queries_keys_and_values_is_three_operands() -> None:
    """The kernel reads the parts of it in place."""
    width = HEADS * DEPTH
    parts = [node("Split", ["qkv", "widths"], ["q", "k", "v"], axis=2)]
    constants = {**SHAPES, "widths": np.array([width] * 3, np.int64)}
    inputs = {"qkv": (TensorProto.FLOAT, (1, ROWS, 3 * width))}
    nodes = [*parts, *SCORES, *SOFTMAX, *MEAN]
    [task] = check_values(model(nodes, ["y"], constants, inputs)).tasks
    assert [t.shape for t in task.dag.inputs] == [(ROWS, 3, HEADS, DEPTH)] * 3
    assert task.bytes == 4 * ROWS * HEADS * DEPTH * 4


def test_a_causal_mask_is_a_condition() -> None:
    mask = np.where(np.tri(ROWS) > 0, 0, -np.inf).astype(np.float32)
    masked = [node("Add", ["scores", "mask"], ["masked"])]
    softmax = [node("Softmax", ["masked"], ["shares"], axis=-1)]
    nodes = [*SCORES, *masked, *softmax, *MEAN]
    [task] = check_values(model(nodes, ["y"], {**SHAPES, "mask": mask[None, None]})).tasks
    assert not any(t.constant for t in task.dag.inputs)
    assert any(isinstance(e, Call) and e.op == "le" for s in task.dag.stages for e in walk(s.body))


def test_rows_are_not_cut_for_a_copy_behind() -> None:
    """A copy that parts the rows of the result stays a kernel: blocks want rows of one axis."""
    nodes = [
        *SCORES,
        *SOFTMAX,
        *heads("v", 0, 2, 1, 3),
        node("MatMul", ["shares", "v heads"], ["means"]),
        node("Reshape", ["means", "pairs"], ["apart"]),
        node("Transpose", ["apart"], ["y"], perm=[1, 0, 2, 3]),
    ]
    constants = {**SHAPES, "pairs": np.array([HEADS, 2, ROWS // 2, DEPTH], np.int64)}
    graph = check_values(model(nodes, ["y"], constants))
    assert products(graph) == [2]
    assert len(graph.tasks) == 2


def test_a_mask_that_every_layer_computes_is_computed_once() -> None:
    def layer(number: int, source: str) -> list[onnx.NodeProto]:
        def own(name: str) -> str:
            return f"{name} {number}"

        return [
            node("Where", ["seen", "zero", "hidden"], [own("mask")]),
            node("Exp", [source], [own("x")]),
            node("MatMul", [own("x"), "k"], [own("products")]),
            node("Add", [own("products"), own("mask")], [own("scores")]),
            node("Softmax", [own("scores")], [own("shares")], axis=-1),
            node("MatMul", [own("shares"), own("x")], [own("y")]),
        ]

    constants = {"zero": np.float32(0), "hidden": np.float32(-1e9)}
    inputs = {
        "q": (TensorProto.FLOAT, (HEADS, ROWS, DEPTH)),
        "k": (TensorProto.FLOAT, (HEADS, DEPTH, ROWS)),
        "seen": (TensorProto.BOOL, (1, ROWS, ROWS)),
    }
    network = model([*layer(0, "q"), *layer(1, "y 0")], ["y 1"], constants, inputs)
    graph = check_values(network)
    assert [t.weight for t in graph.tasks if "where" in t.name] == [1]
    assert products(graph) == [2, 2]
