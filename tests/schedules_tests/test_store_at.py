"""Storage further outside than computation: what several iterations leave, others read later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from brute_force import disagreements
from built import Case
from small_tasks import HARDWARE

from ansor_lite import workloads
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.errors import ScheduleError
from schedules.expr import Axis, Call, Const, Expr, Read
from schedules.nest import follow
from schedules.sketch import closed
from schedules.steps import Annotate, ComputeAt, Reorder, Step, StoreAt, Tile
from schedules.text import loop_nest_text

EMPTY = np.zeros((1, 0), dtype=np.int32)
F = "float32"


def _softmax() -> ComputeDAG:
    """Stages ``peak``, ``powers``, ``total``, ``shares`` of ``[7, 12]``."""
    return workloads.softmax(7, 12).dag


def _kept(rows: int, tile: int, place: str) -> tuple[Step, ...]:
    """``powers``, computed inside loops of ``total``, kept for a tile of rows of ``shares``."""
    return (
        Tile("shares", "i", (rows,)),
        Reorder("shares", ("i.0", "i.1", "j.0")),
        Tile("total", "i", (tile,)),
        Tile("total", "j", (4,)),
        Reorder("total", ("i.0", "i.1", "j.0", "j.1")),
        ComputeAt("total", "shares", "i.0"),
        ComputeAt("powers", "total", place),
        StoreAt("powers", "shares", "i.0"),
    )


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("tile", [1, 2])
@pytest.mark.parametrize("place", ["i.0", "j.0", "i.1", "j.1"])
def test_what_iterations_leave_is_read_afterwards(rows: int, tile: int, place: str) -> None:
    dag = _softmax()
    steps = _kept(rows, tile, place)
    found = disagreements(closed(dag, steps), EMPTY, HARDWARE)
    assert not found, found[0]
    assert Case(dag, HARDWARE).error(steps) < 1e-5
    nest = follow(closed(dag, steps), EMPTY)
    powers = next(stage for stage in nest.stages if stage.stage == "powers")
    assert powers.allocated_bytes.tolist() == [rows * 12 * 4]
    assert powers.allocated_at == 1


def _window(reach: int, stride: int = 1) -> ComputeDAG:
    """``a = x + 1; b[i] = a[stride * i]; d[i] = a[i + reach]; c = b + d``, all with rows ``r``."""

    def stage(name: str, body: Expr, extent: int) -> Stage:
        return Stage(name, (IterAxis("r", 3), IterAxis("i", extent)), body, F)

    def read(tensor: str, factor: int = 1, constant: int = 0) -> Read:
        index: Expr = Call("mul", (Axis("i"), Const(factor, "int64")), "int64")
        index = Call("add", (index, Const(constant, "int64")), "int64")
        return Read(tensor, (Axis("r"), index), F)

    a = stage("a", Call("add", (read("x"), Const(1.0, F)), F), 20)
    b = stage("b", read("a", stride), 8)
    d = stage("d", read("a", 1, reach), 8)
    c = stage("c", Call("add", (read("b"), read("d")), F), 8)
    return ComputeDAG((Tensor("x", (3, 20), F),), (a, b, d, c), ("c",))


D_FOR_A_ROW = ComputeAt("d", "c", "r.0")
A_INSIDE_B = (ComputeAt("a", "b", "i.0"), StoreAt("a", "c", "r.0"))
WINDOW = (D_FOR_A_ROW, ComputeAt("b", "c", "r.0"), *A_INSIDE_B)


def test_a_reader_wants_exactly_what_is_computed() -> None:
    assert Case(_window(0), HARDWARE).error(WINDOW) == 0
    assert not disagreements(closed(_window(0), WINDOW), EMPTY, HARDWARE)


@pytest.mark.parametrize("loop", ["i.0", "r.0", "i.1"])
def test_without_a_reader_inside_axes_say_what_is_computed(loop: str) -> None:
    """``d`` reads what is computed inside ``b`` for it alone."""
    around = (Tile("b", "i", (3,)), Reorder("b", ("i.0", "r.0", "i.1")), *WINDOW[:2])
    steps = (*around, ComputeAt("a", "b", loop), StoreAt("a", "c", "r.0", ("r", "i")))
    dag = _window(0)
    b = replace(dag.stage("b"), body=Read("x", (Axis("r"), Axis("i")), F))
    dag = replace(dag, stages=tuple(b if s.name == "b" else s for s in dag.stages))
    found = disagreements(closed(dag, steps), EMPTY, HARDWARE)
    assert not found, found[0]
    assert Case(dag, HARDWARE).error(steps) == 0


def _outside_of_all_loops(*steps: Step) -> tuple[Step, ...]:
    """``powers``, computed for a row of ``total``, kept for the nest of ``shares``."""
    at = (ComputeAt("powers", "total", "i.0"), StoreAt("powers", "total", ""))
    return (*steps, Annotate("total", ("i.0",), "parallel"), *at)


def test_without_a_loop_it_is_kept_outside_of_all() -> None:
    dag, steps = _softmax(), _outside_of_all_loops()
    found = disagreements(closed(dag, steps), EMPTY, HARDWARE)
    assert not found, found[0]
    assert Case(dag, HARDWARE).error(steps) < 1e-5
    nest = follow(closed(dag, steps), EMPTY)
    powers = next(stage for stage in nest.stages if stage.stage == "powers")
    assert powers.allocated_bytes.tolist() == [7 * 12 * 4]
    assert powers.allocated_at == 0
    assert "# powers, kept outside of all loops" in loop_nest_text(closed(dag, steps))


REFUSED: dict[str, tuple[ComputeDAG, tuple[Step, ...], str]] = {
    "nowhere": (_softmax(), (StoreAt("powers", "shares", "i.0"),), "it is not computed at a loop"),
    "no such loop": (_window(0), (*WINDOW[:3], StoreAt("a", "c", "z.0")), "has no loop 'z.0'"),
    "elsewhere": (
        _softmax(),
        (ComputeAt("peak", "powers", "i.0"), StoreAt("peak", "shares", "i.0")),
        "not computed inside 'i.0' of 'shares'",
    ),
    "outside of another stage": (
        _softmax(),
        (ComputeAt("peak", "powers", "i.0"), StoreAt("peak", "shares", "")),
        "not computed inside '' of 'shares'",
    ),
    "accumulated by several threads": (
        _softmax(),
        (
            Annotate("powers", ("i.0",), "parallel"),
            ComputeAt("peak", "powers", "i.0"),
            StoreAt("peak", "powers", ""),
        ),
        "threads would accumulate in the same place",
    ),
    "read outside": (_window(0), WINDOW[:3], "consumer 'd' is outside 'i.0'"),
    "read before": (
        _window(0),
        (D_FOR_A_ROW, ComputeAt("b", "c", "i.0"), *A_INSIDE_B),
        "consumer 'd' runs before 'i.0'",
    ),
    "read beyond": (_window(1), WINDOW, "store_at of 'a': 'd' reads more than is computed"),
    "axes of two": (
        _window(0),
        (*WINDOW[:3], StoreAt("a", "c", "r.0", ("r", "i"))),
        "a reader says what is computed",
    ),
    "gaps": (_window(0, 2), WINDOW, "store_at of 'a': the iterations leave gaps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_because(name: str) -> None:
    dag, steps, reason = REFUSED[name]
    with pytest.raises(ScheduleError, match=reason):
        follow(closed(dag, steps), EMPTY)
