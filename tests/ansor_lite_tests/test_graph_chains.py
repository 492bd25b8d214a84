"""Which kernels may run as one, and that one kernel computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.alternatives import faster_chains
from ansor_lite.compiler import compile, compile_graph
from ansor_lite.errors import MissingRecords
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.plan import Graph, plan_network, use_chains
from ansor_lite.target import native

SIZE, WIDE, NARROW = 56, 96, 16
X = {"x": (TensorProto.FLOAT, (1, NARROW, SIZE, SIZE))}
CONSTANTS = {
    "expand": small_models.weight(WIDE, NARROW, 1, 1),
    "depthwise": small_models.weight(WIDE, 1, 3, 3),
    "project": small_models.weight(NARROW, WIDE, 1, 1),
    "dense": small_models.weight(NARROW, NARROW, 3, 3),
}


def conv(source: str, weight: str, result: str) -> onnx.NodeProto:
    kernel = CONSTANTS[weight].shape[2:]
    return helper.make_node(
        "Conv",
        [source, weight],
        [result],
        kernel_shape=kernel,
        pads=[k // 2 for k in (*kernel, *kernel)],
        group=WIDE if weight == "depthwise" else 1,
    )


INVERTED_RESIDUAL = [
    conv("x", "expand", "a"),
    helper.make_node("Relu", ["a"], ["b"]),
    conv("b", "depthwise", "c"),
    helper.make_node("Relu", ["c"], ["d"]),
    conv("d", "project", "e"),
    helper.make_node("Add", ["e", "x"], ["y"]),
]
# The same twice: the first result is read by two.
NEXT_ONE = [
    conv("y", "expand", "a2"),
    conv("a2", "depthwise", "c2"),
    conv("c2", "project", "e2"),
    helper.make_node("Add", ["e2", "y"], ["z"]),
]


def model(nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return small_models.build(nodes, X, outputs, constants)


def planned(nodes: list[onnx.NodeProto], outputs: list[str]) -> Graph:
    return plan_network(import_network(model(nodes, outputs)))


def chains(nodes: list[onnx.NodeProto], *outputs: str) -> list[str]:
    return [task.name for task in planned(nodes, list(outputs)).chain_tasks]


def test_an_inverted_residual_is_a_chain_of_three() -> None:
    graph = planned(INVERTED_RESIDUAL, ["y"])
    [chain] = graph.chain_tasks
    small, wide = f"{SIZE}x{SIZE}x{NARROW}", f"{SIZE}x{SIZE}x{WIDE}"
    assert chain.name == f"chain {small} -> {wide} -> {wide} -> {small}"
    assert [t.key for t in graph.tunable] == list(chain.parts)
    constants = [t.constant for t in chain.dag.inputs]
    assert constants == [False, True, True, True]  # x once, though read twice


def test_equal_chains_are_one_task() -> None:
    twice = [
        helper.make_node(n.op_type, [names.get(i, i) for i in n.input], [names[n.output[0]]])
        for n in INVERTED_RESIDUAL
        for names in [{"x": "y"} | {o: f"{o}2" for o in "abcdey"}]
    ]
    for node, like in zip(twice, INVERTED_RESIDUAL, strict=True):
        node.attribute.extend(like.attribute)
    assert [t.weight for t in planned([*INVERTED_RESIDUAL, *twice], ["y2"]).chain_tasks] == [2]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([*INVERTED_RESIDUAL, helper.make_node("Exp", ["b"], ["u"])], ["y", "u"]),
        (INVERTED_RESIDUAL, ["y", "b"]),
    ],
    ids=["read twice", "an output of the network"],
)
def test_a_tensor_that_others_need_is_not_kept_inside(
    nodes: list[onnx.NodeProto], outputs: list[str]
) -> None:
    wide = f"{SIZE}x{SIZE}x{WIDE}"
    assert chains(nodes, *outputs) == [f"chain {wide} -> {wide} -> {SIZE}x{SIZE}x{NARROW}"]


def test_refuses_what_stays_in_the_cache_anyway() -> None:
    """Two dense convolutions leave much less for each other than they compute."""
    nodes = [conv("x", "dense", "a"), conv("a", "dense", "y")]
    assert chains(nodes, "y") == []


def test_a_chain_runs_where_it_is_faster_and_computes_the_same() -> None:
    network = model([*INVERTED_RESIDUAL, *NEXT_ONE], ["z"])
    graph = plan_network(import_network(network))
    seconds = {t.key: 1.0 for t in graph.tunable}
    [first, second] = graph.chain_tasks
    faster = faster_chains(graph.chain_tasks, {**seconds, first.key: 2.5, second.key: 9.0})
    used = use_chains(graph, faster)
    module = compile_graph(used, lambda task: None, native(2))
    names = {k.name: k.uses for k in module.manifest.kernels}
    assert names[first.name] == 1 and second.name not in names
    assert sum(names.values()) == sum(t.weight for t in graph.tasks) - 2
    x = np.random.default_rng(0).standard_normal((1, NARROW, SIZE, SIZE)).astype(np.float32)
    expected = small_models.reference(network, {"x": x})
    assert small_models.relative_error(module.run({"x": x})["z"], expected["z"]) < 1e-4


def test_strict_asks_for_records_of_the_parts_and_of_no_chain(tmp_path: Path) -> None:
    network = model(INVERTED_RESIDUAL, ["y"])
    log = tmp_path / "log.jsonl"
    with pytest.raises(MissingRecords) as missing:
        log.touch()
        compile(network, log, threads=2, strict=True)
    assert missing.value.tasks == tuple(t.name for t in planned(INVERTED_RESIDUAL, ["y"]).tunable)


def test_nothing_changes_without_a_faster_chain() -> None:
    graph = planned(INVERTED_RESIDUAL, ["y"])
    assert use_chains(graph, set()).tasks == graph.tasks


def test_a_copy_of_few_channels_is_read_through() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])]
    for channels, first in ((3, "transpose_conv2d"), (32, "transpose")):
        built = small_models.build(
            nodes,
            {"x": (TensorProto.FLOAT, (1, channels, 9, 9))},
            ["y"],
            {"w": small_models.weight(8, channels, 3, 3)},
        )
        graph = plan_network(import_network(built))
        assert graph.tasks[0].name.split(" ")[0] == first


def test_of_two_copies_for_one_kernel_one_is_read_through() -> None:
    node = helper.make_node
    nodes = [
        node("Transpose", ["a"], ["at"], perm=[0, 2, 1]),
        node("Transpose", ["b"], ["bt"], perm=[0, 2, 1]),
        node("MatMul", ["at", "bt"], ["y"]),
    ]
    inputs = {name: (TensorProto.FLOAT, (5, 4, 4)) for name in "ab"}
    network = small_models.build(nodes, inputs, ["y"], {})
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((5, 4, 4)).astype(np.float32) for name in "ab"}
    graph = plan_network(import_network(network))
    found = compile_graph(graph, lambda task: None, native(2)).run(feeds)["y"]
    expected = small_models.reference(network, feeds)["y"]
    assert small_models.relative_error(found, expected) < 1e-4
