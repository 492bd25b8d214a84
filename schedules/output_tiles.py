"""Outputs counted by tiles: two axes where the tensor has one dimension, in the same memory.

What is computed tile by tile, the pieces of all tiles at once, is so written in place. A last tile
that is not full starts further ahead and shares elements with the one before, to whom they belong:
``lower/versions.py`` leaves them out of the last tile. Separate because rewrites (``quarters.py``,
``minimal_filtering.py``) and lowering must mean the same elements.
"""

from __future__ import annotations

from dataclasses import replace

from schedules.dag import ComputeDAG, IterAxis
from schedules.errors import ScheduleError
from schedules.expr import INDEX_DTYPE, Axis, Call, Const, Expr, rebuild
from schedules.steps import SplitAxis

# What the two axes are called, behind the name of the one that they count.
PARTS = ("tile", "rest")


def tile_stride(extent: int, factor: int) -> int:
    """How far tiles of ``factor`` elements are apart: full ones, or two that share some."""
    return min(factor, extent - factor)


def tile_and_rest(index: Expr, extent: int, factor: int) -> tuple[Expr, Expr]:
    """The tile of an element of an axis of ``extent``, and its place there."""
    tile = _call("floordiv", index, factor)
    stride = tile_stride(extent, factor)
    if stride == factor:
        return tile, _call("floormod", index, factor)
    return tile, Call("sub", (index, _call("mul", tile, stride)), INDEX_DTYPE)


def split_axis(dag: ComputeDAG, step: SplitAxis) -> ComputeDAG:
    """Count an axis of an output by two; the tensor keeps its memory, if not its dimensions."""
    what = f"split_axis of {step.stage!r}"
    stage = dag.by_name.get(step.stage)
    if stage is None:
        raise ScheduleError(f"there is no stage {step.stage!r}")
    axis = next((a for a in stage.spatial if a.name == step.axis), None)
    if axis is None:
        raise ScheduleError(f"{what}: there is no spatial axis {step.axis!r}")
    if stage.name not in dag.outputs or dag.consumers[stage.name]:
        raise ScheduleError(f"{what}: it is not an output alone")
    whole, _, part = axis.name.rpartition(".")
    if part in PARTS and all(f"{whole}.{p}" in {a.name for a in stage.axes} for p in PARTS):
        raise ScheduleError(f"{what}: {axis.name!r} is a part already")
    tiles = -(-axis.extent // max(1, step.factor))
    if step.factor < 1 or (axis.extent % step.factor and tiles != 2):
        raise ScheduleError(f"{what}: {tiles} tiles of {step.factor} are not {axis.extent}")
    extents = (tiles, step.factor)
    tile, rest = (IterAxis(f"{axis.name}.{p}", e) for p, e in zip(PARTS, extents, strict=True))
    stride = tile_stride(axis.extent, step.factor)
    value = Call("add", (_call("mul", Axis(tile.name), stride), Axis(rest.name)), INDEX_DTYPE)

    def change(node: Expr) -> Expr | None:
        """Children come first, so that the place may be seen with the tile in it."""
        if node == Axis(axis.name):
            return value
        if node == tile_of_value:
            return Axis(tile.name)
        return Axis(rest.name) if node == place_of_value else None

    tile_of_value, place = tile_and_rest(value, axis.extent, step.factor)
    found: dict[Expr, Expr] = {tile_of_value: Axis(tile.name)}
    place_of_value = rebuild(place, found.get)
    at = stage.axes.index(axis)
    axes = (*stage.axes[:at], tile, rest, *stage.axes[at + 1 :])
    new = replace(stage, axes=axes, body=rebuild(stage.body, change))
    return replace(dag, stages=tuple(new if s is stage else s for s in dag.stages))


def _call(op: str, index: Expr, number: int) -> Expr:
    return Call(op, (index, Const(number, INDEX_DTYPE)), INDEX_DTYPE)
