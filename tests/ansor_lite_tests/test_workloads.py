"""Workloads compute what their formulas say and refuse sizes that do not fit."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ansor_lite import workloads
from ansor_lite.errors import InputError
from ansor_lite.tasks import Task
from schedules.evaluate import evaluate

Array = NDArray[Any]


def run(task: Task, seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """The output for random inputs, and these."""
    rng = np.random.default_rng(seed)
    arrays = {t.name: rng.standard_normal(t.shape) for t in task.dag.inputs}
    (output,) = evaluate(task.dag, arrays).values()
    return output, arrays


def direct_convolution(
    x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int
) -> Array:
    """Window by window, ``x: [n, spatial..., ci]``, ``w: [kernel..., ci / groups, co]``."""
    dims = x.ndim - 2
    x = np.pad(x, [(0, 0), *[(padding, padding)] * dims, (0, 0)])
    spans = [dilation * (k - 1) + 1 for k in w.shape[:dims]]
    out = [(m - s) // stride + 1 for m, s in zip(x.shape[1:-1], spans, strict=True)]
    result = np.zeros((x.shape[0], *out, w.shape[-1]))
    width, depth = w.shape[-1] // groups, w.shape[-2]
    for where in np.ndindex(*out):
        cut = tuple(
            slice(i * stride, i * stride + s, dilation) for i, s in zip(where, spans, strict=True)
        )
        window = x[(slice(None), *cut)]
        for g in range(groups):
            part = window[..., g * depth : (g + 1) * depth]
            weights = w[..., g * width : (g + 1) * width]
            result[(slice(None), *where, slice(g * width, (g + 1) * width))] = np.tensordot(
                part, weights, axes=(range(1, dims + 2), range(dims + 1))
            )
    return result


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({}, 1),
        ({"stride": 2, "padding": 1}, 1),
        ({"padding": 2, "dilation": 2}, 1),
    ],
)
def test_convolution_is_a_product_with_every_window(settings: dict[str, int], groups: int) -> None:
    plain = {"bias": False, "activation": None}
    task = workloads.conv2d(2, 8, 7, 4, 8, 3, groups=groups, **settings, **plain)
    found, arrays = run(task)
    full = {"stride": 1, "padding": 0, "dilation": 1, "groups": groups, **settings}
    expected = direct_convolution(arrays["data"], arrays["weight"], **full)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "task",
    [
        workloads.conv1d(2, 9, 3, 4, 3, padding=1, bias=False, activation=None),
        workloads.conv3d(1, 4, 5, 6, 2, 3, 3, padding=1, bias=False, activation=None),
    ],
    ids=lambda task: task.name,
)
def test_convolutions_of_other_dimensions(task: Task) -> None:
    found, arrays = run(task)
    expected = direct_convolution(arrays["data"], arrays["weight"], 1, 1, 1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_depthwise_is_one_group_per_channel() -> None:
    task = workloads.depthwise_conv2d(1, 7, 7, 5, 3, 2, 1, bias=False, activation=None)
    found, arrays = run(task)
    expected = direct_convolution(arrays["data"], arrays["weight"], 2, 1, 1, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_epilogues_come_as_bias_residual_activation() -> None:
    task = workloads.matmul(3, 4, 5, bias=True, residual=True, activation="relu")
    found, x = run(task)
    expected = np.maximum(x["a"] @ x["b"] + x["bias"] + x["residual"], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gelu_is_the_exact_one() -> None:
    task = workloads.matmul(3, 4, 5, activation="gelu")
    found, x = run(task)
    product = x["a"] @ x["b"]
    expected = [[v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in product]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_batch_matmul_with_a_transposed_operand() -> None:
    found, x = run(workloads.batch_matmul(2, 3, 4, 5, transpose_b=True))
    expected = x["a"] @ x["b"].transpose(0, 2, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    found, x = run(workloads.attention(2, 4, 6, 8, causal=causal))
    scores = np.einsum("bhid,bhjd->bhij", x["q"], x["k"]) / math.sqrt(8)
    if causal:
        scores[..., np.arange(6) > np.arange(4)[:, None] + 2] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    np.testing.assert_allclose(found, shares @ x["v"], rtol=1e-5, atol=1e-5)


def test_softmax_norm_and_layer_norm() -> None:
    found, x = run(workloads.softmax(3, 7))
    powers = np.exp(x["x"])
    np.testing.assert_allclose(found, powers / powers.sum(1, keepdims=True), rtol=1e-5)
    found, x = run(workloads.norm(2, 3, 4))
    np.testing.assert_allclose(found, np.sqrt((x["x"] ** 2).sum((1, 2))), rtol=1e-5)
    found, x = run(workloads.layer_norm(3, 8, epsilon=1e-3))
    centred = x["x"] - x["x"].mean(1, keepdims=True)
    scaled = centred / np.sqrt(x["x"].var(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(found, scaled * x["gamma"] + x["beta"], rtol=1e-4, atol=1e-5)


def test_rms_norm() -> None:
    found, x = run(workloads.rms_norm(3, 8, epsilon=1e-3))
    scaled = x["x"] / np.sqrt((x["x"] ** 2).mean(1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(found, scaled * x["gamma"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 3, 6])
def test_group_norm(groups: int) -> None:
    """One group is a layer norm of images, as many as channels an instance norm."""
    found, x = run(workloads.group_norm(2, 3, 4, 6, groups, epsilon=1e-3))
    grouped = x["x"].reshape(2, 12, groups, -1)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    scaled = ((grouped - mean) / np.sqrt(var + 1e-3)).reshape(2, 3, 4, 6)
    np.testing.assert_allclose(found, scaled * x["gamma"] + x["beta"], rtol=1e-4, atol=1e-5)


def test_group_norm_of_unequal_groups_is_refused() -> None:
    with pytest.raises(InputError, match="4 groups do not divide 6 channels"):
        workloads.group_norm(1, 3, 3, 6, 4)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling_over_windows(kind: str) -> None:
    found, x = run(workloads.pool2d(1, 7, 7, 3, 3, 2, 1, kind=kind))
    fill = -np.inf if kind == "max" else 0.0
    data = np.pad(x["data"], [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=fill)
    reduce = np.max if kind == "max" else np.mean
    for i, j in np.ndindex(4, 4):
        window = data[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        np.testing.assert_allclose(found[0, i, j], reduce(window, axis=(0, 1)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_global_pooling(kind: str) -> None:
    found, x = run(workloads.global_pool2d(2, 5, 1, 3, kind=kind))
    reduce = np.max if kind == "max" else np.mean
    np.testing.assert_allclose(found, reduce(x["x"], axis=(1, 2)), rtol=1e-5)


def test_resizing_repeats_pixels() -> None:
    found, x = run(workloads.resize2d(1, 3, 2, 4, 2))
    expected = x["x"].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)


def test_squeeze_and_excite() -> None:
    found, x = run(workloads.squeeze_and_excite(2, 3, 4, 6, 2))

    def sigmoid(v: Array) -> Array:
        return 1 / (1 + np.exp(-v))

    narrow = x["x"].mean((1, 2)) @ x["narrow_weight"] + x["narrow_bias"]
    gate = sigmoid((narrow * sigmoid(narrow)) @ x["wide_weight"] + x["wide_bias"])
    np.testing.assert_allclose(found, x["x"] * gate[:, None, None, :], rtol=1e-5)


def test_keywords_of_convolutions_are_known() -> None:
    with pytest.raises(TypeError, match="biass"):
        workloads.conv2d(1, 8, 8, 4, 4, 3, biass=True)  # type: ignore[call-arg]


def test_weights_are_constants_unless_told_otherwise() -> None:
    constants = {t.name for t in workloads.conv2d(1, 8, 8, 4, 4, 3).dag.inputs if t.constant}
    assert constants == {"weight", "bias"}
    free = workloads.conv2d(1, 8, 8, 4, 4, 3, constant_weights=False).dag
    assert not any(t.constant for t in free.inputs)


def test_the_name_says_what_it_is() -> None:
    task = workloads.conv2d(n=1, h=56, w=56, ci=64, co=64, kernel=3, stride=1, padding=1)
    assert task.name == "conv2d n1 h56 w56 ci64 co64 k3 s1 p1 bias relu"
    assert workloads.conv2d(1, 9, 9, 4, 4, (1, 7)).name.startswith("conv2d n1 h9 w9 ci4 co4 k1x7")


def test_equal_sizes_have_equal_keys_and_others_do_not() -> None:
    assert workloads.matmul(3, 4, 5).key == workloads.matmul(3, 4, 5).key
    assert workloads.matmul(3, 4, 5).key != workloads.matmul(3, 4, 5, activation="relu").key


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: workloads.conv2d(1, 8, 8, 4, 4, 11), "window of 11 does not fit"),
        (lambda: workloads.conv2d(1, 8, 8, 4, 6, 3, groups=4), "4 groups do not divide"),
        (lambda: workloads.conv2d(1, 8, 8, 4, 4, 3, stride=0), "stride .* is too small"),
        (lambda: workloads.conv2d(1, 8, 8, 4, 4, 3, padding=-1), "padding .* is too small"),
        (lambda: workloads.conv2d(1, 8, 8, 4, 4, (3, 3, 3)), "one number for each"),
        (lambda: workloads.conv2d_transpose(1, 2, 2, 3, 2, 2, 1, 2), "leaves nothing of h=2"),
        (lambda: workloads.matmul(0, 4, 5), "shape"),
        (lambda: workloads.matmul(3, 4, 5, activation="swoosh"), "no activation 'swoosh'"),
        (lambda: workloads.pool2d(1, 8, 8, 4, 2, kind="median"), "'max' or 'avg'"),
    ],
)
def test_refuses_sizes_that_do_not_fit(make: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make()


def test_workloads_load_no_tvm() -> None:
    code = (
        "import sys; from ansor_lite import workloads as w; w.matmul(2, 2, 2);"
        "assert 'tvm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
