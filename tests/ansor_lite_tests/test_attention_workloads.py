"""Attention by hand: layouts, groups of heads, windows; and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ansor_lite import workloads
from ansor_lite.attention_layers import grouping, spans
from ansor_lite.errors import InputError
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG
from schedules.evaluate import evaluate
from schedules.expr import Read, walk

Array = NDArray[Any]


def random_inputs(dag: ComputeDAG, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {t.name: rng.standard_normal(t.shape, dtype=np.float32) for t in dag.inputs}


def result(task: Task, arrays: dict[str, Array]) -> Array:
    (output,) = evaluate(task.dag, arrays).values()
    return output


def heads_first(arrays: dict[str, Array], layout: str) -> list[Array]:
    """``q``, ``k`` and ``v`` in float64 as ``[batch, heads, positions..., depth]``."""
    wide = [arrays[name].astype(np.float64) for name in "qkv"]
    return wide if layout == "bhsd" else [np.moveaxis(x, -2, 1) for x in wide]


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def window_of(position: int, extent: int, window: int, dilation: int) -> Array:
    """The ``window`` positions of the same phase whose middle is nearest to ``position``."""
    phase = np.arange(position % dilation, extent, dilation)
    starts = range(len(phase) - window + 1)
    middle = min(starts, key=lambda s: abs(int(phase[s + window // 2]) - position))
    return phase[middle : middle + window]


def windowed(
    arrays: dict[str, Array], layout: str, window: list[int], dilation: list[int]
) -> Array:
    """One query after the other over the keys of its window; the result has heads first."""
    q, k, v = heads_first(arrays, layout)
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    out = np.zeros(q.shape)
    for position in np.ndindex(*q.shape[2:-1]):
        places = zip(position, q.shape[2:-1], window, dilation, strict=True)
        inside = np.ix_(*map(range, q.shape[:2]), *(window_of(*place) for place in places))
        keys, values = (x[inside].reshape(*q.shape[:2], -1, q.shape[-1]) for x in (k, v))
        here = (slice(None), slice(None), *position)
        scores = np.einsum("bhd,bhjd->bhj", q[here], keys) / math.sqrt(q.shape[-1])
        out[here] = np.einsum("bhj,bhjd->bhd", softmax(scores), values)
    return out


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [None, 2, 1])
def test_dense(layout: str, causal: bool, kv_heads: int | None) -> None:
    task = workloads.attention(4, 5, 7, 8, causal=causal, kv_heads=kv_heads, layout=layout)
    arrays = random_inputs(task.dag)
    q, k, v = heads_first(arrays, layout)
    k, v = (np.repeat(x, 4 // (kv_heads or 4), axis=1) for x in (k, v))
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(8)
    if causal:
        scores[..., np.arange(7) > np.arange(5)[:, None] + 2] = -np.inf
    expected = softmax(scores) @ v
    expected = expected if layout == "bhsd" else np.moveaxis(expected, 1, -2)
    found = result(task, arrays).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layouts_and_groups_change_nothing_of_the_plain_task() -> None:
    task = workloads.attention(4, 5, 5, 8)
    assert task.key == workloads.attention(4, 5, None, 8, kv_heads=4, layout="bhsd").key
    assert [s.name for s in task.dag.stages][-1] == "attended"
    assert [s.name for s in workloads.attention(4, 5, layout="bshd").dag.stages][-1] == "out"


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    """Extent, window, dilation: also windows that fill the axis and phases of two lengths."""
    window, dilation = draw(st.sampled_from([1, 3, 5, 9])), draw(st.integers(1, 3))
    return window * dilation + draw(st.integers(0, 7)), window, dilation


@settings(max_examples=40, deadline=None)
@given(st.lists(axes(), min_size=1, max_size=2), st.sampled_from([None, 1]), st.booleans())
def test_windows(over: list[tuple[int, int, int]], kv_heads: int | None, first: bool) -> None:
    sizes, window, dilation = (list(column) for column in zip(*over, strict=True))
    layout = "bhsd" if first else "bshd"
    task = workloads.attention(
        2, sizes, depth=3, window=window, dilation=dilation, kv_heads=kv_heads, layout=layout
    )
    arrays = random_inputs(task.dag)
    expected = windowed(arrays, layout, window, dilation)
    expected = expected if layout == "bhsd" else np.moveaxis(expected, 1, -2)
    found = result(task, arrays).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_window_that_is_the_axis_is_dense_attention() -> None:
    local, dense = workloads.attention(2, 9, depth=4, window=9), workloads.attention(2, 9, depth=4)
    arrays = random_inputs(dense.dag)
    np.testing.assert_allclose(result(local, arrays), result(dense, arrays), rtol=1e-5, atol=1e-6)


def test_nothing_outside_the_window_counts() -> None:
    """What no window of the left half contains may be anything, as if it were not read."""
    task = workloads.attention(1, 20, depth=4, window=7)
    arrays = random_inputs(task.dag)
    wild = {name: array.copy() for name, array in arrays.items()}
    for name in "kv":
        wild[name][:, :, 13:] = np.nan
    found, expected = (result(task, x).reshape(20, 4)[:10] for x in (wild, arrays))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("extent", "window", "dilation", "group"),
    [(56, 7, 1, 2), (56, 7, 2, 2), (12, 5, 1, 4), (256, 127, 1, 2), (256, 127, 2, 2)],
)
def test_neighbours_share_the_keys_that_fill_vectors(
    extent: int, window: int, dilation: int, group: int
) -> None:
    (span,) = spans("windows", [extent], [window], [dilation])
    assert grouping(span).group == group
    task = workloads.attention(1, extent, depth=4, window=window, dilation=dilation)
    arrays = random_inputs(task.dag)
    found = result(task, arrays).reshape(1, 1, extent, 4)
    expected = windowed(arrays, "bhsd", [window], [dilation])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("extent", "dilation"), [(57, 1), (57, 2), (7, 1)])
def test_neighbours_share_nothing_where_groups_leave_a_rest(extent: int, dilation: int) -> None:
    (span,) = spans("windows", [extent], [7], [dilation])
    assert grouping(span).group == 1


def test_memory_grows_with_the_window_only() -> None:
    def most(tokens: int) -> int:
        task = workloads.attention(1, tokens, depth=8, window=7)
        return max(math.prod(stage.shape) for stage in task.dag.stages)

    assert most(800) == pytest.approx(2 * most(400), rel=0.05)


def test_windows_add_few_operations() -> None:
    """Both products: two operations a key and channel, up to whole vectors of keys."""
    task = workloads.attention(4, (56, 56), depth=32, window=7)
    assert task.flop < 1.2 * 4 * 56 * 56 * 4 * 49 * 32


@pytest.mark.parametrize("window", [7, 127])
def test_keys_of_a_window_are_neighbours_in_memory(window: int) -> None:
    """Whatever the dilation: no stage of the products strides along a tap."""
    scores = workloads.attention(1, 800, window=window, dilation=3).dag.stage("scores")
    (keys,) = (r for r in scores.reads() if r.tensor == "keys")
    assert [isinstance(n, Read) for n in walk(keys)].count(True) == 1
    assert "mul" not in {getattr(node, "op", "") for node in walk(keys.indices[-1])}


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        ({"queries": 16, "window": 4}, "odd"),
        ({"queries": 16, "window": 17}, "do not fit"),
        ({"queries": 16, "window": 7, "dilation": 3}, "do not fit"),
        ({"queries": 16, "window": 7, "dilation": 0}, "dilation 0"),
        ({"queries": (8, 8), "window": (3, 3, 3)}, "other axes"),
        ({"queries": (8, 8, 8), "window": 3}, "one axis or two"),
        ({"queries": 16, "keys": 20, "window": 3}, "no other keys"),
        ({"queries": 16, "window": 3, "causal": True}, "no mask"),
        ({"queries": (8, 8)}, "windows only"),
        ({"queries": 8, "dilation": 2}, "windows only"),
        ({"queries": 8, "kv_heads": 3}, "divide"),
        ({"queries": 8, "layout": "sbhd"}, "no layout"),
        ({"queries": 8, "depth": 4.5}, "q has shape"),
        ({"queries": 0}, "q has shape"),
    ],
)
def test_refuses(wrong: dict[str, Any], because: str) -> None:
    with pytest.raises(InputError, match=because):
        workloads.attention(4, **wrong)


def test_a_mask_hides_nothing_from_a_single_query() -> None:
    one = workloads.attention(2, 1, 9, causal=True)
    assert one.dag == workloads.attention(2, 1, 9).dag
    assert workloads.attention(2, 2, 9, causal=True).dag != workloads.attention(2, 2, 9).dag
