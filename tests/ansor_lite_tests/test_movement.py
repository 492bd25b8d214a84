"""A chain of reshapes and transpositions is one movement with the same effect."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ansor_lite.graph.movement import Movement, stay


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    source, steps = shape, []
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            axes = tuple(draw(st.permutations(range(len(shape)))))
            steps.append(("transpose", axes))
            shape = tuple(shape[a] for a in axes)
        else:
            at = draw(st.integers(0, len(shape) - 1))
            split = draw(st.sampled_from([d for d in (1, 2, 3) if shape[at] % d == 0]))
            shape = (*shape[:at], split, shape[at] // split, *shape[at + 1 :])
            if draw(st.booleans()):
                at = draw(st.integers(0, len(shape) - 2))
                shape = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
            steps.append(("reshape", shape))
    return source, steps


@settings(max_examples=200, deadline=None)
@given(chains())
def test_one_movement_does_what_the_chain_does(chain: Any) -> None:
    source, steps = chain
    data = expected = np.arange(int(np.prod(source))).reshape(source)
    movement: Movement | None = stay(source)
    for kind, numbers in steps:
        assert movement is not None
        if kind == "transpose":
            expected, movement = expected.transpose(numbers), movement.transposed(numbers)
        else:
            expected, movement = expected.reshape(numbers), movement.reshaped(numbers)
        if movement is None:  # the reshape cuts across a transposition
            return
    found = movement.joined()
    moved = data.reshape(found.atoms).transpose(found.order).reshape(found.shape)
    np.testing.assert_array_equal(moved, expected)
    assert movement.is_view == (expected.reshape(-1).tolist() == data.reshape(-1).tolist())
    axes = movement.axes(source)
    assert axes is None or data.transpose(axes).tolist() == expected.tolist()


def test_a_reshape_across_the_order_of_elements_is_no_movement() -> None:
    assert stay((2, 3)).transposed((1, 0)).reshaped((2, 3)) is None


def test_transpositions_undo_each_other() -> None:
    there = stay((1, 4, 5, 6)).transposed((0, 2, 3, 1))
    assert there.transposed((0, 3, 1, 2)).is_view
    assert there.axes((1, 4, 5, 6)) == (0, 2, 3, 1)
