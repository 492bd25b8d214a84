"""Constants are packed part by part, into memory that the caller may bring."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schedules.lower.packing import Packing, unpacked_constant

shapes = st.lists(st.integers(1, 40), max_size=3).map(tuple)


@given(shapes, st.randoms())
def test_packing_picks_every_element_by_its_indices(shape, random):
    array = np.arange(60, dtype=np.float32).reshape(5, 12)
    sparse = [tuple(n if random.random() < 0.7 else 1 for n in shape) for _ in array.shape]
    indices = tuple(
        np.array([random.randrange(n) for _ in range(int(np.prod(s)))], np.int64).reshape(s)
        for n, s in zip(array.shape, sparse, strict=True)
    )
    packing = Packing(shape, indices)
    out = np.zeros(shape, np.float32)
    assert packing.apply(array, out) is out
    np.testing.assert_array_equal(out, np.broadcast_to(array[indices], shape))
    np.testing.assert_array_equal(packing.apply(array), out)


@given(shapes)
def test_an_unpacked_constant_is_copied(shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    packed = unpacked_constant(shape).apply(array)
    np.testing.assert_array_equal(packed, array)
    assert not np.shares_memory(packed, array)
