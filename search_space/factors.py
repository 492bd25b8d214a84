"""Lists of tile sizes: the choices of knobs."""

from __future__ import annotations

from itertools import product

# Multiples of the next inner tile; clipped to the extent by the tile rule, so any may be drawn.
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64, 96, 128)


def multiples(extent: int, smallest_tile: int = 1) -> tuple[tuple[int, ...], ...]:
    """How many inner tiles an outer one may hold, the last one being the whole extent."""
    most = -(-extent // smallest_tile)
    return (*((m,) for m in MULTIPLES if m < most), (most,))


def divisors(extent: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, extent + 1) if extent % d == 0)


def unroll_factors(extents: tuple[int, ...], limit: int) -> tuple[tuple[int, ...], ...]:
    """Inner factors of the reduce axes whose product is at most ``limit``.

    A factor is a small divisor, or the whole of a short axis: one of those may pass the limit.
    """
    per_axis = [
        tuple(d for d in divisors(e) if d <= 4 or (d == e and d <= 7)) if e < 10_000 else (1, 2, 4)
        for e in extents
    ]
    per_axis = [
        tuple(d for d in options if e % d == 0)
        for options, e in zip(per_axis, extents, strict=True)
    ]
    found = []
    for factors in product(*per_axis):
        total = 1
        for f in factors:
            total *= f
        if total <= limit or total == max(factors):
            found.append((total, factors))
    return tuple(factors for _, factors in sorted(found))


def waste(extent: int, tile: int) -> float:
    """Iterations done over iterations needed when tiles of this size cover the extent."""
    return -(-extent // tile) * tile / extent


def usual_multiple(choices: tuple[tuple[int, ...], ...], extent: int, tile: int, usual: int) -> int:
    """The number of the choice that a good guess takes: about ``usual`` tiles that waste little.

    Half as many to twice as many; of those that waste the same the nearest.
    """

    def loss(i: int) -> tuple[bool, float, int]:
        multiple = choices[i][0]
        near = usual <= 2 * multiple and multiple <= 2 * usual
        return not near, waste(extent, min(multiple * tile, extent)), abs(multiple - usual)

    return min(range(len(choices)), key=loss)


def register_tiles(
    rows: tuple[int, ...], columns: int, lanes: int, registers: int, latency: int
) -> tuple[tuple[int, ...], ...]:
    """``(*row tiles, vectors)`` whose accumulators fit the vector registers.

    ``rows``: extents of the row axes, innermost last; ``columns``: extent of the vector axis. At
    least ``latency`` accumulators hide the latency of a multiply-add, if the extents admit them.
    """
    most_vectors = max(1, columns // lanes)
    found: list[tuple[float, tuple[int, ...]]] = []
    for vectors in (v for v in (1, 2, 3, 4, 6, 8) if v <= most_vectors):
        for tiles in product(*(_row_sizes(e) for e in rows)):
            accumulators = vectors
            lost = waste(columns, vectors * lanes)
            for extent, tile in zip(rows, tiles, strict=True):
                accumulators *= tile
                lost *= waste(extent, tile)
            if accumulators + vectors + 1 <= registers:
                found.append((lost if accumulators >= latency else 4 * lost, (*tiles, vectors)))
    best = min(lost for lost, _ in found)
    kept = [tiles for lost, tiles in found if lost <= 1.4 * best]
    return tuple(sorted(kept, key=lambda t: (t[-1], t)))


def _row_sizes(extent: int) -> tuple[int, ...]:
    return tuple(
        t for t in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 16, 20, 24, 28) if t <= extent
    )
