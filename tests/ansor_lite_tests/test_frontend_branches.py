"""Narrow convolutions of one input become one; what would have to be copied stays apart."""

from __future__ import annotations

import small_models
from onnx import helper
from test_graph_concat import check

NODE = helper.make_node
WEIGHTS = {
    "w1": small_models.weight(16, 8, 1, 1),
    "w2": small_models.weight(24, 8, 1, 1),
    "b1": small_models.weight(16),
    "b2": small_models.weight(24),
    "v1": small_models.weight(8, 16, 3, 3),
    "v2": small_models.weight(8, 24, 3, 3),
}


def branch(number, last):
    n = str(number)
    return [
        NODE("Conv", ["x", f"w{n}", f"b{n}"], [f"c{n}"]),
        NODE("Relu", [f"c{n}"], [f"r{n}"]),
        NODE("Conv", [f"r{n}", f"v{n}"], [last]),
    ]


def of_input(kernels):
    """Kernels of pointwise convolutions and of slices."""
    return [k for k in kernels if k.endswith("_relu") or "slice" in k]


def test_narrow_convolutions_of_one_input_are_one_and_read_in_slices():
    kernels = check([*branch(1, "y"), *branch(2, "z")], ["y", "z"], WEIGHTS)
    assert of_input(kernels) == ["conv2d_add_relu"]


def test_wide_convolutions_stay_apart():
    wide = {"w2": small_models.weight(320, 8, 1, 1), "b2": small_models.weight(320)}
    wide |= {"v2": small_models.weight(8, 320, 3, 3)}
    kernels = check([*branch(1, "y"), *branch(2, "z")], ["y", "z"], WEIGHTS | wide)
    assert of_input(kernels) == ["conv2d_add_relu"] * 2


def test_a_branch_that_is_an_output_stays_apart():
    kernels = check([*branch(1, "y"), *branch(2, "z")[:2]], ["y", "r2"], WEIGHTS)
    assert not any("slice" in k for k in kernels)
