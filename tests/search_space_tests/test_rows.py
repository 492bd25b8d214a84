"""Stages without reuse: producers computed row by row, accumulators in registers."""

from __future__ import annotations

import numpy as np
import pytest
from small_tasks import SMALL

from ansor_lite import workloads as w
from schedules.hardware import Hardware
from schedules.nest import follow
from schedules.sketch import Sketch
from search_space.sketch_generation import generate_sketches

HARDWARE = Hardware(threads=2)


def _rows_of(sketch: Sketch) -> dict[str, int]:
    """Stage -> bytes allocated for it by a random candidate."""
    nest = follow(sketch, sketch.random(1, np.random.default_rng(0)))
    return {s.stage: int(s.allocated_bytes[0]) for s in nest.stages}


def test_fused_rows_keep_one_row_in_memory() -> None:
    sketches = generate_sketches(w.softmax(64, 128).dag, HARDWARE)
    fused = _rows_of(next(s for s in sketches if s.name.endswith("rows-fused")))
    apart = _rows_of(next(s for s in sketches if not s.name.endswith("rows-fused")))
    assert max(fused.values()) == 4 * 128
    assert max(apart.values()) == 4 * 64 * 128


def test_one_row_is_not_fused() -> None:
    """Nothing would be left for the other threads."""
    names = [s.name for s in generate_sketches(w.softmax(1, 4096).dag, HARDWARE)]
    assert not any("rows-fused" in name for name in names)


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
    def kinds(rows: int) -> set[str]:
        sketch = generate_sketches(w.pool2d(1, rows, rows, 32, 2, 2).dag, HARDWARE)[0]
        nest = follow(sketch, sketch.random(1, np.random.default_rng(0)))
        return {loop.annotation for s in nest.stages for loop in s.loops}

    assert "parallel" not in kinds(4)
    assert "parallel" in kinds(112)


@pytest.mark.parametrize(("kernel", "width"), [(3, 3), (2, 1)])
def test_overlapping_windows_share_registers(kernel: int, width: int) -> None:
    """Windows of three, two apart, read rows and columns in common; windows of two do not."""
    sketch = generate_sketches(w.pool2d(1, 16, 16, 32, kernel, 2).dag, HARDWARE)[0]
    assert {len(knob.choices[0]) for knob in sketch.knobs} == {width}
