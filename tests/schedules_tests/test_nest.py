"""`nest` against the lowered program: loops, annotations, bytes and touched elements.

Few candidates here; ``benchmarks/nest_agreement.py`` compares 200 of every sketch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from brute_force import disagreements, enumerate_touched
from small_tasks import HARDWARE, ODD_TASKS, SMALL

from schedules.nest import all_effective_steps, effective_steps, follow
from schedules.sketch import closed
from search_space.sketch_generation import generate_sketches

CANDIDATES = 4


@pytest.mark.parametrize("name", SMALL)
def test_nest_agrees_with_the_lowered_program(name: str) -> None:
    rng = np.random.default_rng(0)
    for sketch in generate_sketches(SMALL[name](), HARDWARE):
        found = disagreements(sketch, sketch.random(CANDIDATES, rng), HARDWARE)
        assert not found, f"{sketch.name}: {found[0]}"


@pytest.mark.parametrize("extent", (1, 3, 7))
@pytest.mark.parametrize("name", ODD_TASKS)
def test_nest_agrees_on_odd_extents(name: str, extent: int) -> None:
    rng = np.random.default_rng(1)
    for sketch in generate_sketches(ODD_TASKS[name](extent), HARDWARE):
        found = disagreements(sketch, sketch.random(2, rng), HARDWARE)
        assert not found, f"{sketch.name}: {found[0]}"


def test_the_witness_notices_a_wrong_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that cannot fail proves nothing: shift one footprint, one extent, one size."""
    sketch = generate_sketches(SMALL["matmul"](), HARDWARE)[0]
    rows = sketch.random(1, np.random.default_rng(0))
    nest = follow(sketch, rows)
    last = nest.stages[-1]
    read = last.accesses[1]
    changes = (
        replace(last, accesses=(replace(read, touched=read.touched + 1), *last.accesses[1:])),
        replace(last, loops=tuple(replace(x, extent=x.extent + 1) for x in last.loops)),
        replace(last, loops=tuple(replace(x, annotation="serial") for x in last.loops)),
        replace(last, allocated_bytes=last.allocated_bytes + 4),
    )
    for change in changes:
        wrong = replace(nest, stages=(*nest.stages[:-1], change))
        monkeypatch.setattr("brute_force.follow", lambda *_, wrong=wrong: wrong)
        assert disagreements(sketch, rows, HARDWARE)


def test_enumeration_counts_the_fullest_iteration() -> None:
    i, j = np.arange(3).reshape(3, 1), np.arange(4).reshape(1, 4)
    assert enumerate_touched([i + j], [3, 4]) == [6, 4, 1]
    assert enumerate_touched([np.minimum(i * 2, 3)], [3, 4]) == [3, 1, 1]


@pytest.mark.parametrize("name", ("conv2d", "softmax", "batch_matmul_transposed"))
def test_effective_steps_are_the_same_program(name: str) -> None:
    """Clipped factors change no extent, and clipping them again changes nothing."""
    dag = SMALL[name]()
    for sketch in generate_sketches(dag, HARDWARE):
        rows = sketch.random(8, np.random.default_rng(2))
        nest = follow(sketch, rows)
        for n, steps in enumerate(all_effective_steps(sketch, rows)):
            assert steps == effective_steps(sketch, rows[n])
            again = closed(dag, steps)
            empty = np.zeros((1, 0), dtype=np.int32)
            assert effective_steps(again, empty[0]) == steps
            for one, many in zip(follow(again, empty).stages, nest.stages, strict=True):
                assert np.array_equal(one.extents[0], many.extents[n])


def test_a_batch_is_its_rows_one_by_one() -> None:
    sketch = generate_sketches(SMALL["conv2d_strided"](), HARDWARE)[0]
    rows = sketch.random(16, np.random.default_rng(3))
    whole = follow(sketch, rows)
    for n in range(len(rows)):
        for one, many in zip(follow(sketch, rows[n : n + 1]).stages, whole.stages, strict=True):
            assert np.array_equal(one.extents[0], many.extents[n])
            for a, b in zip(one.accesses, many.accesses, strict=True):
                assert np.array_equal(a.touched[0], b.touched[n])
                assert np.array_equal(a.lines[0], b.lines[n])
                assert np.array_equal(a.stride[0], b.stride[n])
