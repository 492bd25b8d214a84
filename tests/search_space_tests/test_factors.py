"""Tile sizes: what knobs offer is legal and complete."""

from __future__ import annotations

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from search_space.factors import (
    divisors,
    multiples,
    register_tiles,
    unroll_factors,
    usual_multiple,
    waste,
)

_extent = st.integers(1, 2000)


@given(_extent, st.integers(1, 64))
def test_multiples_end_with_the_whole_extent(extent: int, tile: int) -> None:
    found = [m for (m,) in multiples(extent, tile)]
    assert found == sorted(set(found))
    assert found[-1] * tile >= extent
    assert all(m * tile < extent for m in found[:-1])


@given(_extent)
def test_divisors_divide(extent: int) -> None:
    found = divisors(extent)
    assert found[0] == 1
    assert found[-1] == extent
    assert all(extent % d == 0 for d in found)


@given(st.lists(_extent, min_size=1, max_size=4).map(tuple), st.integers(1, 64))
def test_unrolled_factors_divide_and_stay_below_the_limit(
    extents: tuple[int, ...], limit: int
) -> None:
    found = unroll_factors(extents, limit)
    assert found[0] == (1,) * len(extents)
    assert len(set(found)) == len(found)
    for factors in found:
        assert prod(factors) <= limit or prod(factors) == max(factors) <= 7
        assert all(e % f == 0 for e, f in zip(extents, factors, strict=True))


@given(_extent, st.integers(1, 64))
def test_waste_is_one_exactly_where_tiles_divide(extent: int, tile: int) -> None:
    assert waste(extent, tile) >= 1
    assert (waste(extent, tile) == 1) == (extent % tile == 0)


@given(
    st.lists(_extent, max_size=2).map(tuple),
    st.integers(1, 512),
    st.sampled_from((1, 2, 4, 8, 16)),
    st.sampled_from((16, 32)),
)
def test_register_tiles_fit_the_registers(
    rows: tuple[int, ...], columns: int, lanes: int, registers: int
) -> None:
    found = register_tiles(rows, columns, lanes, registers, 4)
    assert found
    assert len(set(found)) == len(found)
    for *tiles, vectors in found:
        assert prod(tiles) * vectors + vectors + 1 <= registers
        assert all(t <= e for t, e in zip(tiles, rows, strict=True))
        assert vectors == 1 or vectors * lanes <= columns


def test_register_tiles_hide_the_latency_where_they_can() -> None:
    tiles = register_tiles((56, 56), 64, 16, 32, 4)
    assert all(prod(t) >= 4 for t in tiles)
    assert register_tiles((1,), 16, 16, 32, 4) == ((1, 1),)


def test_one_short_axis_is_unrolled_whole() -> None:
    """A row of a 7x7 window, but neither both rows nor a long axis."""
    assert (1, 7) in unroll_factors((7, 7), 4)
    assert (7, 7) not in unroll_factors((7, 7), 4)
    assert (1, 9) not in unroll_factors((9, 9), 4)


@given(_extent, st.integers(1, 64), st.sampled_from((3, 4)))
def test_a_usual_multiple_wastes_no_more_than_others_near_it(
    extent: int, tile: int, usual: int
) -> None:
    def lost(multiple: int) -> float:
        return waste(extent, min(multiple * tile, extent))

    choices = multiples(extent, tile)
    found = choices[usual_multiple(choices, extent, tile, usual)][0]
    near = [m for (m,) in choices if usual <= 2 * m and m <= 2 * usual]
    assert found in near or not near
    assert all(lost(found) <= lost(m) for m in near)
