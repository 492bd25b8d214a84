"""Averages over neighbouring channels are elementwise; other pooling stays what it is."""

from __future__ import annotations

import pytest
import small_models
from onnx import helper
from test_graph_simplify import kernels

NODE = helper.make_node


def convolutions(*between):
    return [
        NODE("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        *between,
        NODE("Conv", ["n", "w"], ["y"], pads=[1] * 4),
    ]


@pytest.mark.parametrize("size", [3, 5])
def test_normalisation_over_channels_is_one_kernel(size):
    lrn = NODE("LRN", ["c"], ["n"], size=size, alpha=0.5, beta=0.75, bias=1.0)
    names = kernels(convolutions(lrn), {"w": small_models.weight(8, 8, 3, 3)}, (1, 8, 6, 6))
    assert len([n for n in names if not n.startswith("conv")]) <= 3  # and two transpositions
    assert not any("pool" in n for n in names)


def test_a_window_of_space_stays_pooling():
    pool = NODE("AveragePool", ["c"], ["n"], kernel_shape=[1, 3], pads=[0, 1, 0, 1])
    names = kernels(convolutions(pool), {"w": small_models.weight(8, 8, 3, 3)}, (1, 8, 6, 6))
    assert any("avg_pool" in n for n in names)
