"""Schedules that are built and run: every sketch computes what the unscheduled program computes."""

from __future__ import annotations

import numpy as np
import pytest
from built import Case
from small_tasks import HARDWARE, ODD, ODD_TASKS, SMALL

from schedules.dag import REDUCE, ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Call, Const, Read
from schedules.lower import lower
from schedules.nest import effective_steps
from schedules.steps import Annotate, Tile
from search_space.sketch_generation import default_steps, generate_sketches

TOLERANCE = 1e-5
F = "float32"


@pytest.mark.parametrize("name", SMALL)
def test_every_sketch_computes_the_same(name: str) -> None:
    case = Case(SMALL[name](), HARDWARE)
    rng = np.random.default_rng(0)
    assert case.error(()) < TOLERANCE
    for sketch in generate_sketches(case.dag, HARDWARE)[:8]:
        steps = effective_steps(sketch, sketch.random(1, rng)[0])
        assert case.error(steps) < TOLERANCE, (sketch.name, steps)


@pytest.mark.parametrize("extent", ODD)
@pytest.mark.parametrize("name", ODD_TASKS)
def test_the_default_schedule_exists_and_is_right(name: str, extent: int) -> None:
    case = Case(ODD_TASKS[name](extent), HARDWARE)
    assert case.error(default_steps(case.dag, HARDWARE)) < TOLERANCE


def _row(name: str, source: str, operation: str) -> Stage:
    value = Call(operation, (Read(source, (Axis("i"),), F), Const(3.0, F)), F)
    return Stage(name, (IterAxis("i", 7),), value, F)


def test_overlapping_tiles_are_not_computed_in_place() -> None:
    """The last tile of ``b`` computes 4 elements again; ``a`` must still be there to read."""
    stages = (_row("a", "x", "add"), _row("b", "a", "mul"), _row("c", "b", "sub"))
    case = Case(ComputeDAG((Tensor("x", (7,), F),), stages, ("c",)), HARDWARE)
    tiles = tuple(Tile(s, "i", (5,)) for s in "abc")
    assert case.error(tiles) < TOLERANCE


def test_ragged_tiles_around_a_reduction_add_nothing_twice() -> None:
    axes = (IterAxis("i", 7), IterAxis("k", 6, REDUCE))
    total = Stage("s", axes, Read("x", (Axis("i"), Axis("k")), F), F, "sum")
    case = Case(ComputeDAG((Tensor("x", (7, 6), F),), (total,), ("s",)), HARDWARE)
    steps = (Tile("s", "i", (4,)), Tile("s", "k", (3,)))
    assert case.error(steps) < TOLERANCE


def _halves(size: int) -> ComputeDAG:
    """Per row, in groups of ``size``: the first half of ``x`` and ones."""
    rows, columns = IterAxis("i", 64), IterAxis("j", 64)
    place = Call("floormod", (Axis("j"), Const(size, "int64")), "int64")
    second_half = Call("le", (Const(size // 2, "int64"), place), "bool")
    value = Call("select", (second_half, Const(1.0, F), Read("x", (Axis("i"), place), F)), F)
    return ComputeDAG(
        (Tensor("x", (64, size), F),), (Stage("y", (rows, columns), value, F),), ("y",)
    )


@pytest.mark.parametrize("size", (8, 16, 32))
def test_a_position_within_a_group_starts_again_with_each_group(size: int) -> None:
    """LLVM's loop vectorizer read on behind the first group: see ``CODE_GENERATION``."""
    case = Case(_halves(size), HARDWARE)
    for steps in ((), default_steps(case.dag, HARDWARE)):
        assert case.error(steps) == 0.0


@pytest.mark.parametrize(("size", "uniform"), ((32, True), (16, False), (40, False)))
def test_a_half_of_whole_vectors_is_no_question_of_the_lane(size: int, uniform: bool) -> None:
    steps = (Tile("y", "j", (16,)), Annotate("y", ("j.1",), "vectorize"))
    text = lower(_halves(size), steps, HARDWARE).func.script()
    condition = text.split("if_then_else(")[1].split(",")[0]
    assert ("j_1" not in condition) == uniform
    assert Case(_halves(size), HARDWARE).error(steps) == 0.0


@pytest.mark.parametrize("combiner", ("sum", "max", "min", "prod"))
def test_every_combiner(combiner: str) -> None:
    axes = (IterAxis("i", 3), IterAxis("k", 4, REDUCE))
    stage = Stage("s", axes, Read("x", (Axis("i"), Axis("k")), F), F, combiner)
    case = Case(ComputeDAG((Tensor("x", (3, 4), F),), (stage,), ("s",)), HARDWARE)
    assert case.error(()) < TOLERANCE


def test_constant_operands_are_packed_outside_the_function() -> None:
    """The parameter has the packed shape, and packing keeps the values."""
    dag = SMALL["matmul"]()
    weight = next(t for t in dag.inputs if t.constant and len(t.shape) == 2)
    lowered = lower(dag, default_steps(dag, HARDWARE), HARDWARE)
    packing = lowered.packs[weight.name]
    array = np.arange(np.prod(weight.shape), dtype=F).reshape(weight.shape)
    packed = packing.apply(array)
    assert packed.shape == packing.shape
    assert packed.flags["C_CONTIGUOUS"]
    assert set(packed.ravel().tolist()) == set(array.ravel().tolist())
    position = [t.name for t in dag.inputs].index(weight.name)
    assert tuple(int(s) for s in lowered.func.params[position].shape) == packing.shape


@pytest.mark.parametrize(("combiner", "extreme"), [("max", -np.inf), ("min", np.inf)])
def test_the_extreme_of_infinities_is_infinite(combiner: str, extreme: float) -> None:
    axes = (IterAxis("i", 5), IterAxis("k", 3, REDUCE))
    found = Stage("s", axes, Read("x", (Axis("i"), Axis("k")), F), F, combiner)
    case = Case(ComputeDAG((Tensor("x", (5, 3), F),), (found,), ("s",)), HARDWARE)
    case.arrays["x"][:] = extreme
    assert (case.run(())["s"] == extreme).all()
