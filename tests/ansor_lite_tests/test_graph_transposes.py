"""Transpositions leave the way of residual sums and epilogues; values stay."""

from __future__ import annotations

import small_models
from onnx import helper
from test_graph_simplify import kernels

NODE = helper.make_node
LAST = {"perm": [0, 2, 3, 1]}
FIRST = {"perm": [0, 3, 1, 2]}


def block(number, source, result):
    """A pointwise layer, channels last, on a tensor with channels first; the sum of both."""
    return [
        NODE("Transpose", [source], [f"l{number}"], **LAST),
        NODE("MatMul", [f"l{number}", f"w{number}"], [f"m{number}"]),
        NODE("Transpose", [f"m{number}"], [f"f{number}"], **FIRST),
        NODE("Add", [source, f"f{number}"], [result]),
    ]


def test_residual_sums_between_channels_first_and_last_leave_no_transposition():
    nodes = [NODE("Conv", ["x", "w"], ["c"], pads=[1] * 4)]
    nodes += [*block(1, "c", "r"), *block(2, "r", "s"), NODE("Conv", ["s", "v"], ["y"])]
    weights = {"w1": small_models.weight(8, 8), "w2": small_models.weight(8, 8, seed=1)}
    weights |= {"w": small_models.weight(8, 8, 3, 3), "v": small_models.weight(8, 8, 1, 1)}
    names = kernels(nodes, weights, (1, 8, 6, 6))
    assert len([n for n in names if "transpose" in n]) == 2  # of the input and of the output


def test_constants_turn_with_what_they_are_added_to():
    nodes = [
        NODE("MatMul", ["x", "w"], ["m"]),
        NODE("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
        NODE("Add", ["t", "column"], ["s"]),
        NODE("Relu", ["s"], ["r"]),
        NODE("MatMul", ["r", "w"], ["y"]),
    ]
    weights = {"w": small_models.weight(8, 8), "column": small_models.weight(8, 1)}
    assert kernels(nodes, weights, (2, 8, 8))[0] == "matmul_add_relu"


def test_a_transposition_that_others_read_stays_before_an_epilogue():
    nodes = [
        NODE("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        NODE("Exp", ["t"], ["y"]),
        NODE("MatMul", ["t", "w"], ["z"]),
    ]
    names = kernels(nodes, {"w": small_models.weight(4, 8)}, (2, 4, 6), outputs=("y", "z"))
    assert "exp" in names and "exp_transpose" not in names
