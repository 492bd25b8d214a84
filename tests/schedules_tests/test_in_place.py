"""Rows that are computed where the output stands: when, and when not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG
from schedules.expr import Axis, Call, Const, Read
from schedules.hardware import Hardware
from schedules.lower.in_place import stored_in_place
from schedules.lower.linear import Positions
from schedules.nest import Follower
from schedules.sketch import closed
from schedules.steps import ComputeAt, Reorder, Step, Tile

# 4 rows of 64 columns do not fit its registers, 8 rows not its nearest cache.
SMALL = replace(HARDWARE, vector_bytes=16, vector_registers=16, l1_bytes=1024)


def _shares(rows: int = 8, columns: int = 64) -> ComputeDAG:
    """Rows of powers divided by their sum: stages ``peak``, ``powers``, ``total``, ``shares``."""
    return workloads.softmax(rows, columns).dag


def _by_rows(tile: int, columns: int = 16, **places: str) -> tuple[Step, ...]:
    """All stages for a tile of rows of ``shares``, or where ``places`` says."""
    at = {name: "i.0" for name in ("peak", "powers", "total")} | places
    return (
        Tile("shares", "i", (tile,)),
        Tile("shares", "j", (columns,)),
        Reorder("shares", ("i.0", "i.1", "j.0", "j.1")),
        *(ComputeAt(name, "shares", at[name]) for name in ("total", "powers", "peak")),
    )


def _found(dag: ComputeDAG, steps: tuple[Step, ...], hardware: Hardware = SMALL) -> dict[str, str]:
    follower = Follower(closed(dag, steps), np.zeros((1, 0), dtype=np.int32))
    outputs = {name: dag.shape_of(name) for name in dag.outputs}
    return stored_in_place(follower.plan, Positions(follower), outputs, hardware)


@pytest.mark.parametrize("tile", [2, 4])
def test_rows_that_are_rewritten_once_take_no_memory(tile: int) -> None:
    dag, steps = _shares(), _by_rows(tile)
    assert _found(dag, steps) == {"powers": "shares"}
    assert Case(dag, SMALL).error(steps) < 1e-6


@pytest.mark.parametrize("tile", [3, 5])
def test_refuses_because_shifted_tiles_of_rows_rewrite_twice(tile: int) -> None:
    assert _found(_shares(), _by_rows(tile)) == {}


def test_refuses_because_shifted_tiles_of_columns_rewrite_twice() -> None:
    dag, steps = _shares(), _by_rows(4, columns=24)
    assert _found(dag, steps) == {}
    assert Case(dag, SMALL).error(steps) < 1e-6


def test_refuses_because_registers_or_the_cache_are_the_better_place() -> None:
    assert _found(_shares(), _by_rows(1)) == {}
    assert _found(_shares(), _by_rows(8)) == {}


@pytest.mark.parametrize(("place", "found"), [("i.0", {"powers": "shares"}), ("j.0", {})])
def test_refuses_because_another_reader_is_not_through(place: str, found: dict[str, str]) -> None:
    steps = (
        Reorder("shares", ("i.0", "j.0")),
        ComputeAt("total", "shares", place),
        ComputeAt("powers", "shares", "i.0"),
        ComputeAt("peak", "shares", "i.0"),
    )
    assert _found(_shares(8, 128), steps) == found


@pytest.mark.parametrize("shift", [0, 1])
def test_refuses_because_another_element_is_read(shift: int) -> None:
    """``shares[i, j]`` reads ``powers[i, 63 - j]``."""
    dag = _shares()
    shares = dag.stage("shares")
    mirrored = Call("sub", (Const(63, "int64"), Axis("j")), "int64")
    places = (Axis("i"), mirrored if shift else Axis("j"))
    body = Call("mul", (Read("powers", places, "float32"), Read("total", (Axis("i"),), "float32")),
                "float32")  # fmt: skip
    changed = tuple(replace(s, body=body) if s is shares else s for s in dag.stages)
    dag = replace(dag, stages=changed)
    assert _found(dag, _by_rows(4)) == ({} if shift else {"powers": "shares"})
    assert Case(dag, SMALL).error(_by_rows(4)) < 1e-5
