"""Concatenations disappear where their operands can be computed in place, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import small_models
from onnx import TensorProto, helper

from ansor_lite.compiler import compile_graph
from ansor_lite.frontend.importer import import_network
from ansor_lite.graph.concat import Concat, Slice, as_concat, as_slice
from ansor_lite.graph.plan import plan_network
from ansor_lite.target import native
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Read

CONV = helper.make_node("Conv", ["x", "w3"], ["c"], pads=[1, 1, 1, 1])
OTHER = helper.make_node("Conv", ["x", "w1"], ["d"])
RELUS = [helper.make_node("Relu", ["c"], ["a"]), helper.make_node("Relu", ["d"], ["b"])]
JOIN = helper.make_node("Concat", ["a", "b"], ["j"], axis=1)
WEIGHTS = {
    "w3": small_models.weight(24, 8, 3, 3),
    "w1": small_models.weight(40, 8, 1, 1),
    "w": small_models.weight(16, 64, 1, 1),
}


def check(nodes, outputs, constants=WEIGHTS):
    """Compile, compare with onnxruntime; the operators of the kernels that are left."""
    inputs = {"x": (TensorProto.FLOAT, (1, 8, 7, 7))}
    model = small_models.build(nodes, inputs, outputs, constants)
    module = compile_graph(plan_network(import_network(model)), lambda task: None, native(2))
    x = np.random.default_rng(5).standard_normal((1, 8, 7, 7)).astype(np.float32)
    found, expected = module.run({"x": x}), small_models.reference(model, {"x": x})
    for name, value in expected.items():
        assert small_models.relative_error(found[name], value) < 1e-5
    times = {t.kernel.symbol: t.calls for t in module.profile(1, {"x": x})}
    assert times == {k.symbol: k.uses for k in module.manifest.kernels}
    return [k.name.split(" ")[0] for k in module.manifest.kernels]


def test_kernels_write_where_the_concatenation_wants_them():
    last = helper.make_node("Conv", ["j", "w"], ["y"])
    assert not any("concat" in k for k in check([CONV, OTHER, *RELUS, JOIN, last], ["y"]))


def test_others_read_an_operand_where_it_lies():
    nodes = [CONV, OTHER, *RELUS, JOIN]
    nodes += [helper.make_node("Conv", ["j", "w"], ["z"])]
    nodes += [helper.make_node("Conv", ["a", "v"], ["y"])]
    constants = WEIGHTS | {"v": small_models.weight(16, 24, 3, 3)}
    assert not any("concat" in k for k in check(nodes, ["y", "z"], constants))


def test_a_dense_block_grows_in_one_buffer():
    nodes, joined = [CONV, RELUS[0]], "a"
    constants = {"w3": WEIGHTS["w3"], "w": small_models.weight(16, 48, 1, 1)}
    for i, channels in enumerate((24, 32, 40)):
        constants |= {f"v{i}": small_models.weight(8, channels, 3, 3)}
        nodes += [
            helper.make_node("Conv", [joined, f"v{i}"], [f"d{i}"], pads=[1, 1, 1, 1]),
            helper.make_node("Concat", [joined, f"d{i}"], [f"j{i}"], axis=1),
        ]
        joined = f"j{i}"
    nodes.append(helper.make_node("Conv", [joined, "w"], ["y"]))
    assert not any("concat" in k for k in check(nodes, ["y"], constants))


def test_slices_are_read_where_they_lie():
    nodes = [CONV, RELUS[0]]
    nodes += [helper.make_node("Slice", ["a", "zero", "half", "axis"], ["p"])]
    nodes += [helper.make_node("Slice", ["a", "half", "all", "axis"], ["q"])]
    nodes += [helper.make_node("Conv", ["p", "v"], ["y"])]
    nodes += [helper.make_node("Conv", ["q", "v"], ["z"])]
    bounds = {"zero": [0], "half": [12], "all": [24], "axis": [1]}
    constants = WEIGHTS | {"v": small_models.weight(16, 12, 3, 3)}
    constants |= {name: np.array(value) for name, value in bounds.items()}
    assert not any("concat" in k or "slice" in k for k in check(nodes, ["y", "z"], constants))


@pytest.mark.parametrize(("operand", "outputs"), [("x", ["y"]), ("b", ["y", "a"])])
def test_inputs_and_outputs_of_the_network_are_still_copied(operand, outputs):
    nodes = [helper.make_node("MatMul", ["x", "m"], ["a"])]
    nodes += [helper.make_node("MatMul", ["x", "n"], ["b"])]
    nodes += [helper.make_node("Concat", ["a", operand], ["j"], axis=1)]
    nodes += [helper.make_node("MatMul", ["j", "m"], ["y"])]
    constants = {"m": small_models.weight(7, 7), "n": small_models.weight(7, 7, seed=1)}
    assert any("concat" in k for k in check(nodes, outputs, constants))


def joined(if_first):
    """Two [2, 3] tensors as [2, 6]; ``if_first``: what is read in the first half."""
    i, j = Axis("i"), Axis("j")
    shifted = Call("sub", (j, Const(3, "int64")), "int64")
    body = Call(
        "select",
        (
            Call("lt", (j, Const(3, "int64")), "bool"),
            Read(if_first, (i, j), "float32"),
            Read("b", (i, shifted), "float32"),
        ),
        "float32",
    )
    stage = Stage("c", (IterAxis("i", 2), IterAxis("j", 6)), body, "float32")
    inputs = (Tensor("a", (2, 3), "float32"), Tensor("b", (2, 3), "float32"))
    return ComputeDAG(inputs, (stage,), ("c",))


@pytest.mark.parametrize(("first", "expected"), [("a", Concat(1, (0, 3))), ("b", None)])
def test_a_concatenation_is_known_by_what_it_computes(first, expected):
    assert as_concat(joined(first)) == expected


@pytest.mark.parametrize(("factor", "expected"), [(1, Slice(1, 3)), (2, None)])
def test_a_slice_is_known_by_what_it_computes(factor, expected):
    i, j = Axis("i"), Axis("j")
    scaled = Call("mul", (j, Const(factor, "int64")), "int64")
    index = Call("add", (scaled, Const(3, "int64")), "int64")
    stage = Stage(
        "c", (IterAxis("i", 2), IterAxis("j", 2)), Read("a", (i, index), "float32"), "float32"
    )
    assert as_slice(ComputeDAG((Tensor("a", (2, 8), "float32"),), (stage,), ("c",))) == expected
