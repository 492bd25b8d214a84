"""Where elements of an output lie that is counted by tiles, and which of them a tile leaves out.

Read ``schedules/output_tiles.py`` first. Separate from ``program.py``: this is arithmetic on sums
of loop offsets, without TVM.
"""

from __future__ import annotations

from schedules.lower.linear import Linear, Positions
from schedules.output_tiles import tile_stride
from schedules.plan import StagePlan


def joined(places: list[Linear], extents: tuple[int, ...], shape: tuple[int, ...]) -> list[Linear]:
    """Places in ``shape`` of an element whose dimensions an axis may count by parts."""
    parts = zip(places, extents, strict=True)
    result: list[Linear] = []
    for size in shape:
        place, covered = next(parts)
        while covered < size:
            part, extent = next(parts)
            place = part.plus(place, tile_stride(size, extent))
            covered *= extent
        result.append(place)
    return result


def owned(stage: StagePlan, positions: Positions, shape: tuple[int, ...]) -> list[Linear]:
    """What must not be negative for ``stage`` to write an element of its output of ``shape``.

    Of two tiles that share elements, these belong to the first one.
    """
    axes = iter(stage.stage.spatial)
    result: list[Linear] = []
    for size in shape:
        tile = next(axes)
        covered = tile.extent
        while covered < size:
            rest = next(axes)
            covered *= rest.extent
        if covered > size:
            place = positions.axis(stage, rest.name)
            result.append(place.plus(positions.axis(stage, tile.name), size - covered))
    return result
