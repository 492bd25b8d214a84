"""Accumulators stay in registers: no allocator, no store but of the result."""

from __future__ import annotations

import numpy as np
import tvm

from ansor_lite import workloads as w
from ansor_lite.target import native
from schedules.dag import ComputeDAG
from schedules.hardware import Hardware
from schedules.lower import PIPELINE, lower
from schedules.nest import effective_steps
from schedules.sketch import Sketch
from search_space.sketch_generation import generate_sketches

HARDWARE = Hardware(threads=1)
ALLOCATOR = "AllocWorkspace"


def _assembly(dag: ComputeDAG, sketch: Sketch, vectors: int) -> str:
    """Of the candidate with that many accumulators."""
    knob = sketch.knobs[0]
    choice = next(i for i, c in enumerate(knob.choices) if np.prod(c) == vectors)
    row = np.zeros(len(sketch.knobs), np.int32)
    row[0] = choice
    lowered = lower(dag, effective_steps(sketch, row), HARDWARE)
    built = tvm.tirx.build(lowered.func, native(1).tvm(), pipeline=PIPELINE)
    return str(built.inspect_source("asm"))


def test_tiles_of_any_size_need_no_allocator() -> None:
    dag = w.pool2d(1, 32, 32, 64, 3, 1).dag
    sketch = generate_sketches(dag, HARDWARE)[-1]
    assert ALLOCATOR not in _assembly(dag, sketch, 4)
    assert ALLOCATOR not in _assembly(dag, sketch, 16)
