"""Stages without reuse: producers computed row by row, accumulators in registers."""

from __future__ import annotations

import numpy as np
import pytest
from small_tasks import SMALL

from ansor_lite import workloads as w
from ansor_lite.tasks import Task
from schedules.dag import ComputeDAG, IterAxis, Stage, Tensor
from schedules.expr import Axis, Read
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.sketch import Sketch
from schedules.steps import Tile
from search_space.sketch_generation import generate_sketches

HARDWARE = Hardware(threads=2)


def _names(dag: ComputeDAG) -> list[str]:
    return [sketch.name for sketch in generate_sketches(dag, HARDWARE)]


def _largest(sketch: Sketch, rows: int) -> int:
    """Bytes of the largest intermediate tensor when ``rows`` rows are computed at a time."""
    choices = np.zeros((1, len(sketch.knobs)), dtype=np.int32)
    for n, knob in enumerate(sketch.knobs):
        if knob.name.endswith(".rows"):
            choices[0, n] = knob.choices.index((rows,))
    return max(int(s.allocated_bytes[0]) for s in follow(sketch, choices).stages)


def test_fused_rows_keep_a_few_rows_in_memory() -> None:
    sketches = generate_sketches(w.softmax(8, 128).dag, HARDWARE)
    fused = next(s for s in sketches if s.name.endswith("rows-fused"))
    assert [_largest(fused, rows) for rows in (1, 4)] == [4 * 128, 4 * 4 * 128]
    apart = next(s for s in sketches if "rows" not in s.name)
    assert _largest(apart, 1) == 4 * 8 * 128


def test_rows_that_fill_the_machine_are_fused() -> None:
    """Short rows and few rows may be faster in nests of their own."""
    together = ("rows-fused", "rows-skewed")
    assert all(name.endswith(together) for name in _names(w.softmax(64, 128).dag))
    for rows, columns in ((64, 8), (8, 128)):
        names = _names(w.softmax(rows, columns).dag)
        fused = [name.endswith(together) for name in names]
        assert any(fused), names
        assert not all(fused), names


@pytest.mark.parametrize(("rows", "most"), [(2, 1), (5, 2), (64, 8)])
def test_every_thread_has_rows(rows: int, most: int) -> None:
    sketch = generate_sketches(w.softmax(rows, 128).dag, HARDWARE)[0]
    (knob,) = (knob for knob in sketch.knobs if knob.name.endswith(".rows"))
    assert max(knob.choices) == (most,)


def test_neighbours_are_added_one_row_after_the_other() -> None:
    """Vectors of one element of several rows would be gathered."""
    for sketch in generate_sketches(w.layer_norm(64, 256).dag, HARDWARE):
        lanes = [p for p in sketch.plan.stages if any(a.name == "j.lane" for a in p.stage.reduce)]
        assert lanes
        assert not any("vectorize" in p.annotations.values() for p in lanes)


@pytest.mark.parametrize(("columns", "scope"), [(128, "local"), (4096, "global")])
def test_short_rows_need_no_allocator(columns: int, scope: str) -> None:
    sketch = generate_sketches(w.softmax(64, columns).dag, HARDWARE)[0]
    assert sketch.plan.by_name["powers"].scope == scope


def test_one_row_is_not_fused() -> None:
    """Nothing would be left for the other threads."""
    assert not any("rows-fused" in name for name in _names(w.softmax(1, 4096).dag))


def test_tiled_products_stay_out_of_the_rows() -> None:
    """Both products of attention are tiled, whatever happens to the rows between them."""
    for sketch in generate_sketches(SMALL["attention"](), HARDWARE):
        local = [p for p in sketch.plan.stages if p.scope == "local" and p.stage.reduce]
        products = [p for p in local if len(p.accesses) == 2]
        assert len(products) == 2, sketch.name


@pytest.mark.parametrize("name", ("max_pool", "average_pool", "norm"))
def test_reductions_accumulate_inside_a_vector_of_the_result(name: str) -> None:
    for sketch in generate_sketches(SMALL[name](), HARDWARE):
        reducing = [p for p in sketch.plan.stages if p.stage.combiner is not None]
        assert all(p.attached is not None or p.stage.name.count(".") for p in reducing)


def test_small_kernels_stay_on_one_thread() -> None:
    def kinds(task: Task) -> set[str]:
        sketch = generate_sketches(task.dag, HARDWARE)[0]
        nest = follow(sketch, sketch.random(1, np.random.default_rng(0)))
        return {loop.annotation for s in nest.stages for loop in s.loops}

    assert "parallel" not in kinds(w.pool2d(1, 4, 4, 32, 2, 2))
    assert "parallel" in kinds(w.pool2d(1, 112, 112, 32, 2, 2))
    assert "parallel" not in kinds(w.softmax(4, 128))
    assert "parallel" in kinds(w.softmax(64, 128))


@pytest.mark.parametrize(("kernel", "width"), [(3, 3), (2, 1)])
def test_overlapping_windows_share_registers(kernel: int, width: int) -> None:
    """Windows of three, two apart, read rows and columns in common; windows of two do not."""
    sketch = generate_sketches(w.pool2d(1, 16, 16, 32, kernel, 2).dag, HARDWARE)[0]
    assert {len(knob.choices[0]) for knob in sketch.knobs} == {width}


@pytest.mark.parametrize(("order", "tiled"), [("ji", True), ("ij", False)])
def test_a_copy_that_transposes_is_tiled_along_what_it_reads(order: str, tiled: bool) -> None:
    axes = tuple(IterAxis(name, 40) for name in order)
    read = Read("x", (Axis("i"), Axis("j")), "float32")
    stages = (Stage("y", axes, read, "float32"),)
    dag = ComputeDAG((Tensor("x", (40, 40), "float32"),), stages, ("y",))
    (sketch,) = generate_sketches(dag, HARDWARE)
    assert (Tile("y", "j", (16,)) in sketch.steps) == tiled
